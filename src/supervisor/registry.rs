//! The plugins that there are, in the order of their resources: for those who change them, and for those who only look.

use std::sync::Arc;

use tokio::sync::watch;

use crate::plugin::{PluginHandle, PluginSnapshot};

/// The plugins for those who change them. A clone follows the same ones.
#[derive(Clone, Debug)]
pub struct PluginRegistry(watch::Receiver<Arc<[PluginHandle]>>);

/// The plugins for those who only look: nothing can be changed through it. A clone follows the same ones.
#[derive(Clone, Debug)]
pub struct SnapshotSource(PluginRegistry);

impl PluginRegistry {
    pub(super) fn new(plugins: watch::Receiver<Arc<[PluginHandle]>>) -> Self {
        Self(plugins)
    }

    /// The plugins of this moment.
    pub fn all(&self) -> Arc<[PluginHandle]> {
        Arc::clone(&self.0.borrow())
    }

    /// The plugin of this resource.
    pub fn find(&self, resource: &str) -> Option<PluginHandle> {
        let plugins = self.0.borrow();
        let is_meant = |plugin: &&PluginHandle| plugin.offer().resource().name.as_str() == resource;
        plugins.iter().find(is_meant).cloned()
    }
}

impl SnapshotSource {
    pub(super) fn new(plugins: PluginRegistry) -> Self {
        Self(plugins)
    }

    /// Takes a snapshot of each plugin, without what single devices wait for.
    pub(crate) fn take(&self) -> Vec<PluginSnapshot> {
        self.0.all().iter().map(PluginHandle::snapshot).collect()
    }

    /// Takes a snapshot of each plugin, with what single devices wait for. There may be very many devices.
    pub(crate) fn take_with_waits(&self) -> Vec<PluginSnapshot> {
        let plugins = self.0.all();
        plugins
            .iter()
            .map(PluginHandle::snapshot_with_waits)
            .collect()
    }
}

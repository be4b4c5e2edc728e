//! Access to the current plugins, in the order of the configured resources.

use std::sync::Arc;

use tokio::sync::watch;

use crate::plugin::{PluginHandle, PluginSnapshot};

/// The current plugins, with the ability to change them.
#[derive(Clone, Debug)]
pub struct PluginRegistry(watch::Receiver<Arc<[PluginHandle]>>);

/// A read-only source of plugin snapshots. It has no method that changes a plugin.
#[derive(Clone, Debug)]
pub struct SnapshotSource(PluginRegistry);

impl PluginRegistry {
    pub(super) fn new(plugins: watch::Receiver<Arc<[PluginHandle]>>) -> Self {
        Self(plugins)
    }

    pub fn all(&self) -> Arc<[PluginHandle]> {
        Arc::clone(&self.0.borrow())
    }

    /// Returns the plugin of a resource; `None` if the resource is not configured.
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

    /// Takes a snapshot of each plugin without [`PluginSnapshot::waits`].
    pub(crate) fn take(&self) -> Vec<PluginSnapshot> {
        self.0.all().iter().map(PluginHandle::snapshot).collect()
    }

    /// Takes a snapshot of each plugin with [`PluginSnapshot::waits`], which visits every device.
    pub(crate) fn take_with_waits(&self) -> Vec<PluginSnapshot> {
        let plugins = self.0.all();
        plugins
            .iter()
            .map(PluginHandle::snapshot_with_waits)
            .collect()
    }
}

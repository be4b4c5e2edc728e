//! All that there is to see of the program, gathered at one moment.

pub mod http;
mod metrics;
mod readiness;
pub mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::reload::Reloads;
use crate::node::checkpoint::{CheckpointedResource, ListingStatus};
use crate::node::checkpoint_file::{CheckpointFile, LoadedCheckpoint};
use crate::plugin::PluginSnapshot;
use crate::supervisor::{SnapshotSource, Supervisor};

/// A snapshot comes without the checkpoint rather than late.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(1);

/// The kubelet writes its checkpoint at each list, so at once after it opened a stream: until then what it wrote
/// is of another stream. One that does not write where nothing changed is no reason to wait for ever.
const WRITES_WITHIN: Duration = Duration::from_secs(5);

/// What does not change while it runs.
#[derive(Debug)]
pub struct ProgramInfo {
    /// The namespace it runs in.
    pub namespace: String,
    pub node: String,
    /// The kubelet's device plugin directory.
    pub plugin_dir: PathBuf,
    /// The config file, if there is one.
    pub config_file: Option<PathBuf>,
    pub started: SystemTime,
}

/// What a snapshot is taken of. A clone observes the same.
#[derive(Clone, Debug)]
pub struct Observer {
    program: Arc<ProgramInfo>,
    plugins: SnapshotSource,
    checkpoint: CheckpointFile,
    /// How reading the config file again went.
    reloads: watch::Receiver<Reloads>,
    /// Is canceled when it stops.
    stop: CancellationToken,
}

#[derive(Debug)]
pub struct Snapshot {
    pub at: SystemTime,
    pub program: Arc<ProgramInfo>,
    /// The plugins in the order of their resources.
    pub plugins: Vec<PluginSnapshot>,
    /// The kubelet's word, or why there is none.
    pub checkpoint: Result<LoadedCheckpoint, String>,
    /// How reading the config file again went.
    pub reloads: Reloads,
    /// It is about to end.
    pub stopping: bool,
}

impl Observer {
    /// Observes the plugins of this supervisor.
    pub fn new(
        program: ProgramInfo,
        supervisor: &Supervisor,
        reloads: watch::Receiver<Reloads>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            program: Arc::new(program),
            plugins: supervisor.snapshots(),
            checkpoint: supervisor.checkpoint(),
            reloads,
            stop,
        }
    }

    /// Takes a snapshot without what single devices wait for.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        self.take(SnapshotSource::take).await
    }

    /// Takes a snapshot with what single devices wait for. There may be very many devices.
    pub async fn snapshot_with_waits(&self) -> Snapshot {
        self.take(SnapshotSource::take_with_waits).await
    }

    async fn take(&self, plugins: impl FnOnce(&SnapshotSource) -> Vec<PluginSnapshot>) -> Snapshot {
        let checkpoint = match timeout(CHECKPOINT_WITHIN, self.checkpoint.read()).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(_) => Err("the kubelet's checkpoint cannot be read: it takes too long".to_owned()),
        };
        Snapshot {
            at: SystemTime::now(),
            plugins: plugins(&self.plugins),
            program: Arc::clone(&self.program),
            checkpoint,
            reloads: self.reloads.borrow().clone(),
            stopping: self.stop.is_cancelled(),
        }
    }
}

impl Snapshot {
    /// What the kubelet wrote of this plugin's resource.
    pub fn known(&self, plugin: &PluginSnapshot) -> Option<&CheckpointedResource> {
        let written = self.checkpoint.as_ref().ok()?;
        written.checkpoint.get(plugin.name())
    }

    /// How many devices of this plugin's resource pods hold; `None` where the checkpoint cannot be read.
    pub fn held(&self, plugin: &PluginSnapshot) -> Option<usize> {
        self.checkpoint.as_ref().ok()?;
        Some(self.known(plugin).map_or(0, |known| known.held.len()))
    }

    /// What a plugin waits for until pods can have its devices; `None`: it is ready.
    pub(crate) fn waits_for(&self, plugin: &PluginSnapshot) -> Option<String> {
        let own = plugin.record.waits_for();
        own.or_else(|| self.kubelet_lacks(plugin).map(str::to_owned))
    }

    /// What of a registered plugin the kubelet did not write yet. Where its checkpoint cannot be read, the open
    /// stream is all there is to tell.
    fn kubelet_lacks(&self, plugin: &PluginSnapshot) -> Option<&'static str> {
        let written = self.checkpoint.as_ref().ok()?;
        let record = &plugin.record;
        let lately = self.at.duration_since(record.since).unwrap_or_default() < WRITES_WITHIN;
        if lately && record.checkpoint_before == Some(written.version) {
            return Some("waits for the kubelet to write its checkpoint");
        }
        let devices = plugin.offer.devices();
        match written.checkpoint.listing_status(plugin.name(), devices) {
            ListingStatus::Listed => None,
            ListingStatus::Lacking => Some("waits for the kubelet, whose checkpoint lacks it"),
            ListingStatus::OtherDevices => {
                Some("waits for the kubelet, whose checkpoint has another plugin's devices")
            }
        }
    }

    /// Whether pods can have this plugin's devices, and will for some time.
    pub(crate) fn has_ready(&self, plugin: &PluginSnapshot) -> bool {
        !self.stopping && self.waits_for(plugin).is_none()
    }

    /// Whether all are ready, and it does not stop.
    pub(crate) fn is_ready(&self) -> bool {
        !self.stopping && self.plugins.iter().all(|plugin| self.has_ready(plugin))
    }
}

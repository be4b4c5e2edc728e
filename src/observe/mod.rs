//! A snapshot of the daemon's state. Readiness, metrics and status are all made from it, so they cannot disagree.

pub mod http;
mod metrics;
mod readiness;
pub mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::reload::Reloads;
use crate::node::checkpoint::{CheckpointedResource, ListingStatus};
use crate::node::checkpoint_file::{CheckpointError, LoadedCheckpoint};
use crate::node::holders::Holders;
use crate::node::pod_resources::PodDevices;
use crate::plugin::PluginSnapshot;
use crate::supervisor::{SnapshotSource, Supervisor};
use crate::util::sanitize::sanitize;

/// A snapshot does without the checkpoint or the pod-resources API if it takes longer than this.
const KUBELET_TIMEOUT: Duration = Duration::from_secs(1);

/// The kubelet writes its checkpoint when it receives a device list, so right after it has opened a stream. An older
/// checkpoint describes an earlier stream. After this time an old checkpoint counts, since a kubelet may skip the write
/// if nothing changed.
const CHECKPOINT_WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Facts about the daemon that do not change while it runs.
#[derive(Debug)]
pub struct ProgramInfo {
    pub namespace: String,
    pub node: String,
    /// The kubelet's device plugin directory.
    pub plugin_dir: PathBuf,
    /// `None` if `CONFIG_FILE` is not set.
    pub config_file: Option<PathBuf>,
    pub started: SystemTime,
}

/// Takes snapshots of a running supervisor. Clones observe the same supervisor.
#[derive(Clone, Debug)]
pub struct Observer {
    program: Arc<ProgramInfo>,
    plugins: SnapshotSource,
    holders: Holders,
    reloads: watch::Receiver<Reloads>,
    /// Canceled when the daemon is asked to stop.
    stop: CancellationToken,
    /// Allows one response at a time to be made: see [`Observer::render`].
    rendering: Arc<Semaphore>,
}

#[derive(Debug)]
pub struct Snapshot {
    pub at: SystemTime,
    pub program: Arc<ProgramInfo>,
    /// In the order of the configuration.
    pub plugins: Vec<PluginSnapshot>,
    /// The kubelet's checkpoint, or why it cannot be read.
    pub checkpoint: Result<LoadedCheckpoint, CheckpointError>,
    /// The devices that running pods hold. `None` if the snapshot was taken without them, or if the kubelet's
    /// pod-resources API is not configured or did not answer.
    pub pod_devices: Option<PodDevices>,
    pub reloads: Reloads,
    /// Whether the daemon has been asked to stop.
    pub stopping: bool,
}

impl Observer {
    pub fn new(
        program: ProgramInfo,
        supervisor: &Supervisor,
        reloads: watch::Receiver<Reloads>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            program: Arc::new(program),
            plugins: supervisor.snapshots(),
            holders: supervisor.holders(),
            reloads,
            stop,
            rendering: Arc::new(Semaphore::new(1)),
        }
    }

    /// Makes a response on another thread, since it can be large. That takes much more memory than the response itself,
    /// so only one is made at a time.
    ///
    /// # Errors
    /// Returns an error if `render` panics.
    pub(crate) async fn render<T: Send + 'static>(
        &self,
        render: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let permit = Arc::clone(&self.rendering).acquire_owned().await;
        let rendering = move || {
            // Held by the blocking task, because it continues after its client has disconnected.
            let _permit = permit;
            render()
        };
        tokio::task::spawn_blocking(rendering).await
    }

    /// Takes a snapshot for readiness: without the devices that pods hold, and without the reasons why individual
    /// devices are still pending removal.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        let checkpoint = self.read_checkpoint().await;
        self.take(checkpoint, None, SnapshotSource::take)
    }

    /// Takes a snapshot with the devices that pods hold.
    pub(crate) async fn snapshot_with_holders(&self) -> Snapshot {
        let (checkpoint, held) = tokio::join!(self.read_checkpoint(), self.list_pod_devices());
        self.take(checkpoint, held, SnapshotSource::take)
    }

    /// Takes a snapshot with the devices that pods hold, and with the reason why each device that is pending removal is
    /// still listed. The cost grows with the number of devices.
    pub async fn snapshot_with_waits(&self) -> Snapshot {
        let (checkpoint, held) = tokio::join!(self.read_checkpoint(), self.list_pod_devices());
        self.take(checkpoint, held, SnapshotSource::take_with_waits)
    }

    async fn read_checkpoint(&self) -> Result<LoadedCheckpoint, CheckpointError> {
        match timeout(KUBELET_TIMEOUT, self.holders.checkpoint.read()).await {
            Ok(read) => read,
            Err(_) => Err(CheckpointError::Unreadable("timed out".to_owned())),
        }
    }

    async fn list_pod_devices(&self) -> Option<PodDevices> {
        let api = self.holders.pod_resources.as_ref()?;
        timeout(KUBELET_TIMEOUT, api.list_recent()).await.ok()?.ok()
    }

    fn take(
        &self,
        checkpoint: Result<LoadedCheckpoint, CheckpointError>,
        pod_devices: Option<PodDevices>,
        plugins: impl FnOnce(&SnapshotSource) -> Vec<PluginSnapshot>,
    ) -> Snapshot {
        Snapshot {
            at: SystemTime::now(),
            plugins: plugins(&self.plugins),
            program: Arc::clone(&self.program),
            checkpoint,
            pod_devices,
            reloads: self.reloads.borrow().clone(),
            stopping: self.stop.is_cancelled(),
        }
    }
}

impl Snapshot {
    /// What the checkpoint contains for this plugin's resource; `None` if nothing, or if it cannot be read.
    pub fn known(&self, plugin: &PluginSnapshot) -> Option<&CheckpointedResource> {
        let written = self.checkpoint.as_ref().ok()?;
        written.checkpoint.get(plugin.name())
    }

    /// How many devices of this plugin's resource pods hold, from the pod-resources API or else from the checkpoint.
    /// `None` if neither is available.
    pub fn held(&self, plugin: &PluginSnapshot) -> Option<usize> {
        if let Some(held) = &self.pod_devices {
            return Some(held.count(plugin.name()));
        }
        self.checkpoint.as_ref().ok()?;
        Some(self.known(plugin).map_or(0, |known| known.held.len()))
    }

    /// Why pods cannot get this plugin's devices yet; `None` if it is ready.
    pub(crate) fn waits_for(&self, plugin: &PluginSnapshot) -> Option<String> {
        let own = plugin.record.waits_for();
        own.or_else(|| self.checkpoint_wait(plugin))
    }

    /// Why the kubelet's checkpoint does not confirm a registered plugin. If the checkpoint cannot be read, the open
    /// stream alone makes the plugin ready.
    fn checkpoint_wait(&self, plugin: &PluginSnapshot) -> Option<String> {
        let written = self.checkpoint.as_ref().ok()?;
        let record = &plugin.record;
        let is_recent = record.age(Instant::now()) < CHECKPOINT_WRITE_TIMEOUT;
        if is_recent && record.checkpoint_before == Some(written.version) {
            return Some("waits for the kubelet to write its checkpoint".to_owned());
        }
        let devices = plugin.offer.devices();
        match written.checkpoint.listing_status(plugin.name(), devices) {
            ListingStatus::Listed | ListingStatus::NoneHealthy => None,
            ListingStatus::Lacking => Some(
                "waits for the kubelet: its checkpoint does not list this resource's devices"
                    .to_owned(),
            ),
            ListingStatus::OtherDevices(id) => Some(format!(
                "waits for another plugin of the resource to stop: the kubelet's checkpoint lists its devices, for example {}",
                sanitize(id)
            )),
        }
    }

    /// Whether the plugin is ready and the daemon is not stopping.
    pub(crate) fn is_plugin_ready(&self, plugin: &PluginSnapshot) -> bool {
        !self.stopping && self.waits_for(plugin).is_none()
    }

    /// Whether every plugin is ready and the daemon is not stopping.
    pub(crate) fn is_ready(&self) -> bool {
        !self.stopping
            && self
                .plugins
                .iter()
                .all(|plugin| self.is_plugin_ready(plugin))
    }
}

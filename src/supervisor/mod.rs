//! Runs one plugin per resource, each in a loop of its own, and one watch for all of them. Which resources
//! there are can change meanwhile.

mod checkpoint_probe;
mod registry;
mod remove_devices;
mod restart_loop;
mod run_memory;

pub use registry::{PluginRegistry, SnapshotSource};

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info};

use crate::config::DesiredPlugins;
use crate::config::reload::Configured;
use crate::fault::Delays;
use crate::model::resource_name::ResourceName;
use crate::model::socket_name::SocketName;
use crate::node::checkpoint_file::CheckpointFile;
use crate::node::holders::Holders;
use crate::node::plugin_dir::PluginDir;
use crate::node::pod_resources::PodResources;
use crate::node::watcher::{DirReplaced, KubeletSocket, KubeletWatcher};
use crate::offer::resource::Resource;
use crate::plugin::{PluginHandle, PluginInstance};

use run_memory::RunMemory;

/// How many instances connect and register at a time.
const CONCURRENT_REGISTRATIONS: usize = 4;

/// A registration that takes longer gives its turn away, so that a hanging one holds nobody up.
const REGISTRATION_PERMIT_TIMEOUT: Duration = Duration::from_millis(250);

/// Between two reads of the kubelet's checkpoint.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// A plugin stops within 4 s; one that does not is aborted.
const STOP_WITHIN: Duration = Duration::from_millis(4500);

/// All plugins of the process.
pub struct Supervisor {
    watcher: KubeletWatcher,
    configured: Configured,
    plugins: Plugins,
    probe_interval: Duration,
}

impl Supervisor {
    /// One plugin for each resource, in this plugin dir. Nothing is touched yet.
    pub fn new(desired: impl Into<DesiredPlugins>, plugin_dir: impl Into<PathBuf>) -> Self {
        let desired = desired.into();
        let dir = PluginDir::new(plugin_dir);
        let watcher = KubeletWatcher::new(dir.clone());
        let mut plugins = Plugins {
            holders: Holders {
                pod_resources: None,
                checkpoint: CheckpointFile::new(dir.path()),
            },
            dir,
            kubelet: watcher.subscribe(),
            registration_permits: Arc::new(Semaphore::new(CONCURRENT_REGISTRATIONS)),
            permit_timeout: REGISTRATION_PERMIT_TIMEOUT,
            delays: Arc::default(),
            stop: CancellationToken::new(),
            all: BTreeMap::new(),
            handles: watch::Sender::default(),
            stopping: Vec::new(),
            tasks: JoinSet::new(),
        };
        plugins.configure(&desired);
        Self {
            watcher,
            configured: Configured::new(desired.into()),
            plugins,
            probe_interval: PROBE_INTERVAL,
        }
    }

    /// Reads the kubelet's checkpoint at this interval: a plugin that is missing twice starts over.
    #[must_use]
    pub fn with_probe_interval(self, probe_interval: Duration) -> Self {
        Self {
            probe_interval,
            ..self
        }
    }

    /// Gives each registration this long before others may begin beside the few.
    #[must_use]
    pub fn with_registration_permit_timeout(mut self, timeout: Duration) -> Self {
        self.plugins.permit_timeout = timeout;
        self
    }

    /// Asks the pod-resources API at this socket which devices pods hold; without it, the checkpoint says that.
    #[must_use]
    pub fn with_pod_resources_socket(mut self, socket: Option<PathBuf>) -> Self {
        self.plugins.holders.pod_resources = socket.map(PodResources::new);
        self
    }

    /// Where other plugins are asked for.
    pub fn configured(&self) -> Configured {
        self.configured.clone()
    }

    /// The plugins, for those who change them.
    pub fn registry(&self) -> PluginRegistry {
        PluginRegistry::new(self.plugins.handles.subscribe())
    }

    /// The plugins, for those who only look.
    pub(crate) fn snapshots(&self) -> SnapshotSource {
        SnapshotSource::new(self.registry())
    }

    /// Follows the kubelet's socket. A value is sent at each event and poll of the plugin dir, also the same one again.
    pub(crate) fn kubelet_socket(&self) -> watch::Receiver<KubeletSocket> {
        self.plugins.kubelet.clone()
    }

    /// The kubelet's checkpoint, as everybody here reads it.
    pub fn checkpoint(&self) -> CheckpointFile {
        self.plugins.holders.checkpoint.clone()
    }

    /// Runs until `stop`, then stops every plugin; at most 5 s after `stop` it returns.
    ///
    /// # Errors
    /// When the plugin dir was replaced, so that nothing can be registered from here any more.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), DirReplaced> {
        let mut configured = self.configured.subscribe();
        let probing =
            checkpoint_probe::run(self.registry(), self.checkpoint(), self.probe_interval);
        // By itself: it may wait in line for the checkpoint while nobody here has time for it.
        let _probing = AbortOnDropHandle::new(tokio::spawn(probing));
        let watching = self.watcher.run();
        tokio::pin!(watching);
        self.plugins.configure(&configured.borrow_and_update());
        self.plugins.start_all(RunMemory::default);
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                replaced = &mut watching => break Err(replaced),
                // Never closed: we have a sender ourselves.
                Ok(()) = configured.changed() => {
                    let desired = Arc::clone(&configured.borrow_and_update());
                    self.plugins.remove_stopped();
                    self.plugins.configure(&desired);
                    // One that comes by a reload may have been here a moment ago.
                    self.plugins.start_all(RunMemory::after_another_plugin);
                }
            }
        };
        self.plugins.stop_all().await;
        ended
    }
}

/// All plugins, and what each of them needs.
struct Plugins {
    dir: PluginDir,
    holders: Holders,
    kubelet: watch::Receiver<KubeletSocket>,
    registration_permits: Arc<Semaphore>,
    permit_timeout: Duration,
    delays: Arc<Mutex<Delays>>,
    stop: CancellationToken,
    all: BTreeMap<ResourceName, SupervisedPlugin>,
    /// Those of `all`, in the order of their resources.
    handles: watch::Sender<Arc<[PluginHandle]>>,
    /// Those whose resource is no longer configured.
    stopping: Vec<RunningPlugin>,
    tasks: JoinSet<()>,
}

struct SupervisedPlugin {
    handle: PluginHandle,
    /// `None`: it has not been started yet.
    running: Option<RunningPlugin>,
}

/// A plugin that runs.
struct RunningPlugin {
    /// Its socket, at the start.
    socket: SocketName,
    /// Stops it.
    stop: CancellationToken,
    /// Is canceled when it has stopped.
    stopped: CancellationToken,
}

impl Plugins {
    /// Makes, changes and stops plugins until there is one for each of these resources. A plugin whose resource did not
    /// change is not touched.
    fn configure(&mut self, desired: &DesiredPlugins) {
        self.stop_unconfigured(&desired.resources);
        let handles = desired.resources.iter().map(|resource| {
            let new = || SupervisedPlugin {
                handle: PluginHandle::new(resource.clone(), Arc::clone(&self.delays)),
                running: None,
            };
            let plugin = self.all.entry(resource.name.clone()).or_insert_with(new);
            let faults = desired.faults.of(&resource.name);
            plugin.handle.configure(resource, faults);
            plugin.handle.clone()
        });
        let handles: Vec<PluginHandle> = handles.collect();
        self.handles.send_replace(handles.into());
    }

    /// Stops the plugins of other resources.
    fn stop_unconfigured(&mut self, resources: &[Resource]) {
        let configured: BTreeSet<&ResourceName> = resources.iter().map(|r| &r.name).collect();
        self.all.retain(|name, plugin| {
            if configured.contains(name) {
                return true;
            }
            info!(resource = %name, "no longer configured: stopping");
            let running = plugin.running.take();
            self.stopping
                .extend(running.inspect(|running| running.stop.cancel()));
            false
        });
    }

    /// Starts the plugins that do not run yet, each with such a memory.
    fn start_all(&mut self, memory: fn() -> RunMemory) {
        if self.all.is_empty() {
            info!("no resources: nothing to register");
        }
        for plugin in self.all.values_mut().filter(|p| p.running.is_none()) {
            let running = RunningPlugin {
                socket: plugin.handle.offer().resource().socket.clone(),
                stop: self.stop.child_token(),
                stopped: CancellationToken::new(),
            };
            let has_same_socket = |stopping: &&RunningPlugin| stopping.socket == running.socket;
            let predecessors = self.stopping.iter().filter(has_same_socket);
            let predecessors = predecessors
                .map(|stopping| stopping.stopped.clone())
                .collect();
            let instance = PluginInstance {
                handle: plugin.handle.clone(),
                dir: self.dir.clone(),
                holders: self.holders.clone(),
                kubelet: self.kubelet.clone(),
                registration_permits: Arc::clone(&self.registration_permits),
                permit_timeout: self.permit_timeout,
            };
            self.tasks.spawn(run_plugin(
                instance,
                memory(),
                predecessors,
                running.stop.clone(),
                running.stopped.clone().drop_guard(),
            ));
            plugin.running = Some(running);
        }
    }

    /// Forgets what has stopped.
    fn remove_stopped(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                error!(%error, "a plugin's task failed");
            }
        }
        self.stopping
            .retain(|plugin| !plugin.stopped.is_cancelled());
    }

    async fn stop_all(&mut self) {
        self.stop.cancel();
        let all_stopped = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_WITHIN, all_stopped).await.is_err() {
            error!("some plugins did not stop in time: aborting them");
            self.tasks.shutdown().await;
        }
    }
}

/// Runs one plugin until `stop`, once those that still have its socket have stopped.
async fn run_plugin(
    plugin: PluginInstance,
    memory: RunMemory,
    predecessors: Vec<CancellationToken>,
    stop: CancellationToken,
    _stopped: DropGuard,
) {
    for stopped in predecessors {
        stopped.cancelled().await;
    }
    let (handle, holders) = (plugin.handle.clone(), plugin.holders.clone());
    tokio::select! {
        () = restart_loop::run(plugin, memory, stop) => {}
        never = remove_devices::run(&handle, &holders) => match never {},
        never = handle.flap() => match never {},
    }
}

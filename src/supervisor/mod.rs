//! Runs one plugin per resource, each in its own restart loop, and starts and stops plugins when the configuration
//! changes. All plugins share one watch of the device plugin directory.

mod listing_check;
mod registry;
mod remove_devices;
mod restart_loop;
mod run_memory;
mod takeover;

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

/// How many plugins connect and register at a time.
const CONCURRENT_REGISTRATIONS: usize = 4;

/// A registration that takes longer releases its permit, so that it does not delay other resources.
const REGISTRATION_PERMIT_TIMEOUT: Duration = Duration::from_millis(250);

/// The interval between reads of what the kubelet lists.
const PROBE_INTERVAL: Duration = Duration::from_secs(30);

/// A plugin stops within 4 s unless there is a bug; after this time it is aborted.
const STOP_TIMEOUT: Duration = Duration::from_millis(4500);

/// Runs the plugins of all configured resources.
pub struct Supervisor {
    watcher: KubeletWatcher,
    configured: Configured,
    plugins: Plugins,
    probe_interval: Duration,
}

impl Supervisor {
    /// Creates one plugin per resource in this device plugin directory. No socket is created before
    /// [`Supervisor::run`].
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

    /// Sets how often the kubelet's lists are read. A plugin restarts if two reads in a row lack its devices.
    #[must_use]
    pub fn with_probe_interval(self, probe_interval: Duration) -> Self {
        Self {
            probe_interval,
            ..self
        }
    }

    /// Sets how long a registration may take before it releases its permit for another plugin.
    #[must_use]
    pub fn with_registration_permit_timeout(mut self, timeout: Duration) -> Self {
        self.plugins.permit_timeout = timeout;
        self
    }

    /// Sets the socket of the kubelet's pod-resources API. Calls make the kubelet forget deleted pods, and show which
    /// devices pods hold if the checkpoint cannot be read. `None`: only the checkpoint is used.
    #[must_use]
    pub fn with_pod_resources_socket(mut self, socket: Option<PathBuf>) -> Self {
        self.plugins.holders.pod_resources = socket.map(PodResources::new);
        self
    }

    /// Returns the sender of the configuration. The supervisor reconciles the running plugins with each new value.
    pub fn configured(&self) -> Configured {
        self.configured.clone()
    }

    /// Returns the plugins, with the ability to change them.
    pub fn registry(&self) -> PluginRegistry {
        PluginRegistry::new(self.plugins.handles.subscribe())
    }

    /// Returns a read-only source of plugin snapshots.
    pub(crate) fn snapshots(&self) -> SnapshotSource {
        SnapshotSource::new(self.registry())
    }

    /// Returns a receiver of the identity of kubelet.sock. A value is sent at each event and poll of the plugin
    /// directory, even if it did not change.
    pub(crate) fn kubelet_socket(&self) -> watch::Receiver<KubeletSocket> {
        self.plugins.kubelet.clone()
    }

    /// Returns the kubelet's checkpoint and its pod-resources API, which all plugins share.
    pub(crate) fn holders(&self) -> Holders {
        self.plugins.holders.clone()
    }

    /// Runs all plugins until `stop` is canceled, then stops them and returns within 5 s.
    ///
    /// # Errors
    /// Returns an error if the device plugin directory was replaced, after which no plugin can register.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), DirReplaced> {
        let mut configured = self.configured.subscribe();
        let (registry, interval) = (self.registry(), self.probe_interval);
        let holders = self.holders();
        let writes = self.watcher.checkpoint_writes();
        // Spawned as its own task, because it may wait for other readers of the checkpoint while this loop is busy.
        let _probing = AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::select! {
                never = listing_check::run(&registry, &holders, interval) => match never {},
                never = listing_check::follow(&registry, &holders.checkpoint, writes) => match never {},
            }
        }));
        let watching = self.watcher.run();
        tokio::pin!(watching);
        self.plugins.configure(&configured.borrow_and_update());
        self.plugins.start_all(RunMemory::default);
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                replaced = &mut watching => break Err(replaced),
                // Cannot fail: `self.configured` keeps the sender alive.
                Ok(()) = configured.changed() => {
                    let desired = Arc::clone(&configured.borrow_and_update());
                    self.plugins.remove_stopped();
                    self.plugins.configure(&desired);
                    // A resource that a reload adds may have been removed by a reload just before.
                    self.plugins.start_all(RunMemory::after_another_plugin);
                }
            }
        };
        self.plugins.stop_all().await;
        ended
    }
}

/// All plugins, and what they share.
struct Plugins {
    dir: PluginDir,
    holders: Holders,
    kubelet: watch::Receiver<KubeletSocket>,
    registration_permits: Arc<Semaphore>,
    permit_timeout: Duration,
    delays: Arc<Mutex<Delays>>,
    stop: CancellationToken,
    all: BTreeMap<ResourceName, SupervisedPlugin>,
    /// The handles of the plugins in `all`, in the order of the configured resources.
    handles: watch::Sender<Arc<[PluginHandle]>>,
    /// Plugins whose resource is no longer configured.
    stopping: Vec<RunningPlugin>,
    tasks: JoinSet<()>,
}

struct SupervisedPlugin {
    handle: PluginHandle,
    /// `None` before the plugin is started.
    running: Option<RunningPlugin>,
}

/// The task of a plugin that was started.
struct RunningPlugin {
    /// The socket that the plugin had when it was started.
    socket: SocketName,
    /// Cancel this to stop the plugin.
    stop: CancellationToken,
    /// Canceled when the plugin has stopped.
    stopped: CancellationToken,
}

impl Plugins {
    /// Creates, changes and stops plugins to match the configuration. New plugins are started by [`Self::start_all`].
    /// A plugin whose resource did not change is not affected.
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

    /// Stops the plugins of all resources except these.
    fn stop_unconfigured(&mut self, resources: &[Resource]) {
        let configured: BTreeSet<&ResourceName> = resources.iter().map(|r| &r.name).collect();
        self.all.retain(|name, plugin| {
            if configured.contains(name) {
                return true;
            }
            info!(resource = %name, "the resource is no longer configured; stopping its plugin");
            let running = plugin.running.take();
            self.stopping
                .extend(running.inspect(|running| running.stop.cancel()));
            false
        });
    }

    /// Starts the plugins that are not running, each with a new memory.
    fn start_all(&mut self, memory: fn() -> RunMemory) {
        if self.all.is_empty() {
            info!("no resources are configured; nothing to register");
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

    /// Drops the tasks and entries of plugins that have stopped.
    fn remove_stopped(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                error!(%error, "the task of a plugin failed");
            }
        }
        self.stopping
            .retain(|plugin| !plugin.stopped.is_cancelled());
    }

    async fn stop_all(&mut self) {
        self.stop.cancel();
        let all_stopped = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_TIMEOUT, all_stopped).await.is_err() {
            error!("some plugins did not stop in time; aborting them");
            self.tasks.shutdown().await;
        }
    }
}

/// Runs one plugin until `stop` is canceled. It first waits until all `predecessors` have stopped, because they use the
/// same socket.
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
        never = takeover::run(&handle, &holders) => match never {},
        never = handle.flap() => match never {},
    }
}

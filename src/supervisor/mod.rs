//! Runs one plugin per resource, each in a loop of its own, and one watch for all of them. Which resources
//! there are can change meanwhile.

mod checkpoint_probe;
mod remove_devices;
mod restart_loop;
mod run_memory;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info};

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
const TURNS: usize = 4;

/// A registration that takes longer gives its turn away, so that a hanging one holds nobody up.
const TURN_LENGTH: Duration = Duration::from_millis(250);

/// Between two reads of the kubelet's checkpoint.
const PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// A plugin stops within 4 s; one that does not is aborted.
const STOP_WITHIN: Duration = Duration::from_millis(4500);

/// The plugins that there are, in the order of their resources.
pub(crate) type Present = watch::Receiver<Arc<[PluginHandle]>>;

/// All plugins of the process.
pub struct Supervisor {
    watcher: KubeletWatcher,
    configured: Configured,
    plugins: Plugins,
    probe_interval: Duration,
}

impl Supervisor {
    /// One plugin for each resource, in this plugin dir. Nothing is touched yet.
    pub fn new(resources: Vec<Resource>, plugin_dir: impl Into<PathBuf>) -> Self {
        let dir = PluginDir::new(plugin_dir);
        let watcher = KubeletWatcher::new(dir.clone());
        let mut plugins = Plugins {
            handles: BTreeMap::new(),
            present: watch::Sender::default(),
            holders: Holders {
                pod_resources: None,
                checkpoint: CheckpointFile::new(dir.path()),
            },
            dir,
            kubelet: watcher.subscribe(),
            turns: Arc::new(Semaphore::new(TURNS)),
            turn_length: TURN_LENGTH,
            delays: Arc::default(),
            stop: CancellationToken::new(),
            running: BTreeMap::new(),
            stopping: Vec::new(),
            tasks: JoinSet::new(),
            started: false,
        };
        let present: Vec<PluginHandle> = resources.iter().map(|r| plugins.handle(r)).collect();
        plugins.present.send_replace(present.into());
        Self {
            watcher,
            configured: Configured::new(resources.into()),
            plugins,
            probe_interval: PROBE_INTERVAL,
        }
    }

    /// Reads the kubelet's checkpoint at this interval: a plugin that is missing twice starts over.
    #[must_use]
    pub fn probing_every(self, probe_interval: Duration) -> Self {
        Self {
            probe_interval,
            ..self
        }
    }

    /// Gives each registration this long before others may begin beside the few.
    #[must_use]
    pub fn with_turns_of(mut self, length: Duration) -> Self {
        self.plugins.turn_length = length;
        self
    }

    /// Asks the pod-resources API at this socket which devices pods hold; without it, the checkpoint says that.
    #[must_use]
    pub fn asking_for_pod_resources(mut self, socket: Option<PathBuf>) -> Self {
        self.plugins.holders.pod_resources = socket.map(PodResources::new);
        self
    }

    /// Where other resources are sent to.
    pub fn configured(&self) -> Configured {
        self.configured.clone()
    }

    /// Follows which plugins there are.
    pub fn present(&self) -> Present {
        self.plugins.present.subscribe()
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
        let probing = checkpoint_probe::run(self.present(), self.checkpoint(), self.probe_interval);
        // By itself: it may wait in line for the checkpoint while nobody here has time for it.
        let _probing = AbortOnDropHandle::new(tokio::spawn(probing));
        let watching = self.watcher.run();
        tokio::pin!(watching);
        let ended = loop {
            let resources = Arc::clone(&configured.borrow_and_update());
            self.plugins.reconcile(&resources);
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                replaced = &mut watching => break Err(replaced),
                // Never closed: we have a sender ourselves.
                Ok(()) = configured.changed() => {}
            }
        };
        self.plugins.stop().await;
        ended
    }
}

/// The plugins that run, and what each of them needs.
struct Plugins {
    dir: PluginDir,
    holders: Holders,
    kubelet: watch::Receiver<KubeletSocket>,
    turns: Arc<Semaphore>,
    turn_length: Duration,
    delays: Arc<Mutex<Delays>>,
    stop: CancellationToken,
    handles: BTreeMap<ResourceName, PluginHandle>,
    present: watch::Sender<Arc<[PluginHandle]>>,
    running: BTreeMap<ResourceName, Running>,
    /// Those that are stopping.
    stopping: Vec<Running>,
    tasks: JoinSet<()>,
    /// Whether those of the start are started.
    started: bool,
}

/// A plugin that runs.
struct Running {
    /// Its socket, at the start.
    socket: SocketName,
    /// Stops it.
    stop: CancellationToken,
    /// Is canceled when it has stopped.
    stopped: CancellationToken,
}

impl Plugins {
    /// Starts, changes and stops plugins until there is one for each of these resources. A plugin whose resource did not
    /// change is not touched.
    fn reconcile(&mut self, resources: &[Resource]) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                error!(%error, "a plugin's task failed");
            }
        }
        self.stopping
            .retain(|plugin| !plugin.stopped.is_cancelled());
        if resources.is_empty() {
            info!("no resources: nothing to register");
        }
        self.end_all_but(resources);
        let present: Vec<PluginHandle> = resources.iter().map(|r| self.handle(r)).collect();
        for (resource, handle) in std::iter::zip(resources, &present) {
            handle.reconfigure(resource);
            if !self.running.contains_key(&resource.name) {
                self.start(resource, handle.clone());
            }
        }
        self.present.send_replace(present.into());
        self.started = true;
    }

    /// The handle that there is for this resource, or a new one.
    fn handle(&mut self, resource: &Resource) -> PluginHandle {
        let known = self.handles.entry(resource.name.clone());
        known
            .or_insert_with(|| PluginHandle::new(resource.clone(), Arc::clone(&self.delays)))
            .clone()
    }

    /// Stops the plugins of other resources.
    fn end_all_but(&mut self, resources: &[Resource]) {
        let stays = |name: &ResourceName| resources.iter().any(|resource| resource.name == *name);
        self.handles.retain(|name, _| stays(name));
        for (name, plugin) in std::mem::take(&mut self.running) {
            if stays(&name) {
                self.running.insert(name, plugin);
            } else {
                info!(resource = %name, "no longer configured: stopping");
                plugin.stop.cancel();
                self.stopping.push(plugin);
            }
        }
    }

    /// Starts a plugin, once those that still have its socket have stopped.
    fn start(&mut self, resource: &Resource, handle: PluginHandle) {
        let before = self
            .stopping
            .iter()
            .filter(|plugin| plugin.socket == resource.socket);
        let before: Vec<CancellationToken> = before.map(|plugin| plugin.stopped.clone()).collect();
        let plugin = PluginInstance {
            handle: handle.clone(),
            dir: self.dir.clone(),
            holders: self.holders.clone(),
            kubelet: self.kubelet.clone(),
            turns: Arc::clone(&self.turns),
            turn_length: self.turn_length,
        };
        let running = Running {
            socket: resource.socket.clone(),
            stop: self.stop.child_token(),
            stopped: CancellationToken::new(),
        };
        let stop = running.stop.clone();
        let stopped = running.stopped.clone().drop_guard();
        // One that comes by a reload may have been here a moment ago.
        let memory = if self.started {
            RunMemory::of_a_successor()
        } else {
            RunMemory::default()
        };
        let holders = self.holders.clone();
        self.tasks.spawn(async move {
            let _stopped = stopped;
            for stopped in before {
                stopped.cancelled().await;
            }
            tokio::select! {
                () = restart_loop::run(plugin, memory, stop) => {}
                never = remove_devices::run(&handle, &holders) => match never {},
                never = handle.flap() => match never {},
            }
        });
        self.running.insert(resource.name.clone(), running);
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        let all_stopped = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(STOP_WITHIN, all_stopped).await.is_err() {
            error!("some plugins did not stop in time: aborting them");
            self.tasks.shutdown().await;
        }
    }
}

//! The simulated kubelet: start, stop, restart, and the methods to observe and control it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;
use tracing::warn;

use simple_device_plugin::model::socket_name::KUBELET_SOCKET;
use simple_device_plugin::net::own_socket::has_listener;

use crate::checkpoint::{self, CheckpointContents};
use crate::crash::Crash;
use crate::device_manager::{Assignment, DeviceManager, NodeResources};
use crate::event::Event;
use crate::plugin_client::PluginClient;
use crate::pod::{Container, Pod};
use crate::settings::{KubeletSettings, RegistrationMode};
use crate::state::KubeletState;

/// How long [`Kubelet::stop`] waits for the kubelet's tasks to end after their connections are closed.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running kubelet. Its socket file stays on disk when it is stopped or dropped, as with a real kubelet.
#[derive(Debug)]
pub struct Kubelet {
    pub(crate) state: Arc<KubeletState>,
    /// Serializes admissions: the kubelet admits one pod at a time.
    pub(crate) admission: tokio::sync::Mutex<()>,
}

impl Kubelet {
    /// Reads the checkpoint, removes every socket in the device plugin directory, and listens on `kubelet.sock`. Every
    /// pod in the checkpoint counts as running. If the checkpoint cannot be read, the kubelet logs a warning and starts
    /// without it. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created or read, if another kubelet serves it, or if a socket cannot
    /// be bound.
    pub fn start(settings: KubeletSettings) -> io::Result<Self> {
        Self::start_with(settings, |in_checkpoint| in_checkpoint)
    }

    /// Starts like [`Kubelet::start`], but only the pods with these names are running. A real kubelet gets its pods from
    /// the API server, because its checkpoint may contain deleted pods.
    ///
    /// # Errors
    /// Returns the same errors as [`Kubelet::start`].
    pub fn start_with_pods(settings: KubeletSettings, names: BTreeSet<String>) -> io::Result<Self> {
        Self::start_with(settings, |mut in_checkpoint| {
            let pods = names.into_iter().map(|name| {
                let pod = in_checkpoint.remove(&name);
                let without_devices = || Pod {
                    name: name.clone(),
                    containers: Vec::new(),
                };
                (name.clone(), pod.unwrap_or_else(without_devices))
            });
            pods.collect()
        })
    }

    /// Starts with the running pods that `running` returns for the pods of the checkpoint.
    fn start_with(
        settings: KubeletSettings,
        running: impl FnOnce(BTreeMap<String, Pod>) -> BTreeMap<String, Pod>,
    ) -> io::Result<Self> {
        std::fs::create_dir_all(&settings.dir)?;
        let socket = settings.dir.join(KUBELET_SOCKET);
        if has_listener(&socket)? {
            let taken = "another kubelet serves this directory, or its kubelet.sock may not be used; choose another directory";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
        }
        let (manager, in_checkpoint) = restore(&settings);
        remove_sockets(&settings.dir)?;
        let listener = UnixListener::bind(&socket).map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", socket.display()))
        })?;
        let state = KubeletState::new(settings, manager, running(in_checkpoint));
        let state = Arc::new(state);
        Arc::clone(&state).serve_registration(listener);
        Arc::clone(&state).spawn_node_updates();
        Arc::clone(&state).spawn_checkpoint_writer();
        Arc::clone(&state).spawn_readmission();
        let pod_resources_socket = state.settings.pod_resources_socket();
        let served = Arc::clone(&state).serve_pod_resources(&pod_resources_socket);
        if let Err(error) = served {
            state.shut_down();
            return Err(error);
        }
        Ok(Self {
            state,
            admission: tokio::sync::Mutex::new(()),
        })
    }

    /// Closes every connection and leaves the socket file on disk, as the exit of a kubelet process does.
    pub async fn stop(&self) {
        self.state.shut_down();
        self.state.tasks.close();
        let ended = timeout(SHUTDOWN_TIMEOUT, self.state.tasks.wait()).await;
        if ended.is_err() {
            warn!("a task is still running after the kubelet stopped");
        }
        self.state.save_if_outdated();
    }

    /// Stops, and starts again with the same settings, the same running pods and the assignments of the checkpoint. The
    /// Node object stays as it is until its next update.
    ///
    /// # Errors
    /// Returns the same errors as [`Kubelet::start`].
    pub async fn restart(&self) -> io::Result<Self> {
        let settings = self.state.settings.clone();
        let running = self.state.pods().running.clone();
        let node = self.node().borrow().clone();
        self.stop().await;
        let kubelet = Self::start_with(settings, |_| running)?;
        if !kubelet.state.settings.node_status_period.is_zero() {
            kubelet.state.node.send_replace(node);
        }
        Ok(kubelet)
    }

    /// Returns a receiver of the Node object's extended resources: see [`KubeletSettings::node_status_period`].
    pub fn node(&self) -> watch::Receiver<NodeResources> {
        self.state.node.subscribe()
    }

    /// Returns a receiver of the number of valid calls of Register since the start, by resource.
    pub fn registrations(&self) -> watch::Receiver<BTreeMap<String, u64>> {
        self.state.registrations.subscribe()
    }

    /// Returns a receiver of all events that are emitted after this call.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.state.events.subscribe()
    }

    /// Returns a receiver whose value is set when a plugin makes the kubelet crash. All connections are then closed, as
    /// after the crash of a process.
    pub fn crashed(&self) -> watch::Receiver<Option<Crash>> {
        self.state.crash.subscribe()
    }

    /// Sets how Register is answered for this resource, including calls in flight.
    pub fn set_registration_mode(&self, resource: &str, mode: RegistrationMode) {
        self.state.registration_modes.send_modify(|modes| {
            modes.insert(resource.to_owned(), mode);
        });
    }

    /// Returns whether the pod is admitted and not deleted, even if it holds no device.
    pub fn has_pod(&self, name: &str) -> bool {
        self.state.pods().running.contains_key(name)
    }

    /// Returns the device assignments of all running pods.
    pub fn all_assignments(&self) -> Vec<Assignment> {
        let pods = self.state.pods();
        let manager = self.state.manager();
        let assignments = manager.assignments().iter();
        assignments
            .filter(|assignment| pods.running.contains_key(&assignment.pod))
            .cloned()
            .collect()
    }

    /// Returns the device assignments of a pod, or nothing if the pod is not running.
    pub fn assignments(&self, pod: &str) -> Vec<Assignment> {
        let mut assignments = self.all_assignments();
        assignments.retain(|assignment| assignment.pod == pod);
        assignments
    }

    /// Closes the connection to the resource's plugin, which keeps running and may register again. Returns false if no
    /// plugin of the resource is connected.
    pub fn disconnect_plugin(&self, resource: &str) -> bool {
        match self.state.clients().get(resource) {
            Some(client) => {
                client.close();
                true
            }
            None => false,
        }
    }

    /// Simulates that the API server has sent the pods of this node: see [`KubeletSettings::pods_known`].
    pub fn set_pods_known(&self) {
        self.state.pods_known.send_replace(true);
    }

    /// Deletes a pod. As in a real kubelet, its devices are freed when the next pod with devices is admitted or when
    /// the pod-resources API is called. The checkpoint contains the pod until the next write after that.
    pub fn delete(&self, pod: &str) {
        self.state.pods().running.remove(pod);
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.state.shut_down();
    }
}

/// Restores the device manager from the checkpoint. Also returns the pods in the checkpoint, with the containers that
/// hold devices. The checkpoint does not say of what kind they are, so they count as app containers.
fn restore(
    settings: &KubeletSettings,
) -> (DeviceManager<Arc<PluginClient>>, BTreeMap<String, Pod>) {
    let checkpoint = checkpoint::read(&settings.dir).unwrap_or_else(|error| {
        warn!(%error, "cannot read the checkpoint, starting without it");
        CheckpointContents::default()
    });
    let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
    for held in &checkpoint.assignments {
        let pod = pods.entry(held.pod.clone()).or_insert_with(|| Pod {
            name: held.pod.clone(),
            containers: Vec::new(),
        });
        let request = (held.resource.clone(), held.ids().len());
        match pod.containers.iter_mut().find(|c| c.name == held.container) {
            Some(container) => container.requests.extend([request]),
            None => pod
                .containers
                .push(Container::app(&held.container, [request])),
        }
    }
    let manager = DeviceManager::from_checkpoint(
        settings.endpoint_stop_grace_period,
        checkpoint.registered,
        checkpoint.assignments,
        Instant::now(),
    );
    (manager, pods)
}

/// Removes every socket in the directory; other files and directories stay.
pub(crate) fn remove_sockets(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_socket() {
            continue;
        }
        match std::fs::remove_file(entry.path()) {
            // A plugin that stops at the same time removes its own socket.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

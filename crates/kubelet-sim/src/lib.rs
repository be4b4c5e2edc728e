//! An embedded kubelet: the device manager of a real one, with its traps, for the demo, the tests and
//! the benchmark. It keeps the structure of the original (`pkg/kubelet/cm/devicemanager`, 1.36),
//! because its traps come from that structure.

mod settings;
mod event;
mod crash;
mod device_manager;
pub mod checkpoint;
mod plugin_client;
mod pod_resources;
mod state;
mod authority;
mod registration;

pub use crash::Crash;
pub use device_manager::{AdmissionError, Assignment, NodeResources, Quantities};
pub use event::{DeviceChange, DeviceState, Event, EventKind};
pub use settings::{Behavior, KubeletSettings, RegistrationMode, TopologyPolicy};

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tracing::warn;

use simple_device_plugin::api::PreferenceQuestion;
use simple_device_plugin::api::v1beta1::registration_server::RegistrationServer;
use simple_device_plugin::model::socket_name::KUBELET_SOCKET;
use simple_device_plugin::net::connections::{Peers, incoming};
use simple_device_plugin::net::own_socket::answers;

use authority::proxy_as_localhost;
use device_manager::DeviceManager;
use registration::RegistrationService;
use state::{KubeletState, describe_status};

/// Plugins come with one connection each. A real kubelet knows no bound, but runs out of descriptors.
const CONNECTIONS_MAX: usize = 1024;

/// Events that wait for whoever is slow to read; of those before them, only how many they were.
const EVENTS_MAX: usize = 4096;

/// Each ends at a word, the connections when they are cut.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// A pod of one container, bound to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name, unique on the node.
    pub name: String,
    /// How many devices of each resource its container asks for.
    pub requests: BTreeMap<String, usize>,
}

/// A running kubelet. Dropped or stopped, it leaves its socket behind, as a real one does.
#[derive(Debug)]
pub struct Kubelet {
    state: Arc<KubeletState>,
    /// The kubelet admits one pod at a time.
    admission: tokio::sync::Mutex<()>,
}

impl Kubelet {
    /// Reads the checkpoint, removes every socket in the directory, and listens. The pods of the checkpoint are
    /// taken for running. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the directory or the socket cannot be had, or another kubelet serves it.
    pub fn start(settings: KubeletSettings) -> io::Result<Self> {
        Self::start_with(settings, None)
    }

    /// Starts as [`Kubelet::start`] with these pods running, whatever the checkpoint says: as the API server knows them.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub fn start_with_pods(settings: KubeletSettings, pods: BTreeSet<String>) -> io::Result<Self> {
        Self::start_with(settings, Some(pods))
    }

    fn start_with(settings: KubeletSettings, pods: Option<BTreeSet<String>>) -> io::Result<Self> {
        std::fs::create_dir_all(&settings.dir)?;
        let socket = settings.dir.join(KUBELET_SOCKET);
        if answers(&socket)? {
            let taken = "another kubelet serves this directory";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, taken));
        }
        let (registered, assignments) = checkpoint::read(&settings.dir).unwrap_or_else(|error| {
            warn!(%error, "the checkpoint cannot be read: starting without");
            Default::default()
        });
        let of_checkpoint = || assignments.iter().map(|a| a.pod.clone()).collect();
        let pods = pods.unwrap_or_else(of_checkpoint);
        let now = Instant::now();
        let mut manager = DeviceManager::from_checkpoint(
            settings.endpoint_stop_grace_period,
            registered,
            assignments,
            now,
        );
        let node = manager.node_resources(now);
        remove_sockets(&settings.dir)?;
        let listener = UnixListener::bind(&socket);
        let listener = listener.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", socket.display()))
        })?;
        let state = Arc::new(KubeletState {
            manager: Mutex::new(manager),
            pods: Mutex::new(pods),
            pods_known: AtomicBool::new(settings.pods_known),
            clients: Mutex::default(),
            leaked: Mutex::default(),
            node: watch::Sender::new(node),
            registrations: watch::Sender::default(),
            events: broadcast::Sender::new(EVENTS_MAX),
            registration_modes: watch::Sender::default(),
            readmitted: Mutex::default(),
            crash: watch::Sender::default(),
            endpoint_stopped: Notify::new(),
            checkpoint_outdated: AtomicBool::new(false),
            checkpoint_due: Notify::new(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            settings,
        });
        let listeners = watch::Sender::new(Arc::new(listener));
        let peers = Peers::new(KUBELET_SOCKET, state.stop.clone(), CONNECTIONS_MAX).of_anybody();
        let tasks = state.tasks.clone();
        let incoming = incoming(listeners.subscribe(), peers).map(move |connection| {
            let mut connection = connection?;
            let (served, ours) = UnixStream::pair()?;
            tasks.spawn(proxy_as_localhost(connection.replace(served), ours));
            io::Result::Ok(connection)
        });
        let registrar = RegistrationServer::new(RegistrationService(Arc::clone(&state)));
        let stopped = state.stop.clone().cancelled_owned();
        state.tasks.spawn(async move {
            let mut server = Server::builder();
            let served = server.add_service(registrar);
            if let Err(error) = served.serve_with_incoming_shutdown(incoming, stopped).await {
                warn!(%error, "the kubelet's server failed");
            }
            drop(listeners);
        });
        Arc::clone(&state).spawn_endpoint_expiry();
        Arc::clone(&state).spawn_checkpoint_writer();
        Arc::clone(&state).serve_pod_resources(&state.settings.pod_resources_socket())?;
        Ok(Self {
            state,
            admission: tokio::sync::Mutex::new(()),
        })
    }

    /// Ends like a process: every connection closes, the socket's file stays.
    pub async fn stop(self) {
        self.state.shut_down();
        self.state.tasks.close();
        if timeout(SHUTDOWN_TIMEOUT, self.state.tasks.wait())
            .await
            .is_err()
        {
            warn!("a task outlives its kubelet");
        }
        self.state.save_if_outdated();
    }

    /// Stops, and starts anew with what the checkpoint tells.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub async fn restart(self) -> io::Result<Self> {
        let settings = self.state.settings.clone();
        let pods = self.state.pods().clone();
        self.stop().await;
        Self::start_with_pods(settings, pods)
    }

    /// Follows the Node's extended resources.
    pub fn node(&self) -> watch::Receiver<NodeResources> {
        self.state.node.subscribe()
    }

    /// Follows how often Register was called since the start, by resource.
    pub fn registrations(&self) -> watch::Receiver<BTreeMap<String, u64>> {
        self.state.registrations.subscribe()
    }

    /// Follows what happens from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.state.events.subscribe()
    }

    /// Follows whether a plugin crashed it, and how. Everything has ended then, as with a process.
    pub fn crashed(&self) -> watch::Receiver<Option<Crash>> {
        self.state.crash.subscribe()
    }

    /// Answers the resource's registrations like this from now on, those in flight as well.
    pub fn set_registration_mode(&self, resource: &str, mode: RegistrationMode) {
        self.state.registration_modes.send_modify(|modes| {
            modes.insert(resource.to_owned(), mode);
        });
    }

    /// What all running pods hold.
    pub fn all_assignments(&self) -> Vec<Assignment> {
        let pods = self.state.pods();
        let manager = self.state.manager();
        let held = manager.assignments().iter();
        held.filter(|a| pods.contains(&a.pod)).cloned().collect()
    }

    /// What the running pod holds.
    pub fn assignments(&self, pod: &str) -> Vec<Assignment> {
        let mut held = self.all_assignments();
        held.retain(|assignment| assignment.pod == pod);
        held
    }

    /// Admits the pod: chooses its devices and asks each plugin what its container gets. A pod that
    /// holds devices already keeps them; its plugins are not called, but a topology manager looks at them.
    ///
    /// # Errors
    /// When there are too few devices or a plugin refuses; the pod then holds nothing, and neither does
    /// it where this is dropped before the last plugin answered.
    pub async fn admit(&self, pod: &Pod) -> Result<Vec<Assignment>, AdmissionError> {
        let _one_at_a_time = self.admission.lock().await;
        let held = self.assignments(&pod.name);
        if !held.is_empty() {
            for assignment in &held {
                self.state.readmit_pods(&assignment.resource)?;
            }
            return Ok(held);
        }
        // A deleted pod of this name is another pod.
        self.state.manager().release_pod(&pod.name);
        let requests = pod.requests.iter().filter(|(_, count)| **count > 0);
        let node = match self.state.settings.topology_policy {
            TopologyPolicy::None => None,
            TopologyPolicy::SingleNumaNode => {
                self.state.free_devices_of_deleted_pods();
                self.state.manager().numa_node_for(requests.clone())?
            }
        };
        let mut got = Vec::new();
        for (resource, count) in requests {
            got.extend(self.allocate(&pod.name, resource, *count, node).await?);
        }
        self.state.pods().insert(pod.name.clone());
        self.state.manager().record_assignments(&got);
        if !got.is_empty() {
            // Before the pod starts: what it holds must outlive this kubelet.
            self.state.save();
        }
        Ok(got)
    }

    /// Starts the pod's container: the plugins that asked for it are told first.
    ///
    /// # Errors
    /// What a plugin answered (`CreateContainerConfigError`). The pod keeps its devices, and a real
    /// kubelet tries again.
    pub async fn start_container(&self, pod: &str) -> Result<(), tonic::Status> {
        for assignment in self.assignments(pod) {
            let endpoint = self.state.manager().endpoint(&assignment.resource).cloned();
            let asked = endpoint.filter(|endpoint| endpoint.options.pre_start_required);
            if let Some(client) = asked.and_then(|endpoint| endpoint.client) {
                let ids = assignment.ids().into_iter().map(str::to_owned).collect();
                client.pre_start_container(ids).await?;
            }
        }
        Ok(())
    }

    /// Breaks the connection to the resource's plugin, while both live on. Returns whether there was one.
    pub fn disconnect_plugin(&self, resource: &str) -> bool {
        let clients = self.state.clients();
        let client = clients.get(resource);
        client.inspect(|client| client.close()).is_some()
    }

    /// The resources of the pod that the kubelet knows no plugin for: it runs without them, as on a real node.
    pub fn unregistered_resources(&self, pod: &Pod) -> Vec<String> {
        let manager = self.state.manager();
        let asked = pod.requests.iter().filter(|(_, count)| **count > 0);
        let unknown = asked.filter(|(resource, _)| manager.endpoint(resource).is_none());
        unknown.map(|(resource, _)| resource.clone()).collect()
    }

    /// The API server says which pods there are: see [`Settings::pods_known`].
    pub fn set_pods_known(&self) {
        self.state.pods_known.store(true, Ordering::Relaxed);
    }

    /// The pod is gone. Its devices are freed when a pod with devices is admitted the next time, or the pod resources
    /// are asked for, and the checkpoint has the pod until it is written after that.
    pub fn delete(&self, pod: &str) {
        self.state.pods().remove(pod);
    }

    /// What the plugin gives for so many devices; `None` where there is none for the resource.
    async fn allocate(
        &self,
        pod: &str,
        resource: &str,
        count: usize,
        node: Option<i64>,
    ) -> Result<Option<Assignment>, AdmissionError> {
        let Some(endpoint) = self.state.manager().endpoint(resource).cloned() else {
            return Ok(None);
        };
        self.state.free_devices_of_deleted_pods();
        let available = {
            let manager = self.state.manager();
            let mut available = manager.free_devices(resource, count)?;
            available
                .retain(|id| node.is_none_or(|node| manager.is_on_numa_node(resource, id, node)));
            available
        };
        let failed = |rpc| {
            move |status: tonic::Status| AdmissionError::Plugin {
                resource: resource.to_owned(),
                rpc,
                error: describe_status(&status),
            }
        };
        let stopped = || AdmissionError::Stopped(resource.to_owned());
        let client = endpoint.client.as_ref().ok_or_else(stopped)?;
        let mut preferred = Vec::new();
        if endpoint.options.get_preferred_allocation_available && !endpoint.is_stopped() {
            let question = PreferenceQuestion {
                available: available.clone(),
                must_include: Vec::new(),
                size: count,
            };
            let answer = client.preferred_allocation(question).await;
            preferred = answer.map_err(failed("GetPreferredAllocation"))?;
        }
        let ids = device_manager::choose_devices(available, &preferred, count);
        if self
            .state
            .manager()
            .endpoint(resource)
            .is_none_or(device_manager::Endpoint::is_stopped)
        {
            return Err(stopped());
        }
        let response = client
            .allocate(ids.clone())
            .await
            .map_err(failed("Allocate"))?;
        let assignment = self
            .state
            .manager()
            .new_assignment(pod, resource, &ids, response);
        let assignment = assignment.inspect_err(|crash| self.state.crash(crash));
        Ok(Some(assignment?))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.state.shut_down();
    }
}

/// Removes every socket; other files and folders stay.
fn remove_sockets(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_socket() {
            continue;
        }
        match std::fs::remove_file(entry.path()) {
            // Its plugin, on leaving, was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    Ok(())
}

//! The state that the kubelet's tasks share, and its propagation to the checkpoint, the Node object and observers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::OptionFuture;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tracing::warn;

use simple_device_plugin::util::sanitize::sanitize;

use crate::checkpoint;
use crate::crash::Crash;
use crate::device_manager::{DeviceManager, NodeResources};
use crate::event::{Event, EventKind};
use crate::plugin_client::PluginClient;
use crate::pod::{ActivePods, Pod};
use crate::settings::{KubeletSettings, RegistrationMode};

/// The delay between a list and the write of the checkpoint. Lists that arrive during the delay share one write,
/// because a checkpoint of a hundred resources takes megabytes. A real kubelet writes the checkpoint for every list.
const CHECKPOINT_DELAY: Duration = Duration::from_millis(100);

/// The number of events that are buffered for a slow receiver. When more arrive, the receiver misses the oldest.
const EVENTS_MAX: usize = 4096;

/// The number of clients whose connections stay open after the kubelet forgot the clients. A real kubelet is limited
/// only by its file descriptors.
const LEAKED_CLIENTS_MAX: usize = 1024;

/// The state that the kubelet's tasks share. A task that needs several locks takes them in this order: `saving`,
/// `pods`, `manager`.
#[derive(Debug)]
pub(crate) struct KubeletState {
    pub(crate) settings: KubeletSettings,
    /// Locked while the checkpoint is written, so that the last writer writes the latest state.
    saving: Mutex<()>,
    manager: Mutex<DeviceManager<Arc<PluginClient>>>,
    /// The device manager may also have assignments of other pods: see [`Self::free_devices_of_inactive_pods`].
    pods: Mutex<ActivePods>,
    /// Whether the API server has sent the pods of this node (`sourcesReady`).
    pub(crate) pods_known: watch::Sender<bool>,
    /// The clients by resource, as the registration server knows them (`clients` in `plugin/v1beta1/server.go`).
    clients: Mutex<BTreeMap<String, Arc<PluginClient>>>,
    /// Clients that the kubelet forgot without closing their connections, oldest first.
    leaked: Mutex<VecDeque<Arc<PluginClient>>>,
    pub(crate) node: watch::Sender<NodeResources>,
    /// The number of valid calls of Register, by resource.
    pub(crate) registrations: watch::Sender<BTreeMap<String, u64>>,
    pub(crate) events: broadcast::Sender<Event>,
    /// How Register is answered, by resource. The default is [`RegistrationMode::Normal`].
    pub(crate) registration_modes: watch::Sender<BTreeMap<String, RegistrationMode>>,
    /// The resources whose pods were admitted again since the kubelet started.
    pub(crate) readmitted: Mutex<BTreeSet<String>>,
    pub(crate) crash: watch::Sender<Option<Crash>>,
    /// Notified when an endpoint was marked as stopped.
    endpoint_stopped: Notify,
    /// Whether the checkpoint has to be written because devices changed.
    checkpoint_outdated: AtomicBool,
    /// Notified when `checkpoint_outdated` is set.
    checkpoint_due: Notify,
    pub(crate) tasks: TaskTracker,
    /// Canceled when the kubelet stops or crashes.
    pub(crate) stop: CancellationToken,
}

impl KubeletState {
    pub(crate) fn new(
        settings: KubeletSettings,
        manager: DeviceManager<Arc<PluginClient>>,
        pods: BTreeMap<String, Pod>,
    ) -> Self {
        let node = manager.node_resources();
        Self {
            saving: Mutex::default(),
            manager: Mutex::new(manager),
            pods: Mutex::new(ActivePods {
                running: pods,
                in_admission: None,
            }),
            pods_known: watch::Sender::new(settings.pods_known),
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
        }
    }

    pub(crate) fn manager(&self) -> MutexGuard<'_, DeviceManager<Arc<PluginClient>>> {
        self.manager.lock()
    }

    pub(crate) fn clients(&self) -> MutexGuard<'_, BTreeMap<String, Arc<PluginClient>>> {
        self.clients.lock()
    }

    pub(crate) fn pods(&self) -> MutexGuard<'_, ActivePods> {
        self.pods.lock()
    }

    pub(crate) fn are_pods_known(&self) -> bool {
        *self.pods_known.borrow()
    }

    /// Frees the devices of deleted and rejected pods in memory; the checkpoint is not written
    /// (`UpdateAllocatedDevices`). Does nothing until the pods are known.
    pub(crate) fn free_devices_of_inactive_pods(&self) {
        if self.are_pods_known() {
            let pods = self.pods();
            self.manager().retain_pods(|pod| pods.get(pod).is_some());
        }
    }

    /// Keeps the client's connection open without using it, as a real kubelet does. Closes the oldest such connection
    /// if there are more than [`LEAKED_CLIENTS_MAX`].
    pub(crate) fn leak(&self, client: Arc<PluginClient>) {
        let mut leaked = self.leaked.lock();
        leaked.push_back(client);
        if leaked.len() > LEAKED_CLIENTS_MAX
            && let Some(oldest) = leaked.pop_front()
        {
            oldest.close();
        }
    }

    pub(crate) fn emit(&self, resource: &str, kind: EventKind) {
        let resource = sanitize(resource);
        // Sending fails if there is no receiver, which is no error here.
        let _ = self.events.send(Event { resource, kind });
    }

    /// Updates the Node object, and notifies its receivers if it changed. Forgets endpoints whose grace period ended.
    fn update_node(&self) {
        let (is_expired, node) = {
            let mut manager = self.manager();
            let is_expired = manager.expire_endpoints(Instant::now());
            (is_expired, manager.node_resources())
        };
        if is_expired {
            self.checkpoint_changed();
        }
        self.node.send_if_modified(|current| {
            let changed = *current != node;
            *current = node;
            changed
        });
    }

    fn updates_node_at_once(&self) -> bool {
        self.settings.node_status_period.is_zero()
    }

    /// Updates the Node object now, unless that is done periodically.
    fn node_changed(&self) {
        if self.updates_node_at_once() {
            self.update_node();
        }
    }

    pub(crate) fn save_if_outdated(&self) {
        if self.checkpoint_outdated.load(Ordering::Relaxed)
            && let Err(error) = self.save()
        {
            // A real kubelet only logs it, too.
            warn!(%error, "cannot write the checkpoint");
        }
    }

    /// Writes the checkpoint.
    pub(crate) fn save(&self) -> io::Result<()> {
        let _saving = self.saving.lock();
        self.checkpoint_outdated.store(false, Ordering::Relaxed);
        let (registered, assignments) = {
            let manager = self.manager();
            (manager.healthy_devices(), manager.assignments().to_vec())
        };
        checkpoint::write(&self.settings.dir, registered, &assignments)
    }

    /// Schedules a write of the checkpoint. Only a list and the expiry of an endpoint do this: the kubelet does not write
    /// its checkpoint when a pod is deleted or a plugin disconnects.
    fn checkpoint_changed(&self) {
        self.checkpoint_outdated.store(true, Ordering::Relaxed);
        self.checkpoint_due.notify_one();
    }

    /// Schedules a write of the checkpoint and updates the Node object after a list.
    pub(crate) fn devices_changed(&self) {
        self.checkpoint_changed();
        self.node_changed();
    }

    /// Updates the Node object after an endpoint was stopped, and again when its grace period ends.
    pub(crate) fn endpoint_stopped(&self) {
        self.node_changed();
        self.endpoint_stopped.notify_one();
    }

    pub(crate) fn spawn_checkpoint_writer(self: Arc<Self>) {
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let writer = async move { self.write_checkpoints().await };
        tasks.spawn(stop.run_until_cancelled_owned(writer));
    }

    async fn write_checkpoints(&self) -> Infallible {
        loop {
            self.checkpoint_due.notified().await;
            sleep(CHECKPOINT_DELAY).await;
            self.save_if_outdated();
        }
    }

    pub(crate) fn spawn_node_updates(self: Arc<Self>) {
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let updates = async move {
            if self.updates_node_at_once() {
                self.update_node_at_expiry().await
            } else {
                self.update_node_periodically().await
            }
        };
        tasks.spawn(stop.run_until_cancelled_owned(updates));
    }

    /// Updates the Node object when the grace period of a stopped endpoint ends.
    async fn update_node_at_expiry(&self) -> Infallible {
        loop {
            let next = self.manager().next_expiry();
            let expiry = OptionFuture::from(next.map(|next| sleep_until(next.into())));
            tokio::select! {
                () = self.endpoint_stopped.notified() => {}
                Some(()) = expiry => self.update_node(),
            }
        }
    }

    /// Updates the Node object after each period, as a real kubelet does.
    async fn update_node_periodically(&self) -> Infallible {
        loop {
            sleep(self.settings.node_status_period).await;
            self.update_node();
        }
    }

    /// Stops as after a crash of the process: the checkpoint is not written again.
    pub(crate) fn crash(&self, crash: &Crash) {
        self.crash.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(crash.clone());
            }
            is_first
        });
        self.shut_down();
    }

    /// Cancels all tasks and closes all connections.
    pub(crate) fn shut_down(&self) {
        self.stop.cancel();
        let clients = std::mem::take(&mut *self.clients());
        let leaked = std::mem::take(&mut *self.leaked.lock());
        for client in clients.values().chain(&leaked) {
            client.close();
        }
    }
}

/// Returns the code and the message of a status, with control characters escaped.
pub(crate) fn describe_status(status: &Status) -> String {
    format!("{:?}: {}", status.code(), sanitize(status.message()))
}

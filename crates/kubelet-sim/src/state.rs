//! What the kubelet's tasks share: the books, the registered plugins, and the life of each plugin from
//! Register to the kubelet's leave. Follows `plugin/v1beta1/handler.go`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::future::OptionFuture;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use simple_device_plugin::api::v1beta1;
use simple_device_plugin::foreign::foreign;
use simple_device_plugin::lock::lock;

use super::checkpoint;
use super::crash::Crash;
use super::device_manager::{DeviceManager, NodeResources};
use super::event::{Event, EventKind};
use super::plugin_client::PluginClient;
use super::settings::{KubeletSettings, RegistrationMode, TopologyPolicy};

/// With all devices of a hundred resources in it, the checkpoint is megabytes.
const CHECKPOINT_DELAY: Duration = Duration::from_millis(100);

/// A real kubelet knows no bound, but runs out of descriptors.
const LEAKED_CLIENTS_MAX: usize = 1024;

/// What the kubelet's tasks have in common.
#[derive(Debug)]
pub struct KubeletState {
    pub settings: KubeletSettings,
    pub manager: Mutex<DeviceManager<Arc<PluginClient>>>,
    /// The pods that are admitted and not deleted. The books can have devices of others: a kubelet frees these
    /// when it admits a pod the next time, or is asked for the pod resources.
    pub pods: Mutex<BTreeSet<String>>,
    /// `sourcesReady`: whether the API server has said which pods there are.
    pub pods_known: AtomicBool,
    /// The plugins by resource, as the registration server knows them.
    pub clients: Mutex<BTreeMap<String, Arc<PluginClient>>>,
    /// Connections that the kubelet forgets to close.
    pub leaked: Mutex<VecDeque<Arc<PluginClient>>>,
    pub node: watch::Sender<NodeResources>,
    pub registrations: watch::Sender<BTreeMap<String, u64>>,
    pub events: broadcast::Sender<Event>,
    /// How Register is answered, where it is not in earnest.
    pub registration_modes: watch::Sender<BTreeMap<String, RegistrationMode>>,
    /// The resources whose pods were admitted again since the start.
    pub readmitted: Mutex<BTreeSet<String>>,
    /// How a plugin crashed it.
    pub crash: watch::Sender<Option<Crash>>,
    /// A plugin was taken leave of.
    pub endpoint_stopped: Notify,
    /// The books are newer than the checkpoint, and it is to be written.
    pub checkpoint_outdated: AtomicBool,
    /// Tells whoever writes it.
    pub checkpoint_due: Notify,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
}

impl KubeletState {
    pub fn manager(&self) -> MutexGuard<'_, DeviceManager<Arc<PluginClient>>> {
        lock(&self.manager)
    }

    pub fn clients(&self) -> MutexGuard<'_, BTreeMap<String, Arc<PluginClient>>> {
        lock(&self.clients)
    }

    pub fn pods(&self) -> MutexGuard<'_, BTreeSet<String>> {
        lock(&self.pods)
    }

    pub fn are_pods_known(&self) -> bool {
        self.pods_known.load(Ordering::Relaxed)
    }

    /// `UpdateAllocatedDevices`: in memory only.
    pub fn free_devices_of_deleted_pods(&self) {
        if self.are_pods_known() {
            let pods = self.pods();
            self.manager().retain_pods(&pods);
        }
    }

    fn leaked(&self) -> MutexGuard<'_, VecDeque<Arc<PluginClient>>> {
        lock(&self.leaked)
    }

    /// Keeps the connection open. A real kubelet does so for ever.
    fn leak(&self, client: Arc<PluginClient>) {
        let mut leaked = self.leaked();
        leaked.push_back(client);
        if leaked.len() > LEAKED_CLIENTS_MAX {
            leaked.pop_front().inspect(|oldest| oldest.close());
        }
    }

    /// Tells those who watch.
    pub fn emit(&self, resource: &str, kind: EventKind) {
        let resource = foreign(resource);
        // Nobody has to watch.
        let _ = self.events.send(Event { resource, kind });
    }

    /// Shows the books on the Node.
    fn update_node(&self) {
        let node = self.manager().node_resources(Instant::now());
        self.node.send_if_modified(|shown| {
            let changed = *shown != node;
            *shown = node;
            changed
        });
    }

    /// Writes the checkpoint, if a change of the books waits for that.
    pub fn save_if_outdated(&self) {
        if self.checkpoint_outdated.load(Ordering::Relaxed) {
            self.save();
        }
    }

    /// Writes the checkpoint.
    pub fn save(&self) {
        self.checkpoint_outdated.store(false, Ordering::Relaxed);
        let (registered, assignments) = {
            let manager = self.manager();
            (manager.healthy_devices(), manager.assignments().to_vec())
        };
        if let Err(error) = checkpoint::write(&self.settings.dir, registered, &assignments) {
            warn!(%error, "the checkpoint is not written");
        }
    }

    /// The books changed in a way that the checkpoint is written for: a list came, or a resource expired. It is
    /// written not for a deleted pod, nor for a plugin that went.
    fn devices_changed(&self) {
        self.checkpoint_outdated.store(true, Ordering::Relaxed);
        self.checkpoint_due.notify_one();
        self.update_node();
    }

    /// Writes the checkpoint soon after [`Shared::changed`]: once for lists that come together, while the
    /// real kubelet writes it anew for each.
    pub fn spawn_checkpoint_writer(self: Arc<Self>) {
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        tasks.spawn(stop.run_until_cancelled_owned(async move {
            loop {
                self.checkpoint_due.notified().await;
                tokio::time::sleep(CHECKPOINT_DELAY).await;
                self.save_if_outdated();
            }
        }));
    }

    /// Looks at the books again whenever the grace of whoever stopped is over.
    pub fn spawn_endpoint_expiry(self: Arc<Self>) {
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        tasks.spawn(stop.run_until_cancelled_owned(async move {
            loop {
                let next = self.manager().next_expiry();
                let expiry = OptionFuture::from(next.map(|next| sleep_until(next.into())));
                tokio::select! {
                    () = self.endpoint_stopped.notified() => {}
                    Some(()) = expiry => self.devices_changed(),
                }
            }
        }));
    }

    /// Admits the pods of this resource again, where there is a topology manager.
    pub fn readmit_pods(&self, resource: &str) -> Result<(), Crash> {
        if self.settings.topology_policy == TopologyPolicy::None {
            return Ok(());
        }
        let admitted = self.manager().readmit_pods(resource);
        admitted.inspect_err(|crash| self.crash(crash))
    }

    /// Ends like a process that crashed: the checkpoint stays as it was written last.
    pub fn crash(&self, crash: &Crash) {
        self.crash.send_if_modified(|crashed| {
            let first = crashed.is_none();
            crashed.get_or_insert_with(|| crash.clone());
            first
        });
        self.shut_down();
    }

    pub fn shut_down(&self) {
        self.stop.cancel();
        let clients = std::mem::take(&mut *self.clients());
        let leaked = std::mem::take(&mut *self.leaked());
        for client in clients.values().chain(&leaked) {
            client.close();
        }
    }

    /// The life of a registered plugin: its lists, until its stream ends. Then the kubelet takes leave
    /// of whoever stands for the resource, be it this plugin or a successor (`runClient`).
    async fn run_client(self: Arc<Self>, client: Arc<PluginClient>) {
        let resource = client.resource.clone();
        let ended = self.receive_lists(&client).await;
        let Some(standing) = self.clients().remove(&resource) else {
            self.leak(client);
            return;
        };
        standing.close();
        if !Arc::ptr_eq(&standing, &client) {
            self.leak(client);
        }
        tokio::time::sleep(self.settings.disconnect_delay).await;
        self.manager()
            .plugin_disconnected(&resource, Instant::now());
        let error = ended.err().map(|status| describe_status(&status));
        self.emit(&resource, EventKind::Disconnected { error });
        self.update_node();
        self.endpoint_stopped.notify_one();
    }

    /// Takes the plugin's lists until its stream ends.
    async fn receive_lists(&self, client: &PluginClient) -> Result<(), tonic::Status> {
        let mut stream = client.list_and_watch().await?;
        while let Some(list) = client.next_list(&mut stream).await? {
            self.update_devices(&client.resource, list);
        }
        Ok(())
    }

    fn update_devices(&self, resource: &str, list: v1beta1::ListAndWatchResponse) {
        debug!(resource, devices = list.devices.len(), "list");
        let unknown = list
            .devices
            .iter()
            .find(|device| !device.has_known_health());
        let unknown_health = unknown.map(|device| foreign(&device.health));
        let (changes, now) = {
            let mut manager = self.manager();
            (
                manager.update_devices(resource, list),
                manager.quantities(resource),
            )
        };
        let listed = EventKind::Listed {
            unknown_health,
            healthy: now.allocatable,
            unhealthy: now.capacity - now.allocatable,
            changes,
        };
        self.emit(resource, listed);
        self.devices_changed();
        // The pods of the last life, once their plugin is back.
        let admitted = lock(&self.readmitted).insert(resource.to_owned());
        if admitted {
            // What it says is told by the crash.
            let _ = self.readmit_pods(resource);
        }
    }

    /// Register, after the request was judged (`connectClient`).
    pub async fn connect_plugin(
        self: Arc<Self>,
        client: Arc<PluginClient>,
    ) -> Result<(), tonic::Status> {
        let resource = client.resource.clone();
        self.clients().insert(resource.clone(), Arc::clone(&client));
        let options = async {
            client.dial(self.settings.dial_timeout).await?;
            client.plugin_options().await
        };
        let options: v1beta1::DevicePluginOptions = match options.await {
            Ok(options) => options,
            Err(status) => {
                // Blind from here on: whoever was registered before is forgotten as well.
                self.clients().remove(&resource);
                let (endpoint, error) = (client.endpoint(), describe_status(&status));
                self.leak(client);
                let refused = EventKind::Refused {
                    endpoint,
                    error: error.clone(),
                };
                self.emit(&resource, refused);
                return Err(tonic::Status::unknown(error));
            }
        };
        let registered = EventKind::Registered {
            endpoint: client.endpoint(),
            pre_start: options.pre_start_required,
            preferred: options.get_preferred_allocation_available,
        };
        self.manager()
            .plugin_connected(&resource, Arc::clone(&client), options);
        self.emit(&resource, registered);
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        tasks.spawn(stop.run_until_cancelled_owned(self.run_client(client)));
        Ok(())
    }
}

/// What a plugin answered, as a log can have it.
pub fn describe_status(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), foreign(status.message()))
}

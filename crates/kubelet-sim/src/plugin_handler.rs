//! The connection to a plugin, from Register until its endpoint is marked as stopped. It follows
//! `pkg/kubelet/cm/devicemanager/plugin/v1beta1/handler.go`.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::sleep;
use tonic::Status;
use tracing::debug;

use simple_device_plugin::api::v1beta1;
use simple_device_plugin::util::sanitize::sanitize;

use crate::event::EventKind;
use crate::plugin_client::PluginClient;
use crate::state::{KubeletState, describe_status};

impl KubeletState {
    /// Handles a valid registration: connects to the plugin, calls GetDevicePluginOptions, and reads the ListAndWatch
    /// stream in a task (`connectClient`).
    ///
    /// # Errors
    /// Returns an error if the plugin cannot be reached or returns an error. The kubelet then also forgets the client
    /// that was registered before, and does not notice when that plugin disconnects.
    pub(crate) async fn connect_plugin(
        self: Arc<Self>,
        client: Arc<PluginClient>,
    ) -> Result<(), Status> {
        let resource = client.resource.clone();
        self.clients().insert(resource.clone(), Arc::clone(&client));
        let options = async {
            client.dial(self.settings.dial_timeout).await?;
            client.plugin_options().await
        };
        let options: v1beta1::DevicePluginOptions = match options.await {
            Ok(options) => options,
            Err(status) => {
                self.clients().remove(&resource);
                let error = describe_status(&status);
                let refused = EventKind::RegistrationFailed {
                    endpoint: client.endpoint(),
                    error: error.clone(),
                };
                self.leak(client);
                self.emit(&resource, refused);
                return Err(Status::unknown(error));
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

    /// Receives the plugin's lists until its stream ends. Then disconnects the client that is currently registered for
    /// the resource, which may be a successor, and marks its endpoint as stopped after a delay (`runClient`).
    async fn run_client(self: Arc<Self>, client: Arc<PluginClient>) {
        let resource = client.resource.clone();
        let ended = self.receive_lists(&client).await;
        let Some(registered) = self.clients().remove(&resource) else {
            self.leak(client);
            return;
        };
        registered.close();
        if !Arc::ptr_eq(&registered, &client) {
            self.leak(client);
        }
        sleep(self.settings.disconnect_delay).await;
        self.manager()
            .plugin_disconnected(&resource, Instant::now());
        let error = ended.err().map(|status| describe_status(&status));
        self.endpoint_stopped();
        self.emit(&resource, EventKind::Disconnected { error });
    }

    async fn receive_lists(&self, client: &PluginClient) -> Result<(), Status> {
        let mut stream = client.list_and_watch().await?;
        while let Some(list) = client.next_list(&mut stream).await? {
            self.update_devices(&client.resource, list);
        }
        Ok(())
    }

    fn update_devices(&self, resource: &str, list: v1beta1::ListAndWatchResponse) {
        debug!(resource, devices = list.devices.len(), "list");
        let mut devices = list.devices.iter();
        let unknown = devices.find(|device| !device.has_known_health());
        let unknown_health = unknown.map(|device| sanitize(&device.health));
        let (changes, quantities) = {
            let mut manager = self.manager();
            let changes = manager.update_devices(resource, list);
            (changes, manager.quantities(resource))
        };
        let listed = EventKind::Listed {
            unknown_health,
            healthy: quantities.allocatable,
            unhealthy: quantities.capacity - quantities.allocatable,
            changes,
        };
        self.emit(resource, listed);
        self.devices_changed();
        self.readmit_pods_once(resource);
    }
}

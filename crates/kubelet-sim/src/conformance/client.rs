//! The connection to a plugin, and the calls that a kubelet makes for a pod, with a deadline and as the plugin answers them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use simple_device_plugin::api::v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse, Empty,
};
use simple_device_plugin::api::{self, PreferenceRequest};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::state::describe_status;

/// The largest message that is received, in bytes: above the kubelet's limit, so that a list above that can be measured.
pub(super) const RECEIVED_MAX: usize = 16 << 20;

/// The kubelet's connection to a plugin. All calls share it, and none survives [`Connection::close`].
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// `None` before the plugin was dialed, and after the connection was closed.
    channel: Mutex<Option<Channel>>,
    pub(super) closed: CancellationToken,
}

impl Connection {
    pub(super) fn set(&self, channel: Channel) {
        *self.channel.lock() = Some(channel);
    }

    pub(super) fn channel(&self) -> Option<Channel> {
        self.channel.lock().clone()
    }

    pub(super) fn close(&self) {
        self.closed.cancel();
        self.channel.lock().take();
    }
}

/// A client of a plugin. An error is a text for the report.
#[derive(Clone, Debug)]
pub(super) struct Client {
    connection: Arc<Connection>,
    timeout: Duration,
}

type Plugin = DevicePluginClient<Channel>;
type Result<T> = std::result::Result<T, String>;

impl Client {
    pub(super) fn new(connection: Arc<Connection>, timeout: Duration) -> Self {
        Self {
            connection,
            timeout,
        }
    }

    /// Calls Allocate with one request for each container. Returns the response of each container.
    pub(super) async fn allocate(
        &self,
        containers: Vec<Vec<String>>,
    ) -> Result<Vec<ContainerAllocateResponse>> {
        let request = AllocateRequest {
            container_requests: containers
                .into_iter()
                .map(|devices_ids| ContainerAllocateRequest { devices_ids })
                .collect(),
        };
        let call = async |mut plugin: Plugin| plugin.allocate(request).await;
        let response = self.call("Allocate", self.timeout, call).await?;
        Ok(response.container_responses)
    }

    /// Calls GetPreferredAllocation for one container. Returns the preferred IDs.
    pub(super) async fn preferred(&self, request: PreferenceRequest) -> Result<Vec<String>> {
        let request = api::preferred_allocation_request(request);
        let call = async |mut plugin: Plugin| plugin.get_preferred_allocation(request).await;
        let response = self.call("GetPreferredAllocation", self.timeout, call);
        Ok(api::preferred_ids(response.await?))
    }

    pub(super) async fn pre_start(&self, ids: Vec<String>, timeout: Duration) -> Result<()> {
        let request = api::pre_start_request(ids);
        let call = async |mut plugin: Plugin| plugin.pre_start_container(request).await;
        self.call("PreStartContainer", timeout, call).await?;
        Ok(())
    }

    pub(super) async fn options(&self) -> Result<()> {
        let call = async |mut plugin: Plugin| plugin.get_device_plugin_options(Empty {}).await;
        self.call("GetDevicePluginOptions", self.timeout, call)
            .await?;
        Ok(())
    }

    async fn call<T>(
        &self,
        name: &str,
        limit: Duration,
        rpc: impl AsyncFnOnce(Plugin) -> std::result::Result<Response<T>, Status>,
    ) -> Result<T> {
        let closed = || format!("{name}: the connection is closed");
        let channel = self.connection.channel().ok_or_else(closed)?;
        let plugin = DevicePluginClient::new(channel).max_decoding_message_size(RECEIVED_MAX);
        let call = self.connection.closed.run_until_cancelled(rpc(plugin));
        match timeout(limit, call).await {
            Ok(Some(Ok(response))) => Ok(response.into_inner()),
            Ok(Some(Err(status))) => Err(format!("{name} returned {}", describe_status(&status))),
            Ok(None) => Err(closed()),
            Err(_) => Err(format!(
                "{name} did not answer within {} s",
                limit.as_secs_f32()
            )),
        }
    }
}

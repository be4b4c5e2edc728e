//! The kubelet's client of one plugin. It follows `pkg/kubelet/cm/devicemanager/plugin/v1beta1/client.go`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use simple_device_plugin::api::{self, PreferenceRequest, v1beta1};
use simple_device_plugin::node::channel::channel_over;
use simple_device_plugin::util::sanitize::sanitize;

/// The pause before the next attempt to connect to a socket that no plugin serves yet.
const DIAL_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The deadline of PreStartContainer (`KubeletPreStartContainerRPCTimeoutInSecs`). The kubelet sets no deadline for the
/// other calls.
const PRE_START_TIMEOUT: Duration = Duration::from_secs(30);

/// The client of a plugin that called Register.
#[derive(Debug)]
pub(crate) struct PluginClient {
    pub(crate) resource: String,
    pub(crate) socket: PathBuf,
    endpoint: String,
    /// `None` before [`Self::dial`] and after [`Self::close`].
    channel: Mutex<Option<Channel>>,
    closed: CancellationToken,
}

impl PluginClient {
    /// Returns a client that is not connected yet. An absolute endpoint is a path below the directory, as with Go's
    /// `filepath.Join`.
    pub(crate) fn new(resource: String, dir: &Path, endpoint: String) -> Self {
        Self {
            resource,
            socket: dir.join(endpoint.trim_start_matches('/')),
            endpoint,
            channel: Mutex::new(None),
            closed: CancellationToken::new(),
        }
    }

    /// Returns the endpoint in the plugin's request, with control characters escaped.
    pub(crate) fn endpoint(&self) -> String {
        sanitize(&self.endpoint)
    }

    /// Connects to the plugin's socket, and retries until the timeout, as grpc-go does.
    pub(crate) async fn dial(&self, timeout: Duration) -> Result<(), Status> {
        let dial = self.dial_until(Instant::now() + timeout);
        match self.closed.run_until_cancelled(dial).await {
            Some(dialed) => dialed,
            None => Err(connection_closed()),
        }
    }

    async fn dial_until(&self, deadline: Instant) -> Result<(), Status> {
        loop {
            let error = match timeout_at(deadline, connect(&self.socket)).await {
                Ok(Ok(channel)) => {
                    *self.channel.lock() = Some(channel);
                    return Ok(());
                }
                // tonic's outermost error only says that the transport failed.
                Ok(Err(error)) => error.root_cause().to_string(),
                Err(_) => "timed out".to_owned(),
            };
            if Instant::now() + DIAL_RETRY_INTERVAL >= deadline {
                let socket = self.socket.display();
                return Err(Status::unknown(format!("failed to dial {socket}: {error}")));
            }
            sleep(DIAL_RETRY_INTERVAL).await;
        }
    }

    /// Closes the connection. Calls in flight end with the code Cancelled.
    pub(crate) fn close(&self) {
        self.closed.cancel();
        self.channel.lock().take();
    }

    pub(crate) async fn plugin_options(&self) -> Result<v1beta1::DevicePluginOptions, Status> {
        self.call(async |mut plugin: Plugin| {
            plugin.get_device_plugin_options(v1beta1::Empty {}).await
        })
        .await
    }

    pub(crate) async fn list_and_watch(
        &self,
    ) -> Result<Streaming<v1beta1::ListAndWatchResponse>, Status> {
        self.call(async |mut plugin: Plugin| plugin.list_and_watch(v1beta1::Empty {}).await)
            .await
    }

    /// Receives the next list of a ListAndWatch stream. Returns `None` at the end of the stream.
    pub(crate) async fn next_list(
        &self,
        stream: &mut Streaming<v1beta1::ListAndWatchResponse>,
    ) -> Result<Option<v1beta1::ListAndWatchResponse>, Status> {
        match self.closed.run_until_cancelled(stream.message()).await {
            Some(list) => list,
            None => Err(connection_closed()),
        }
    }

    /// Returns the device IDs that the plugin prefers.
    pub(crate) async fn preferred_allocation(
        &self,
        question: PreferenceRequest,
    ) -> Result<Vec<String>, Status> {
        let request = api::preferred_allocation_request(question);
        let call = async |mut plugin: Plugin| plugin.get_preferred_allocation(request).await;
        let response = self.call(call).await?;
        Ok(api::preferred_ids(response))
    }

    /// Calls Allocate for one container. Returns the first container response, the only one that the kubelet uses, or
    /// `None` if there is none.
    pub(crate) async fn allocate(
        &self,
        ids: Vec<String>,
    ) -> Result<Option<v1beta1::ContainerAllocateResponse>, Status> {
        let request = api::allocate_request(ids);
        let call = async |mut plugin: Plugin| plugin.allocate(request).await;
        Ok(api::first_container_response(self.call(call).await?))
    }

    pub(crate) async fn pre_start_container(&self, ids: Vec<String>) -> Result<(), Status> {
        let request = api::pre_start_request(ids);
        let call = self.call(async |mut plugin: Plugin| plugin.pre_start_container(request).await);
        match timeout(PRE_START_TIMEOUT, call).await {
            Ok(response) => response.map(|_| ()),
            Err(_) => Err(Status::deadline_exceeded("PreStartContainer")),
        }
    }

    async fn call<T>(
        &self,
        rpc: impl AsyncFnOnce(Plugin) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let channel = self.channel.lock().clone();
        let plugin = DevicePluginClient::new(channel.ok_or_else(connection_closed)?);
        match self.closed.run_until_cancelled(rpc(plugin)).await {
            Some(response) => response.map(Response::into_inner),
            None => Err(connection_closed()),
        }
    }
}

type Plugin = DevicePluginClient<Channel>;

async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    Ok(channel_over(UnixStream::connect(socket).await?).await?)
}

fn connection_closed() -> Status {
    Status::cancelled("the kubelet closed the connection")
}

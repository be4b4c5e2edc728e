//! The kubelet's side of one plugin's socket. Follows `plugin/v1beta1/client.go`.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use simple_device_plugin::api::{self, PreferenceQuestion, v1beta1};
use simple_device_plugin::foreign::foreign;
use simple_device_plugin::lock::lock;
use simple_device_plugin::node::channel::channel_over;

/// Between tries to reach a socket that nobody serves yet.
const DIAL_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Like the kubelet's: PreStartContainer alone has a deadline.
const PRE_START_TIMEOUT: Duration = Duration::from_secs(30);

async fn connect(socket: &Path) -> anyhow::Result<Channel> {
    Ok(channel_over(UnixStream::connect(socket).await?).await?)
}

/// A plugin that registered.
#[derive(Debug)]
pub struct PluginClient {
    pub resource: String,
    pub socket: PathBuf,
    endpoint: String,
    channel: Mutex<Option<Channel>>,
    closed: CancellationToken,
}

impl PluginClient {
    /// The plugin of this resource at this socket of the directory. An absolute path is taken for one
    /// below it, as Go's `filepath.Join` does.
    pub fn new(resource: String, dir: &Path, endpoint: String) -> Self {
        Self {
            resource,
            socket: dir.join(endpoint.trim_start_matches('/')),
            endpoint,
            channel: Mutex::new(None),
            closed: CancellationToken::new(),
        }
    }

    /// The socket as the plugin named it, as a log can have it.
    pub fn endpoint(&self) -> String {
        foreign(&self.endpoint)
    }

    /// Connects to the socket; tries until the time is over, as grpc-go's dial does, or it is closed.
    pub async fn dial(&self, within: Duration) -> Result<(), Status> {
        let dialled = self.closed.run_until_cancelled(self.try_dial(within)).await;
        dialled.unwrap_or_else(|| Err(Status::cancelled("the kubelet closed the connection")))
    }

    async fn try_dial(&self, within: Duration) -> Result<(), Status> {
        let deadline = Instant::now() + within;
        loop {
            let error = match timeout_at(deadline, connect(&self.socket)).await {
                Ok(Ok(channel)) => {
                    *lock(&self.channel) = Some(channel);
                    return Ok(());
                }
                // tonic says only that it is a transport error; the reason comes last.
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

    /// Closes the connection; calls in flight end with Cancelled.
    pub fn close(&self) {
        self.closed.cancel();
        lock(&self.channel).take();
    }

    pub async fn plugin_options(&self) -> Result<v1beta1::DevicePluginOptions, Status> {
        let call = async |mut rpc: Rpc| rpc.get_device_plugin_options(v1beta1::Empty {}).await;
        self.call(call).await
    }

    pub async fn list_and_watch(&self) -> Result<Streaming<v1beta1::ListAndWatchResponse>, Status> {
        self.call(async |mut rpc: Rpc| rpc.list_and_watch(v1beta1::Empty {}).await)
            .await
    }

    /// The stream's next list; `None` at its end.
    pub async fn next_list(
        &self,
        stream: &mut Streaming<v1beta1::ListAndWatchResponse>,
    ) -> Result<Option<v1beta1::ListAndWatchResponse>, Status> {
        let next = self.closed.run_until_cancelled(stream.message()).await;
        next.unwrap_or_else(|| Err(Status::cancelled("the kubelet closed the connection")))
    }

    pub async fn preferred_allocation(
        &self,
        question: PreferenceQuestion,
    ) -> Result<Vec<String>, Status> {
        let request = api::preference_of(question);
        let response = self
            .call(async |mut rpc: Rpc| rpc.get_preferred_allocation(request).await)
            .await?;
        Ok(api::preferred_ids(response))
    }

    /// What one container gets. Like the kubelet's, the call has no deadline.
    pub async fn allocate(
        &self,
        ids: Vec<String>,
    ) -> Result<v1beta1::ContainerAllocateResponse, Status> {
        let request = api::allocation_of(ids);
        let response = self
            .call(async |mut rpc: Rpc| rpc.allocate(request).await)
            .await?;
        api::first_allocated(response).ok_or_else(|| Status::unknown("the answer has no container"))
    }

    pub async fn pre_start_container(&self, ids: Vec<String>) -> Result<(), Status> {
        let request = api::pre_start_of(ids);
        let call = self.call(async |mut rpc: Rpc| rpc.pre_start_container(request).await);
        match tokio::time::timeout(PRE_START_TIMEOUT, call).await {
            Ok(answer) => answer.map(|_| ()),
            Err(_) => Err(Status::deadline_exceeded("PreStartContainer")),
        }
    }

    async fn call<T>(
        &self,
        rpc: impl AsyncFnOnce(Rpc) -> Result<Response<T>, Status>,
    ) -> Result<T, Status> {
        let channel = lock(&self.channel).clone();
        let closed = || Status::cancelled("the kubelet closed the connection");
        let client = DevicePluginClient::new(channel.ok_or_else(closed)?);
        let answer = self.closed.run_until_cancelled(rpc(client)).await;
        answer.ok_or_else(closed)?.map(Response::into_inner)
    }
}

type Rpc = DevicePluginClient<Channel>;

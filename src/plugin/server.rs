//! The gRPC server of a plugin, from binding its socket to closing its last connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server as GrpcServer;
use tracing::{debug, error};

use crate::api::REQUEST_SIZE_MAX;
use crate::api::v1beta1::device_plugin_server::DevicePluginServer;
use crate::model::resource_name::ResourceName;
use crate::net::connections::{ConnectionId, Peers, Table, incoming};
use crate::net::own_socket::OwnSocket;
use crate::offer::resource::Resource;

use super::handle::PluginHandle;
use super::service::{HealthySince, Service};

/// The kubelet needs one connection. The others leave room for debugging clients.
const CONNECTIONS_MAX: usize = 16;

/// A running kubelet closes its connection within 10 ms after the stream ended.
const KUBELET_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const CALLS_TIMEOUT: Duration = Duration::from_secs(1);
/// By then every connection has failed, so the tasks only have to notice.
const TASKS_TIMEOUT: Duration = Duration::from_millis(500);

/// How long to wait for the directory's lock before the socket file is left behind.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// A running server. [`Server::stop`] shuts it down gracefully; dropping it aborts all calls.
pub struct Server {
    resource: ResourceName,
    socket: OwnSocket,
    listeners: watch::Sender<Arc<UnixListener>>,
    peers: Peers,
    healthy_since: HealthySince,
    /// Ends the ListAndWatch streams with OK.
    stopping: CancellationToken,
    /// Makes the server accept no more calls.
    draining: CancellationToken,
    /// Closes every connection, without waiting for calls in flight.
    close_all: DropGuard,
    /// Canceled when the server task has ended, even if it panicked.
    ended: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Server {
    /// Starts to serve the resource on the socket.
    pub fn start(socket: OwnSocket, resource: Arc<Resource>, handle: PluginHandle) -> Self {
        let close_all = CancellationToken::new();
        let peers = Peers::new(resource.socket.as_str(), close_all.clone(), CONNECTIONS_MAX);
        let (stopping, draining) = (CancellationToken::new(), CancellationToken::new());
        let listeners = watch::Sender::new(Arc::clone(socket.listener()));
        let name = resource.name.clone();
        let healthy_since = HealthySince::default();
        let service = Service {
            registered: resource,
            offer: handle.offers(),
            handle,
            peers: peers.clone(),
            healthy_since: healthy_since.clone(),
            stopping: stopping.clone(),
        };
        let service = DevicePluginServer::new(service).max_decoding_message_size(REQUEST_SIZE_MAX);
        let incoming = incoming(listeners.subscribe(), peers.clone());
        let drained = draining.clone().cancelled_owned();
        let ended = CancellationToken::new();
        let ended_guard = ended.clone().drop_guard();
        let resource = name.clone();
        let task = tokio::spawn(async move {
            let _ended = ended_guard;
            // Without a router, because there is only one service. It answers unknown paths itself.
            let server = GrpcServer::builder();
            let served = server.serve_with_incoming_shutdown(service, incoming, drained);
            if let Err(error) = served.await {
                error!(%resource, %error, "the plugin's gRPC server failed");
            }
        });
        Self {
            resource: name,
            socket,
            listeners,
            peers,
            healthy_since,
            stopping,
            draining,
            close_all: close_all.drop_guard(),
            ended,
            task: AbortOnDropHandle::new(task),
        }
    }

    pub fn socket(&self) -> &OwnSocket {
        &self.socket
    }

    /// Returns a receiver of the open connections and what their peers have called.
    pub fn peers(&self) -> watch::Receiver<Table> {
        self.peers.subscribe()
    }

    /// Returns since when every list that was sent had a healthy device, or `None` if the last one had none.
    pub fn healthy_since(&self) -> Option<Instant> {
        self.healthy_since.get()
    }

    /// Waits until the server task has ended, which is unexpected before [`Server::stop`].
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Accepts connections on another socket from now on. Open connections stay open.
    pub(crate) fn move_to(&mut self, socket: OwnSocket) {
        self.listeners.send_replace(Arc::clone(socket.listener()));
        self.socket = socket;
    }

    /// Shuts the server down: ends the streams with OK, answers calls until the kubelet closes its connection, waits
    /// for calls in flight, closes the remaining connections, and removes the socket. Each wait has a limit.
    pub async fn stop(mut self, kubelet: Option<ConnectionId>) {
        let resource = &self.resource;
        self.stopping.cancel();
        if let Some(kubelet) = kubelet {
            let mut peers = self.peers();
            let closed = peers.wait_for(|table| table.get(kubelet).is_none());
            if timeout(KUBELET_CLOSE_TIMEOUT, closed).await.is_err() {
                debug!(%resource, "the kubelet did not close its connection in time");
            }
        }
        self.peers.close_unused();
        self.draining.cancel();
        if timeout(CALLS_TIMEOUT, &mut self.task).await.is_err() {
            drop(self.close_all);
            if timeout(TASKS_TIMEOUT, &mut self.task).await.is_err() {
                error!(%resource, "the plugin's connections did not close in time; aborting its server");
            }
        }
        self.socket.remove(LOCK_TIMEOUT).await;
    }
}

//! A plugin's gRPC server on its socket, from the first accept to the last connection's end.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server as GrpcServer;
use tracing::{debug, error};

use crate::api::REQUEST_SIZE_MAX;
use crate::api::v1beta1::device_plugin_server::DevicePluginServer;
use crate::net::connections::{ConnectionId, Peers, Table, incoming};
use crate::net::own_socket::OwnSocket;
use crate::offer::resource::Resource;

use super::handle::PluginHandle;
use super::service::Service;

/// The kubelet needs one; the rest is for people who look.
const CONNECTIONS_MAX: usize = 16;

/// The kubelet closes its connection within 10 ms after the stream's end, if it lives.
const KUBELET_CLOSES_WITHIN: Duration = Duration::from_secs(2);
const CALLS_END_WITHIN: Duration = Duration::from_secs(1);
/// Nothing is left to wait for by then but our own tasks.
const TASKS_END_WITHIN: Duration = Duration::from_millis(500);

/// For the lock on the directory, to remove the socket.
const LOCK_WITHIN: Duration = Duration::from_millis(500);

/// A socket that is served. [`Server::stop`] ends it in order; dropping it ends it at once.
pub struct Server {
    socket: OwnSocket,
    listeners: watch::Sender<Arc<UnixListener>>,
    peers: Peers,
    /// Ends the streams.
    ending: CancellationToken,
    /// Takes no more calls.
    draining: CancellationToken,
    /// Fails every connection.
    cut: DropGuard,
    /// Is cancelled when the task has ended, however it did.
    over: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Server {
    /// Serves the resource on the socket. Must be called within a tokio runtime.
    pub fn start(socket: OwnSocket, resource: Arc<Resource>, handle: PluginHandle) -> Self {
        let cut = CancellationToken::new();
        let peers = Peers::new(resource.socket.as_str(), cut.clone(), CONNECTIONS_MAX);
        let (ending, draining) = (CancellationToken::new(), CancellationToken::new());
        let listeners = watch::Sender::new(Arc::clone(socket.listener()));
        let service = Service {
            registered: resource,
            offer: handle.offers(),
            handle,
            peers: peers.clone(),
            ending: ending.clone(),
        };
        let service = DevicePluginServer::new(service).max_decoding_message_size(REQUEST_SIZE_MAX);
        let incoming = incoming(listeners.subscribe(), peers.clone());
        let drained = draining.clone().cancelled_owned();
        let over = CancellationToken::new();
        let when_over = over.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _when_over = when_over;
            let mut server = GrpcServer::builder();
            let served = server.add_service(service);
            if let Err(error) = served.serve_with_incoming_shutdown(incoming, drained).await {
                error!(%error, "the plugin's server failed");
            }
        });
        Self {
            socket,
            listeners,
            peers,
            ending,
            draining,
            cut: cut.drop_guard(),
            over,
            task: AbortOnDropHandle::new(task),
        }
    }

    /// The socket that is served.
    pub fn socket(&self) -> &OwnSocket {
        &self.socket
    }

    /// Follows what the peers do.
    pub fn peers(&self) -> watch::Receiver<Table> {
        self.peers.subscribe()
    }

    /// Waits until nobody is accepted any more.
    pub async fn failed(&self) {
        self.over.cancelled().await;
    }

    /// Accepts on another socket from now on; connections stay.
    pub(crate) fn move_to(&mut self, socket: OwnSocket) {
        self.listeners.send_replace(Arc::clone(socket.listener()));
        self.socket = socket;
    }

    /// Ends the streams with OK and goes on answering until the kubelet closes its connection, gives
    /// calls in flight their time, closes every connection that is left, and removes the socket.
    pub async fn stop(mut self, kubelet: Option<ConnectionId>) {
        self.ending.cancel();
        if let Some(kubelet) = kubelet {
            let mut peers = self.peers();
            let closed = peers.wait_for(|table| table.get(kubelet).is_none());
            if timeout(KUBELET_CLOSES_WITHIN, closed).await.is_err() {
                debug!("the kubelet keeps its connection");
            }
        }
        self.peers.close_unused();
        self.draining.cancel();
        if timeout(CALLS_END_WITHIN, &mut self.task).await.is_err() {
            drop(self.cut);
            if timeout(TASKS_END_WITHIN, &mut self.task).await.is_err() {
                error!("a connection outlives its plugin");
            }
        }
        self.socket.remove(LOCK_WITHIN).await;
    }
}

//! One run of a plugin, from the connection to the kubelet to the removal of its socket. A run keeps no state: its
//! [`RunEnd`] has everything that the next run needs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::fault::Evaluated;
use crate::net::connections::{ConnectionId, Table};
use crate::net::own_socket::{BindError, OwnSocket, Predecessor};
use crate::node::holders::Holders;
use crate::node::plugin_dir::PluginDir;
use crate::node::registration::{KubeletConnection, NoKubelet};
use crate::node::watcher::KubeletSocket;
use crate::offer::resource::Resource;
use crate::plugin::record::{Record, Step};

use super::handle::PluginHandle;
use super::run_end::RunEnd;
use super::server::Server;
use super::settle::Settle;
use super::stream::{EndedStream, StreamEnd, StreamKubelet};

/// The plugin of one resource. It can be run repeatedly.
pub(crate) struct PluginInstance {
    pub handle: PluginHandle,
    pub dir: PluginDir,
    pub holders: Holders,
    /// The identity of kubelet.sock. A value is sent at each change and poll of the device plugin directory.
    pub kubelet: watch::Receiver<KubeletSocket>,
    /// Limits how many plugins connect and register at a time.
    pub registration_permits: Arc<Semaphore>,
    /// How long Register may take before its permit is released for another plugin.
    pub permit_timeout: Duration,
}

/// A connection to the kubelet, with the permit to register.
pub(crate) struct Connected {
    pub kubelet: KubeletConnection,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// The input of a run.
pub(crate) struct RunStart {
    pub resource: Arc<Resource>,
    pub connected: Connected,
    pub settle: Settle,
    /// The faults that were already evaluated for this registration.
    pub evaluated: Evaluated,
}

/// The open ListAndWatch stream.
struct KubeletStream {
    connection: ConnectionId,
    kubelet: StreamKubelet,
    /// The faults that were already evaluated for this stream.
    evaluated: Evaluated,
}

impl PluginInstance {
    /// Waits for a registration permit, then connects to the kubelet.
    ///
    /// # Errors
    /// Returns an error if no kubelet answers.
    pub async fn connect(&mut self) -> Result<Connected, NoKubelet> {
        self.entered(Step::Connecting);
        let permit = self.permit().await;
        // The watch may lag behind, so its current value may be older than this connection.
        self.kubelet.mark_unchanged();
        let kubelet = KubeletConnection::open(&self.dir.kubelet_socket()).await?;
        Ok(Connected { kubelet, permit })
    }

    /// Binds, registers, and serves until the stream ends or `stop` is canceled; then shuts down. When this returns,
    /// every connection is closed, and the socket file is removed unless another process holds the directory's lock.
    pub async fn run(&mut self, start: RunStart, stop: &CancellationToken) -> RunEnd {
        let (resource, identity) = (start.resource, start.connected.kubelet.identity());
        let (socket, before) = tokio::select! {
            bound = self.bind(&resource) => match bound {
                Ok(bound) => bound,
                Err(error) => return RunEnd::NotBound(error),
            },
            () = stop.cancelled() => return RunEnd::Stopped(None),
        };
        let settle = match before {
            Predecessor::None => start.settle,
            Predecessor::StaleSocket | Predecessor::ConcurrentBind => {
                start.settle.and_after_process()
            }
        };
        // Needed here too, because a run that panicked did not reach the call below.
        self.handle.removal().stream_ended();
        let mut server = Server::start(socket, Arc::clone(&resource), self.handle.clone());
        let registered = tokio::select! {
            // Boxed because its memory is needed only until the plugin is registered.
            registered = Box::pin(self.register(&resource, start.connected, &server, settle)) => registered,
            // The kubelet may already know the plugin, so the next run must settle.
            () = stop.cancelled() => Err(RunEnd::Stopped(Some(EndedStream {
                open_for: Duration::ZERO,
                kubelet: Some(identity),
                listed_healthy: false,
            }))),
        };
        let connection = registered.as_ref().ok().copied();
        let end = match registered {
            Ok(connection) => {
                let stream = KubeletStream {
                    connection,
                    kubelet: StreamKubelet::new(Some(identity), Instant::now()),
                    evaluated: start.evaluated,
                };
                self.serve(&resource, &mut server, stream, stop).await
            }
            Err(end) => end,
        };
        Box::pin(server.stop(connection)).await;
        self.handle.removal().stream_ended();
        debug!(resource = %resource.name, "stopped");
        end
    }

    pub(super) fn entered(&self, step: Step) {
        self.handle
            .update_record(|record, now| record.entered(step, now));
    }

    async fn bind(&self, resource: &Resource) -> Result<(OwnSocket, Predecessor), BindError> {
        self.entered(Step::Binding);
        let bound = OwnSocket::bind(self.dir.socket(&resource.socket)).await?;
        debug!(resource = %resource.name, endpoint = %resource.socket, "listening");
        Ok(bound)
    }

    /// Serves until the stream ends or `stop` is canceled.
    async fn serve(
        &mut self,
        resource: &Resource,
        server: &mut Server,
        mut stream: KubeletStream,
        stop: &CancellationToken,
    ) -> RunEnd {
        let devices = self.handle.offer().devices().len();
        info!(resource = %resource.name, endpoint = %resource.socket, devices, "registered");
        self.handle.update_record(Record::registered);
        let end = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            end = self.stream_end(&mut stream, resource, server) => Some(end),
        };
        // The lists of another plugin have replaced those of this one.
        let is_taken_over = self.handle.is_taken_over();
        self.entered(Step::Stopping);
        let healthy_since = server.healthy_since().filter(|_| !is_taken_over);
        let ended = stream.kubelet.ended(healthy_since, Instant::now());
        match end {
            None => RunEnd::Stopped(Some(ended)),
            Some(StreamEnd::Closed) => RunEnd::StreamEnded(ended),
            Some(StreamEnd::Dropped) => RunEnd::StreamDropped(ended),
            Some(StreamEnd::Suspended(suspensions)) => RunEnd::Suspended(ended, suspensions),
        }
    }

    /// Waits until the stream ends or a fault ends it. A file event never ends it: a second registration beside an open
    /// stream would lose the resource when the first stream ends.
    async fn stream_end(
        &mut self,
        stream: &mut KubeletStream,
        resource: &Resource,
        server: &mut Server,
    ) -> StreamEnd {
        let handle = self.handle.clone();
        let fault = handle.injector().until_stream_fault(&mut stream.evaluated);
        tokio::pin!(fault);
        let mut peers = server.peers();
        let is_closed = |table: &Table| {
            let peer = table.get(stream.connection);
            peer.is_none_or(|peer| peer.streams == 0)
        };
        loop {
            let closed = async { drop(peers.wait_for(is_closed).await) };
            tokio::select! {
                biased;
                () = closed => return StreamEnd::Closed,
                () = server.ended() => return StreamEnd::Closed,
                end = &mut fault => return end,
                Ok(()) = self.kubelet.changed() => {
                    stream.kubelet.observe_socket(*self.kubelet.borrow_and_update(), Instant::now());
                    // This blocks the loop for 2 s at most, while it waits for the directory's lock.
                    self.rebind_removed_socket(resource, server).await;
                }
            }
        }
    }

    /// Binds the socket again if its file was removed. Connections stay open, and the plugin does not register again,
    /// because that would end the stream.
    async fn rebind_removed_socket(&self, resource: &Resource, server: &mut Server) {
        if server.socket().is_in_place() {
            return;
        }
        let (resource, endpoint) = (&resource.name, &resource.socket);
        match OwnSocket::bind(self.dir.socket(endpoint)).await {
            Ok((socket, _)) => {
                server.move_to(socket);
                warn!(%resource, %endpoint, "the plugin's socket was removed; created it again");
            }
            Err(error) => {
                debug!(%resource, %endpoint, %error, "the plugin's socket was removed; cannot create it again");
            }
        }
    }
}

//! One run of a plugin, from the connection to the kubelet to the removal of its socket. It keeps nothing: what the next
//! run needs to know is in the value that it returns.

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
use super::register::Settle;
use super::run_end::RunEnd;
use super::server::Server;
use super::stream::{EndedStream, StreamEnd, StreamKubelet};

/// One resource's plugin, which can be run again and again.
pub(crate) struct PluginInstance {
    /// What it offers, and what became of it.
    pub handle: PluginHandle,
    /// Where its socket goes.
    pub dir: PluginDir,
    /// Which devices pods hold.
    pub holders: Holders,
    /// What stands at kubelet.sock.
    pub kubelet: watch::Receiver<KubeletSocket>,
    /// Lets a few instances register at a time.
    pub turns: Arc<Semaphore>,
    /// How long a registration that was sent keeps others from theirs.
    pub turn_length: Duration,
}

/// A kubelet, and the turn to register with it.
pub(crate) struct Connected {
    pub kubelet: KubeletConnection,
    pub(super) turn: Option<OwnedSemaphorePermit>,
}

/// What a run begins with.
pub(crate) struct RunStart {
    /// What it registers.
    pub resource: Arc<Resource>,
    pub connected: Connected,
    /// By what is known of earlier runs.
    pub settle: Settle,
    /// The faults that were evaluated for this registration.
    pub evaluated: Evaluated,
}

/// The stream that the kubelet has open.
struct KubeletStream {
    connection: ConnectionId,
    kubelet: StreamKubelet,
    /// The faults that were evaluated for it.
    evaluated: Evaluated,
}

impl PluginInstance {
    /// Waits for its turn, then connects to the kubelet.
    ///
    /// # Errors
    /// When no kubelet answers.
    pub async fn connect(&mut self) -> Result<Connected, NoKubelet> {
        self.entered(Step::Connecting);
        let turn = self.turn().await;
        // What the watch found before says nothing of the stream to come: it may lag behind.
        self.kubelet.mark_unchanged();
        let kubelet = KubeletConnection::open(&self.dir.kubelet_socket()).await?;
        Ok(Connected { kubelet, turn })
    }

    /// Binds, registers, and serves until the stream ends or `stop` is canceled; then shuts down. Whatever
    /// happens, every connection is closed when this returns, and the socket's file is gone unless
    /// somebody keeps the directory locked.
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
            Predecessor::StaleSocket | Predecessor::ConcurrentBind => Settle::Yes,
        };
        // Also where the run before panicked: what its stream reported was reported to another life of the kubelet.
        self.handle.removal().stream_ended();
        let mut server = Server::start(socket, Arc::clone(&resource), self.handle.clone());
        let registered = tokio::select! {
            // Boxed, since its memory is needed for a moment only.
            registered = Box::pin(self.register(&resource, start.connected, &server, settle)) => {
                registered.map_err(RunEnd::NotRegistered)
            }
            // The kubelet may know the plugin already.
            () = stop.cancelled() => Err(RunEnd::Stopped(Some(EndedStream {
                lived: Duration::ZERO,
                kubelet: Some(identity),
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
        self.handle.note(|record, now| record.entered(step, now));
    }

    async fn bind(&self, resource: &Resource) -> Result<(OwnSocket, Predecessor), BindError> {
        self.entered(Step::Binding);
        let bound = OwnSocket::bind(self.dir.socket(&resource.socket)).await?;
        debug!(resource = %resource.name, endpoint = %resource.socket, "Starting to listen");
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
        self.handle.note(Record::registered);
        let end = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            end = self.end_of(&mut stream, resource, server) => Some(end),
        };
        self.entered(Step::Stopping);
        let ended = stream.kubelet.ended(Instant::now());
        match end {
            None => RunEnd::Stopped(Some(ended)),
            Some(StreamEnd::Closed) => RunEnd::StreamEnded(ended),
            Some(StreamEnd::Dropped) => RunEnd::StreamDropped(ended),
            Some(StreamEnd::Suspended(suspensions)) => RunEnd::Suspended(ended, suspensions),
        }
    }

    /// The open stream is the truth: only its end or a fault ends this.
    async fn end_of(
        &mut self,
        stream: &mut KubeletStream,
        resource: &Resource,
        server: &mut Server,
    ) -> StreamEnd {
        let handle = self.handle.clone();
        let fault = handle.injector().end_stream(&mut stream.evaluated);
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
                () = server.failed() => return StreamEnd::Closed,
                end = &mut fault => return end,
                Ok(()) = self.kubelet.changed() => {
                    stream.kubelet.saw(*self.kubelet.borrow_and_update(), Instant::now());
                    // Waits for nothing but the directory's lock.
                    self.keep_socket(resource, server).await;
                }
            }
        }
    }

    /// Binds the socket anew if someone removed it. The open connections stay, and nobody registers:
    /// that would end the stream.
    async fn keep_socket(&self, resource: &Resource, server: &mut Server) {
        if server.socket().is_in_place() {
            return;
        }
        let (resource, endpoint) = (&resource.name, &resource.socket);
        match OwnSocket::bind(self.dir.socket(endpoint)).await {
            Ok((socket, _)) => {
                server.move_to(socket);
                warn!(%resource, %endpoint, "the socket was removed: bound it anew");
            }
            Err(error) => debug!(%resource, %endpoint, %error, "the socket was removed"),
        }
    }
}

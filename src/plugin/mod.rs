//! One device plugin: a run from the connection to the kubelet to the removal of its socket.

mod faults;
mod handle;
mod memory;
mod outcome;
pub mod record;
mod server;
mod service;

pub use handle::PluginHandle;
pub(crate) use memory::RunMemory;
pub(crate) use outcome::{Ended, RunError};

use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, trace, warn};

use crate::fault::Evaluated;
use crate::net::connections::{ConnectionId, Table};
use crate::net::own_socket::{Before, BindError, OwnSocket};
use crate::node::checkpoint_file::CheckpointError;
use crate::node::holders::Holders;
use crate::node::plugin_dir::PluginDir;
use crate::node::registration::{KubeletConnection, NoKubelet};
use crate::node::watcher::KubeletSocket;
use crate::offer::resource::Resource;
use crate::plugin::record::{Cause, Record, Step};

use memory::{Settle, StreamKubelet};
use outcome::StreamEnd;
use server::Server;

/// The kubelet disconnects a plugin up to 20 ms after it closed the connection, and the disconnect hits any plugin
/// that registered the resource in between.
const SETTLE: Duration = Duration::from_millis(500);

const STREAM_OPENS_WITHIN: Duration = Duration::from_secs(5);

/// A kubelet, and the turn to register with it.
type Reached = (KubeletConnection, Option<OwnedSemaphorePermit>);

/// One resource's plugin, run again and again.
pub(crate) struct PluginInstance {
    /// What it registers in this run.
    pub resource: Arc<Resource>,
    /// What it offers, and what became of it.
    pub handle: PluginHandle,
    /// Where its socket goes.
    pub dir: PluginDir,
    /// Which devices pods hold.
    pub(crate) holders: Holders,
    /// What stands at kubelet.sock.
    pub kubelet: watch::Receiver<KubeletSocket>,
    /// Lets a few instances register at a time.
    pub(crate) turns: Arc<Semaphore>,
    /// How long a registration that was sent keeps others from theirs.
    pub(crate) turn_length: Duration,
}

impl PluginInstance {
    /// Connect, bind, register, and serve until the stream ends or `stop` is canceled; then shut down. Whatever
    /// happens, every connection is closed when this returns, and the socket's file is gone unless
    /// somebody keeps the directory locked.
    ///
    /// # Errors
    /// Why it was never registered.
    pub async fn run(
        &mut self,
        memory: &mut RunMemory,
        stop: &CancellationToken,
    ) -> Result<Ended, RunError> {
        let mut evaluated = Evaluated::new();
        let (kubelet, turn) = tokio::select! {
            reached = self.reach(memory, &mut evaluated) => reached?,
            () = stop.cancelled() => return Ok(Ended::After(Duration::ZERO)),
        };
        let (socket, before) = tokio::select! {
            bound = self.bind(memory) => bound?,
            () = stop.cancelled() => return Ok(Ended::After(Duration::ZERO)),
        };
        let settle = memory.settle(before);
        // Also where the run before panicked: what its stream reported was reported to another life of the kubelet.
        self.handle.removal.lock().stream_ended();
        let mut server = Server::start(socket, Arc::clone(&self.resource), self.handle.clone());
        memory.registers();
        let registered = tokio::select! {
            registered = self.register(kubelet, &server, settle, turn) => registered.map(Some),
            () = stop.cancelled() => Ok(None),
        };
        let ended = match registered {
            Ok(Some(stream)) => {
                self.watch_stream(&mut server, stream, memory, &mut evaluated, stop)
                    .await
            }
            _ => Ended::After(Duration::ZERO),
        };
        let kubelets = registered.as_ref().ok().copied().flatten();
        server.stop(kubelets).await;
        self.handle.removal.lock().stream_ended();
        debug!(resource = %self.resource.name, "stopped");
        registered.map(|_| ended)
    }

    fn entered(&self, step: Step) {
        self.handle.note(|record, now| record.entered(step, now));
    }

    /// Connects to a kubelet that it may register with: no fault suspends it. Each fault is evaluated once.
    async fn reach(
        &mut self,
        memory: &mut RunMemory,
        evaluated: &mut Evaluated,
    ) -> Result<Reached, NoKubelet> {
        loop {
            if memory
                .suspensions
                .iter()
                .any(|by| self.handle.is_suspended_by(by))
            {
                self.entered(Step::Suspended);
                for by in &memory.suspensions {
                    self.handle.suspension_ended(by).await;
                }
            }
            let reached = self.connect(memory).await?;
            // It is the registration that was suspended.
            evaluated.extend(memory.suspensions.iter().map(|by| by.id));
            memory.suspensions = self.handle.suspend(evaluated);
            if memory.suspensions.is_empty() {
                return Ok(reached);
            }
        }
    }

    /// Waits for its turn, then for the kubelet.
    async fn connect(&mut self, memory: &mut RunMemory) -> Result<Reached, NoKubelet> {
        self.entered(Step::Connecting);
        let turn = self.turn().await;
        memory.tried = *self.kubelet.borrow_and_update();
        let kubelet = KubeletConnection::open(&self.dir.kubelet_socket()).await?;
        memory.tried = Some(kubelet.identity());
        if let Some(cause) = memory.came_back() {
            self.handle.note(|record, _| record.restarted(cause));
        }
        Ok((kubelet, turn))
    }

    /// A turn among the few that register; never closed, so there is always one.
    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }

    async fn bind(&self, memory: &mut RunMemory) -> Result<(OwnSocket, Before), BindError> {
        let (resource, endpoint) = (&self.resource.name, &self.resource.socket);
        self.entered(Step::Binding);
        let bound = OwnSocket::bind(self.dir.socket(endpoint)).await;
        match &bound {
            Ok(_) => debug!(%resource, %endpoint, "Starting to listen"),
            Err(BindError::Taken) => memory.waits_for_another(),
            Err(_) => {}
        }
        bound
    }

    /// Registers on the connection that was open before the socket was bound, and waits until the
    /// kubelet has opened ListAndWatch. Returns the connection of that stream.
    async fn register(
        &self,
        kubelet: KubeletConnection,
        server: &Server,
        settle: Settle,
        mut turn: Option<OwnedSemaphorePermit>,
    ) -> Result<ConnectionId, RunError> {
        let (resource, endpoint) = (&self.resource.name, &self.resource.socket);
        let settles = match settle {
            Settle::No => false,
            Settle::IfListed => self.may_be_listed().await,
            Settle::Yes => true,
        };
        if settles {
            drop(turn.take());
            self.entered(Step::Settling);
            debug!(%resource, "settling: the kubelet may still be disconnecting a predecessor");
            sleep(SETTLE).await;
            turn = self.turn().await;
        }
        self.entered(Step::Registering);
        let registering = async {
            self.hold_what_pods_hold().await;
            let checkpoint_before = self.holders.checkpoint.version();
            self.handle
                .note(|record, _| record.checkpoint_before = checkpoint_before);
            trace!(%resource, %endpoint, "Registration.register");
            let mut peers = server.peers();
            let first = peers.borrow().next();
            let answer = kubelet.register(self.resource.registration()).await;
            if answer.is_err() && peers.borrow().refused_outside() {
                return Err(RunError::UserNamespace);
            }
            answer?;
            let dialled = first..peers.borrow().next();
            called_back(&mut peers, dialled).await
        };
        // A slow registration gives its turn away.
        let turn_over = async {
            sleep(self.turn_length).await;
            drop(turn.take());
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            registered = registering => registered,
            never = turn_over => match never {},
        }
    }

    /// Whether the kubelet knows the resource, or may know it.
    async fn may_be_listed(&self) -> bool {
        match self.holders.checkpoint.read_lately().await {
            Ok(written) => written.checkpoint.lists(self.resource.name.as_str()),
            Err(error) => error != CheckpointError::Missing,
        }
    }

    /// Whoever had the resource before may have given devices to pods that the configuration lacks. The first list
    /// must have them: the kubelet crashes over one that a pod holds and the list lacks.
    async fn hold_what_pods_hold(&self) {
        let held = self.holders.held(&self.resource.name).await;
        self.handle.offer.hold(&held);
    }

    /// Stays until the stream ends, and notes how.
    async fn watch_stream(
        &mut self,
        server: &mut Server,
        stream: ConnectionId,
        memory: &mut RunMemory,
        evaluated: &mut Evaluated,
        stop: &CancellationToken,
    ) -> Ended {
        let (resource, endpoint) = (&self.resource.name, &self.resource.socket);
        let devices = self.handle.offer.now().devices().len();
        info!(%resource, %endpoint, devices, "registered");
        self.handle.note(Record::registered);
        let opened = Instant::now();
        let mut under = StreamKubelet::new(memory.tried, opened);
        let end = self
            .end_of(stream, server, &mut under, evaluated, stop)
            .await;
        memory.stream_ended(&under, Instant::now());
        let lived = opened.elapsed();
        match end {
            StreamEnd::Stop => {
                self.entered(Step::Stopping);
                return Ended::After(lived);
            }
            StreamEnd::Stream => {
                memory.lost_stream();
                self.starts_over("the stream ended", lived);
                return Ended::After(lived);
            }
            StreamEnd::Dropped => self.injected("a fault dropped the stream", lived),
            StreamEnd::Suspended(suspensions) => {
                memory.suspensions = suspensions;
                self.injected("a fault suspends the registration", lived);
            }
        }
        Ended::ByFault
    }

    fn injected(&self, how: &'static str, lived: Duration) {
        self.handle.note(|record, _| record.restarted(Cause::Fault));
        self.starts_over(how, lived);
    }

    fn starts_over(&self, why: &'static str, lived: Duration) {
        self.handle
            .note(|record, now| record.stream_ended(why, now));
        warn!(resource = %self.resource.name, seconds = lived.as_secs(), "{why}: starting over");
    }

    /// The open stream is the truth: only its end, a fault, or `stop`, ends this.
    async fn end_of(
        &mut self,
        stream: ConnectionId,
        server: &mut Server,
        under: &mut StreamKubelet,
        evaluated: &mut Evaluated,
        stop: &CancellationToken,
    ) -> StreamEnd {
        let handle = self.handle.clone();
        let fault = handle.end_stream(evaluated);
        tokio::pin!(fault);
        let mut peers = server.peers();
        loop {
            let over = async {
                let closed = |table: &Table| table.get(stream).is_none_or(|peer| peer.streams == 0);
                drop(peers.wait_for(closed).await);
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return StreamEnd::Stop,
                () = over => return StreamEnd::Stream,
                () = server.failed() => return StreamEnd::Stream,
                end = &mut fault => return end,
                Ok(()) = self.kubelet.changed() => {
                    under.saw(*self.kubelet.borrow_and_update(), Instant::now());
                    // Waits for nothing but the directory's lock.
                    tokio::select! {
                        () = self.keep_socket(server) => {}
                        () = stop.cancelled() => return StreamEnd::Stop,
                    }
                }
            }
        }
    }

    /// Binds the socket anew if someone removed it. The open connections stay, and nobody registers:
    /// that would end the stream.
    async fn keep_socket(&self, server: &mut Server) {
        if server.socket().is_in_place() {
            return;
        }
        let (resource, endpoint) = (&self.resource.name, &self.resource.socket);
        match OwnSocket::bind(self.dir.socket(endpoint)).await {
            Ok((socket, _)) => {
                server.move_to(socket);
                warn!(%resource, %endpoint, "the socket was removed: bound it anew");
            }
            Err(error) => debug!(%resource, %endpoint, %error, "the socket was removed"),
        }
    }
}

/// OK alone does not mean registered: the kubelet must have dialled and asked for the options
/// meanwhile, so on one of the connections made until then, and it must open ListAndWatch on that same one.
async fn called_back(
    peers: &mut watch::Receiver<Table>,
    dialled: Range<ConnectionId>,
) -> Result<ConnectionId, RunError> {
    let asked = |table: &Table| table.find(dialled.clone(), |peer| peer.asked_options);
    let streamed =
        |table: &Table| table.find(dialled.clone(), |peer| peer.asked_options && peer.streamed);
    if asked(&peers.borrow()).is_none() {
        return Err(RunError::NotCalledBack);
    }
    let decided = peers.wait_for(|table| streamed(table).is_some() || asked(table).is_none());
    match timeout(STREAM_OPENS_WITHIN, decided).await {
        Ok(Ok(table)) => streamed(&table).ok_or(RunError::NoStream),
        _ => Err(RunError::NoStream),
    }
}

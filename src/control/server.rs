//! The server side of the control socket. Only root and the daemon's own user may connect.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::net::clients::{self, RequestSeen};
use crate::net::connections::is_trusted;
use crate::net::own_socket::{BindError, OwnSocket};
use crate::node::watcher::KubeletSocket;
use crate::observe::status::{Status, WithDevices};
use crate::observe::{Observer, Snapshot};
use crate::plugin::PluginHandle;
use crate::supervisor::PluginRegistry;
use crate::util::retry::until_ok;
use crate::util::sanitize::sanitize;

use super::apply;
use super::protocol::{Message, MessageVersion, Refusal, Reply, Request, VERSION};

/// The socket's name in the log.
const SOCKET_NAME: &str = "the control socket";

const CONNECTIONS_MAX: usize = 8;

/// A refusal lists at most this many resource names, and the number of the others.
const NAMES_MAX: usize = 8;

/// How many status replies can be in memory at a time, since they can be large.
const STATUS_SLOTS: usize = 2;

/// A connection is closed if its request has not arrived within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// In bytes.
const REQUEST_SIZE_MAX: u64 = 64 * 1024;

/// Serves until `shutdown`, then removes the socket. Retries until the socket can be bound; the plugins do not wait for
/// that. If the socket is removed, binds it again at the next value of `kubelet_socket`, which is sent at each poll.
pub async fn run(
    path: PathBuf,
    observer: Observer,
    plugins: PluginRegistry,
    mut kubelet_socket: watch::Receiver<KubeletSocket>,
    shutdown: CancellationToken,
) {
    let serving = async {
        let handler = RequestHandler {
            observer,
            plugins,
            slots: Arc::new(Semaphore::new(STATUS_SLOTS)),
        };
        loop {
            let socket = bind(&path).await;
            info!(path = %path.display(), "listening for commands");
            tokio::select! {
                () = shutdown.cancelled() => return socket,
                never = serve(&socket, handler.clone()) => match never {},
                () = until_removed(&socket, &mut kubelet_socket) => {
                    warn!(path = %path.display(), "the control socket was removed: binding it again");
                }
            }
        }
    };
    let socket = tokio::select! {
        biased;
        socket = serving => socket,
        () = shutdown.cancelled() => return,
    };
    // Shutdown does not wait for the lock on the directory.
    socket.remove(Duration::ZERO).await;
}

/// Binds the socket, with retries until that succeeds.
async fn bind(path: &Path) -> OwnSocket {
    let failure = format!(
        "cannot bind the control socket {}: retrying; set a different CONTROL_SOCKET if it is in use",
        path.display()
    );
    let attempt = async || {
        create_parent_dir(path)?;
        OwnSocket::bind(path.to_owned()).await
    };
    until_ok(&failure, attempt).await.0
}

async fn until_removed(socket: &OwnSocket, polls: &mut watch::Receiver<KubeletSocket>) {
    while socket.is_in_place() {
        if polls.changed().await.is_err() {
            // The watcher has ended: the daemon is stopping.
            std::future::pending::<()>().await;
        }
    }
}

/// Creates the socket's directory if its parent exists. Outside of a container nothing else creates the default one.
fn create_parent_dir(path: &Path) -> Result<(), BindError> {
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

async fn serve(socket: &OwnSocket, handler: RequestHandler) -> Infallible {
    let listener = Arc::clone(socket.listener());
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    clients::serve(SOCKET_NAME, CONNECTIONS_MAX, accept, |stream, request| {
        handle_connection(stream, request, handler.clone())
    })
    .await
}

async fn handle_connection(mut stream: UnixStream, seen: RequestSeen, handler: RequestHandler) {
    if !is_trusted(&stream, SOCKET_NAME) {
        return;
    }
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(REQUEST_SIZE_MAX));
    match timeout(REQUEST_TIMEOUT, read.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return,
    }
    seen.record();
    let reply = match parse(&line) {
        Ok(request) => handler.respond(request).await,
        Err(refusal) => Reply::Refused(refusal).into(),
    };
    if let Err(error) = write.write_all(&reply.text).await {
        debug!(%error, "cannot send the reply on the control socket");
    }
}

fn parse(line: &[u8]) -> Result<Request, Refusal> {
    let malformed = |error: serde_json::Error| Refusal::Malformed(sanitize(&error.to_string()));
    let MessageVersion { version } = serde_json::from_slice(line).map_err(malformed)?;
    if version != VERSION {
        return Err(Refusal::Version { supported: VERSION });
    }
    let request: Message<Request> = serde_json::from_slice(line).map_err(malformed)?;
    Ok(request.body)
}

/// A line of JSON. A large one occupies its slot until it is sent or its client has disconnected.
struct ReplyLine {
    text: Vec<u8>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl From<Reply> for ReplyLine {
    fn from(reply: Reply) -> Self {
        let message = Message {
            version: VERSION,
            body: reply,
        };
        let mut text = serde_json::to_vec(&message).expect("every key of a reply is a string");
        text.push(b'\n');
        Self { text, _slot: None }
    }
}

#[derive(Clone)]
struct RequestHandler {
    observer: Observer,
    plugins: PluginRegistry,
    slots: Arc<Semaphore>,
}

impl RequestHandler {
    async fn respond(&self, request: Request) -> ReplyLine {
        let result = match request {
            Request::Status { devices } => return self.status(devices).await,
            Request::Health {
                resource,
                devices,
                health,
            } => self.with_plugin(&resource, |plugin| {
                apply::health(plugin, &devices, health).map(Reply::Health)
            }),
            Request::Scale { resource, count } => self.with_plugin(&resource, |plugin| {
                apply::scale(plugin, count).map(Reply::Scale)
            }),
            Request::Reset { resource } => {
                self.with_plugin(&resource, |plugin| Ok(Reply::Reset(apply::reset(plugin))))
            }
            Request::Fault { resource, fault } => self.with_plugin(&resource, |plugin| {
                let set = apply::fault(plugin, *fault)?;
                Ok(Reply::Fault(set.into()))
            }),
            Request::Clear { resource } => self.with_plugin(&resource, |plugin| {
                Ok(Reply::Clear(vec![apply::clear(plugin)]))
            }),
            Request::ClearAll {} => {
                let plugins = self.plugins.all();
                Ok(Reply::Clear(plugins.iter().map(apply::clear).collect()))
            }
        };
        result.unwrap_or_else(Reply::Refused).into()
    }

    /// Applies a request to the plugin of one resource.
    fn with_plugin(
        &self,
        resource: &str,
        apply: impl FnOnce(&PluginHandle) -> Result<Reply, Refusal>,
    ) -> Result<Reply, Refusal> {
        let Some(plugin) = self.plugins.find(resource) else {
            let plugins = self.plugins.all();
            let offers = plugins.iter().map(PluginHandle::offer);
            return Err(no_resource(
                resource,
                offers.map(|offer| offer.resource().name.to_string()),
            ));
        };
        apply(&plugin)
    }

    async fn status(&self, with_devices: WithDevices) -> ReplyLine {
        // An error would mean that the semaphore is closed, which never happens.
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let snapshot = match with_devices {
            WithDevices::None => self.observer.snapshot_with_holders().await,
            WithDevices::All | WithDevices::Of(_) => self.observer.snapshot_with_waits().await,
        };
        // The blocking task owns the slot, because it continues after its client has disconnected.
        let rendering = self.observer.render(move || ReplyLine {
            _slot: slot.ok(),
            ..status(&snapshot, &with_devices).into()
        });
        let reply = rendering.await;
        reply.unwrap_or_else(|_| Reply::Refused(Refusal::Internal).into())
    }
}

fn status(snapshot: &Snapshot, with_devices: &WithDevices) -> Reply {
    let status = Status::of(snapshot, with_devices);
    match with_devices {
        WithDevices::Of(name) if status.resources.is_empty() => {
            let plugins = snapshot.plugins.iter();
            let names = plugins.map(|plugin| plugin.name().to_owned());
            Reply::Refused(no_resource(name, names))
        }
        _ => Reply::Status(Box::new(status)),
    }
}

fn no_resource(resource: &str, names: impl Iterator<Item = String>) -> Refusal {
    let mut known: Vec<String> = names.collect();
    let more = known.split_off(known.len().min(NAMES_MAX)).len();
    Refusal::NoSuchResource {
        resource: resource.to_owned(),
        known,
        more,
    }
}

//! Replies on the control socket. Only root and our own user may ask.

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

const CONNECTIONS_MAX: usize = 8;

/// A refusal names at most this many resources, and says how many more there are.
const NAMES_MAX: usize = 8;

/// Answers are made and sent so many at a time: they can be large.
const MADE_AT_A_TIME: usize = 2;

/// The request has come by then, or its connection ends.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// In bytes; a request is a line.
const REQUEST_SIZE_MAX: u64 = 64 * 1024;

/// Serves until `over`, then removes the socket. One that cannot be made is tried again, and nothing else waits
/// for it. One that was removed is made anew at the next value of `kubelet_socket`, which comes at each poll.
pub async fn run(
    path: PathBuf,
    observer: Observer,
    plugins: PluginRegistry,
    mut kubelet_socket: watch::Receiver<KubeletSocket>,
    over: CancellationToken,
) {
    let serving = async {
        let handler = RequestHandler {
            observer,
            plugins,
            slots: Arc::new(Semaphore::new(MADE_AT_A_TIME)),
        };
        loop {
            let socket = make(&path).await;
            info!(path = %path.display(), "listening for commands");
            tokio::select! {
                () = over.cancelled() => return socket,
                never = serve(&socket, handler.clone()) => match never {},
                () = removed(&socket, &mut kubelet_socket) => {
                    warn!(path = %path.display(), "the control socket was removed: making it anew");
                }
            }
        }
    };
    let served = tokio::select! {
        biased;
        socket = serving => socket,
        () = over.cancelled() => return,
    };
    // Who keeps the directory locked does not keep us from ending.
    served.remove(Duration::ZERO).await;
}

/// Makes the socket, sooner or later.
async fn make(path: &Path) -> OwnSocket {
    let failure = format!(
        "cannot bind the control socket {}: retrying; set a different CONTROL_SOCKET if it is in use",
        path.display()
    );
    let bind = async || {
        make_dir_of(path)?;
        OwnSocket::bind(path.to_owned()).await
    };
    until_ok(&failure, bind).await.0
}

async fn removed(socket: &OwnSocket, polls: &mut watch::Receiver<KubeletSocket>) {
    while socket.is_in_place() {
        if polls.changed().await.is_err() {
            // The watcher has ended, and with it soon the program.
            std::future::pending::<()>().await;
        }
    }
}

/// The directory of the default is made where its parent is there: outside a container nothing else creates it.
fn make_dir_of(path: &Path) -> Result<(), BindError> {
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
    clients::serve(
        "the control socket",
        CONNECTIONS_MAX,
        accept,
        |stream, request| converse(stream, request, handler.clone()),
    )
    .await
}

async fn converse(mut stream: UnixStream, seen: RequestSeen, handler: RequestHandler) {
    if !is_trusted(&stream) {
        return;
    }
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(REQUEST_SIZE_MAX));
    match timeout(REQUEST_WITHIN, read.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) | Err(_) => return,
    }
    seen.note();
    let reply = match parse(&line) {
        Ok(request) => handler.respond(request).await,
        Err(refusal) => Reply::Refused(refusal).into(),
    };
    if let Err(error) = write.write_all(&reply.text).await {
        debug!(%error, "nobody waits for the reply on the control socket");
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

/// A line of JSON. A large one keeps its slot until it is sent, or given up.
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
        let mut text = serde_json::to_vec(&message).expect("every key of a reply is a text");
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
        let done = match request {
            Request::Status { devices } => return self.status(devices).await,
            Request::Health {
                resource,
                devices,
                health,
            } => self.with(&resource, |plugin| {
                apply::health(plugin, &devices, health).map(Reply::Health)
            }),
            Request::Scale { resource, count } => self.with(&resource, |plugin| {
                apply::scale(plugin, count).map(Reply::Scale)
            }),
            Request::Reset { resource } => {
                self.with(&resource, |plugin| Ok(Reply::Reset(apply::reset(plugin))))
            }
            Request::Fault { resource, fault } => self.with(&resource, |plugin| {
                let set = apply::fault(plugin, *fault)?;
                Ok(Reply::Fault(set.into()))
            }),
            Request::Clear { resource } => self.with(&resource, |plugin| {
                Ok(Reply::Clear(vec![apply::clear(plugin)]))
            }),
            Request::ClearAll {} => {
                let plugins = self.plugins.all();
                Ok(Reply::Clear(plugins.iter().map(apply::clear).collect()))
            }
        };
        done.unwrap_or_else(Reply::Refused).into()
    }

    /// Does something with one resource's plugin.
    fn with(
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

    /// Made on a thread of its own.
    async fn status(&self, wanted: WithDevices) -> ReplyLine {
        // Never closed, so there is always one.
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let snapshot = match wanted {
            WithDevices::None => self.observer.snapshot().await,
            WithDevices::All | WithDevices::Of(_) => self.observer.snapshot_with_waits().await,
        };
        // The slot belongs to the work, which goes on when its client is disconnected.
        let making = tokio::task::spawn_blocking(move || ReplyLine {
            _slot: slot.ok(),
            ..status(&snapshot, &wanted).into()
        });
        let made = making.await;
        made.unwrap_or_else(|_| Reply::Refused(Refusal::Internal).into())
    }
}

fn status(snapshot: &Snapshot, wanted: &WithDevices) -> Reply {
    let status = Status::of(snapshot, wanted);
    match wanted {
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

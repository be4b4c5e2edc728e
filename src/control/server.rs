//! Answers on the control socket. Only root and our own user may ask.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::connections::is_trusted;
use crate::foreign::foreign;
use crate::guests;
use crate::observer::{Observer, PluginView};
use crate::own_socket::{BindError, OwnSocket};
use crate::status::{Devices, Status};

use super::{Reply, Request};

const CONNECTIONS_MAX: usize = 8;

/// The request has come by then, or its connection ends.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// In bytes; a request is a line.
const REQUEST_SIZE_MAX: u64 = 64 * 1024;

/// Serves until `over`, then removes the socket. One that cannot be made is tried again, and nothing else waits
/// for it.
pub async fn run(path: PathBuf, observer: Observer, over: CancellationToken) {
    let mut backoff = Backoff::default();
    let mut told = false;
    let shown = path.display();
    let socket = loop {
        let bound = async {
            make_dir_of(&path)?;
            OwnSocket::bind(path.clone()).await
        };
        match bound.await {
            Ok((socket, _)) => break socket,
            Err(error) if told => debug!(path = %shown, %error, "no control socket"),
            Err(error) => {
                warn!(path = %shown, %error, "no control socket: trying on; another CONTROL_SOCKET is the way out");
                told = true;
            }
        }
        tokio::select! {
            () = over.cancelled() => return,
            () = sleep(backoff.pause(fastrand::f64())) => {}
        }
    };
    info!(path = %shown, "listening for commands");
    tokio::select! {
        () = over.cancelled() => {}
        never = serve(&socket, observer) => never,
    }
    socket.remove().await;
}

/// The directory of the default is made where its parent is there: by hand there is no volume for it.
fn make_dir_of(path: &Path) -> Result<(), BindError> {
    let Some(dir) = path.parent() else {
        return Ok(());
    };
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

async fn serve<T>(socket: &OwnSocket, observer: Observer) -> T {
    let listener = Arc::clone(socket.listener());
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    guests::receive("the control socket", CONNECTIONS_MAX, accept, |stream| {
        converse(stream, observer.clone())
    })
    .await
}

async fn converse(mut stream: UnixStream, observer: Observer) {
    if !is_trusted(&stream) {
        return;
    }
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(REQUEST_SIZE_MAX));
    let request = match timeout(REQUEST_WITHIN, read.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) => serde_json::from_slice::<Request>(&line),
        Ok(Err(_)) | Err(_) => return,
    };
    let reply = match request {
        Ok(request) => reply(request, &observer).await,
        Err(error) => Reply::Error(format!("not a request: {}", foreign(&error.to_string()))),
    };
    let Ok(mut text) = serde_json::to_vec(&reply) else {
        return;
    };
    text.push(b'\n');
    if let Err(error) = write.write_all(&text).await {
        debug!(%error, "nobody waits for the answer on the control socket");
    }
}

async fn reply(request: Request, observer: &Observer) -> Reply {
    match request {
        Request::Status { resource, devices } => status(resource, devices, observer).await,
    }
}

/// Made beside everything else that runs.
async fn status(resource: Option<String>, devices: bool, observer: &Observer) -> Reply {
    let view = observer.look().await;
    let made = tokio::task::spawn_blocking(move || {
        let wanted = match &resource {
            Some(name) => Devices::Of(name),
            None if devices => Devices::All,
            None => Devices::None,
        };
        let status = Status::of(&view, wanted);
        match resource {
            Some(name) if status.resources.is_empty() => {
                let names: Vec<&str> = view.plugins.iter().map(PluginView::name).collect();
                Reply::Error(format!(
                    "no resource {}; there are: {}",
                    foreign(&name),
                    names.join(", ")
                ))
            }
            _ => Reply::Status(Box::new(status)),
        }
    });
    made.await
        .unwrap_or_else(|_| Reply::Error("a bug: see the log of the program".to_owned()))
}

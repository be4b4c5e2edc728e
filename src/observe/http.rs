//! The read-only HTTP server on `HTTP_ADDRESS`: `/livez`, `/readyz`, `/metrics` and `/status`.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::config::HttpAddress;
use crate::net::clients::{self, RequestSeen};
use crate::observe::metrics;
use crate::observe::readiness;
use crate::observe::status::{Status, WithDevices};
use crate::observe::{Observer, Snapshot};
use crate::util::retry::until_ok;

const CONNECTIONS_MAX: usize = 32;

/// A connection is closed if the request's headers have not arrived within this time.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(5);

/// In bytes.
const HEADERS_SIZE_MAX: usize = 16 * 1024;

/// How many large responses to one path can be in memory at a time, so that slow readers cannot use up the memory.
const SLOTS: usize = 2;
/// A request that waits longer than this for a slot gets status 503.
const SLOT_TIMEOUT: Duration = Duration::from_secs(5);

/// The length of the kernel's queue of connections that are not accepted yet.
const BACKLOG: u32 = 1024;

/// Serves until `shutdown`. Retries until the address can be bound; the plugins do not wait for that.
pub async fn run(address: HttpAddress, observer: Observer, shutdown: CancellationToken) {
    let failure = format!(
        "cannot serve HTTP on {address}: retrying; set a different HTTP_ADDRESS if it is in use"
    );
    let serving = async {
        let listener = until_ok(&failure, async || listen(address)).await;
        serve(listener, observer).await
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        never = serving => match never {},
    }
}

/// Listens on the address. For all addresses, binds one dual-stack IPv6 socket, or IPv4 if the host has no IPv6.
fn listen(address: HttpAddress) -> io::Result<TcpListener> {
    let socket = match address {
        HttpAddress::Every(port) => match bind_dual_stack(port) {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(_) => bind(TcpSocket::new_v4()?, ([0; 4], port).into())?,
        },
        HttpAddress::One(address) if address.is_ipv4() => bind(TcpSocket::new_v4()?, address)?,
        HttpAddress::One(address) => bind(TcpSocket::new_v6()?, address)?,
    };
    let listener = socket.listen(BACKLOG)?;
    info!(address = %listener.local_addr()?, "serving HTTP");
    Ok(listener)
}

fn bind_dual_stack(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v6()?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    bind(socket, ([0; 16], port).into())
}

fn bind(socket: TcpSocket, address: std::net::SocketAddr) -> io::Result<TcpSocket> {
    // A connection of the previous process may still be in TIME_WAIT on this port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves the clients of this listener.
pub async fn serve(listener: TcpListener, observer: Observer) -> Infallible {
    let handler = Handler {
        observer,
        metrics: Arc::new(Semaphore::new(SLOTS)),
        status: Arc::new(Semaphore::new(SLOTS)),
    };
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    clients::serve("HTTP", CONNECTIONS_MAX, accept, |stream, request| {
        handle_connection(stream, request, handler.clone())
    })
    .await
}

/// Serves one request.
async fn handle_connection(stream: TcpStream, seen: RequestSeen, handler: Handler) {
    let service = service_fn(|request: Request<Incoming>| {
        seen.record();
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.respond(&request).await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_buf_size(HEADERS_SIZE_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "HTTP connection failed");
    }
}

#[derive(Clone)]
struct Handler {
    observer: Observer,
    metrics: Arc<Semaphore>,
    status: Arc<Semaphore>,
}

type HttpResponse = Response<Full<Bytes>>;

impl Handler {
    async fn respond(&self, request: &Request<Incoming>) -> HttpResponse {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "method not allowed: use GET or HEAD\n",
            );
            let methods = hyper::header::HeaderValue::from_static("GET, HEAD");
            refusal.headers_mut().insert(ALLOW, methods);
            return refusal;
        }
        match request.uri().path() {
            "/livez" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => match readiness::evaluate(&self.observer.snapshot().await) {
                Ok(ready) => plain(StatusCode::OK, ready),
                Err(not_ready) => plain(StatusCode::SERVICE_UNAVAILABLE, not_ready),
            },
            "/metrics" => {
                let format = metrics::Format::accepted_by(request.headers());
                let render = move |snapshot| metrics::render(snapshot, format);
                self.respond_with_snapshot(&self.metrics, format.media_type(), render)
                    .await
            }
            "/status" => {
                self.respond_with_snapshot(&self.status, "application/json", |snapshot| {
                    status(&snapshot)
                })
                .await
            }
            "/" => plain(StatusCode::OK, "/livez\n/readyz\n/metrics\n/status\n"),
            _ => plain(
                StatusCode::NOT_FOUND,
                "not found: use /livez, /readyz, /metrics or /status\n",
            ),
        }
    }

    /// Makes the body from a snapshot.
    async fn respond_with_snapshot(
        &self,
        slots: &Arc<Semaphore>,
        media_type: &'static str,
        render: impl FnOnce(Snapshot) -> String + Send + 'static,
    ) -> HttpResponse {
        let slot = Arc::clone(slots).acquire_owned();
        let Ok(Ok(slot)) = timeout(SLOT_TIMEOUT, slot).await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "busy: try again\n");
        };
        let snapshot = self.observer.snapshot_with_waits().await;
        // The blocking task owns the slot, because it continues after its client has disconnected.
        let rendering = self.observer.render(move || LargeBody {
            text: render(snapshot),
            _slot: slot,
        });
        let Ok(body) = rendering.await else {
            return plain(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal error: see the log\n",
            );
        };
        response(StatusCode::OK, media_type, Bytes::from_owner(body))
    }
}

/// A body that occupies its slot until it is sent or its client has disconnected.
struct LargeBody {
    text: String,
    _slot: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for LargeBody {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

fn status(snapshot: &Snapshot) -> String {
    let status = Status::of(snapshot, &WithDevices::All);
    serde_json::to_string(&status).expect("every key of the status is a string")
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> HttpResponse {
    response(status, "text/plain; charset=utf-8", text.into())
}

fn response(status: StatusCode, media_type: &'static str, body: Bytes) -> HttpResponse {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let media_type = hyper::header::HeaderValue::from_static(media_type);
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

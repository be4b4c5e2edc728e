//! HTTP for probes, Prometheus and people: read-only, on the address of `HTTP_ADDRESS`.

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

/// For probes, Prometheus and people.
const CONNECTIONS_MAX: usize = 32;

/// A request has come by then, or its connection ends; also one that says nothing.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// A request of a line and a few headers.
const HEADERS_SIZE_MAX: usize = 16 * 1024;

/// How many large answers of a kind are made and sent at a time: slow readers must not cost memory.
const SLOTS: usize = 2;
const SLOT_WITHIN: Duration = Duration::from_secs(5);

/// Who is not yet connected waits here.
const BACKLOG: u32 = 1024;

/// Serves until `over`. An address that cannot be had is tried again, and nothing else waits for it.
pub async fn run(address: HttpAddress, observer: Observer, over: CancellationToken) {
    let failure = format!(
        "cannot serve HTTP on {address}: retrying; set a different HTTP_ADDRESS if it is in use"
    );
    let serving = async {
        let listener = until_ok(&failure, async || listen(address)).await;
        serve(listener, observer).await
    };
    tokio::select! {
        () = over.cancelled() => {}
        never = serving => match never {},
    }
}

/// Listens on the address; on every address it is IPv6 that takes both, unless this host has none.
fn listen(address: HttpAddress) -> io::Result<TcpListener> {
    let socket = match address {
        HttpAddress::Every(port) => match every_address(port) {
            Ok(socket) => socket,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(_) => bound(TcpSocket::new_v4()?, ([0; 4], port).into())?,
        },
        HttpAddress::One(address) if address.is_ipv4() => bound(TcpSocket::new_v4()?, address)?,
        HttpAddress::One(address) => bound(TcpSocket::new_v6()?, address)?,
    };
    let listener = socket.listen(BACKLOG)?;
    info!(address = %listener.local_addr()?, "serving HTTP");
    Ok(listener)
}

fn every_address(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v6()?;
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    bound(socket, ([0; 16], port).into())
}

fn bound(socket: TcpSocket, address: std::net::SocketAddr) -> io::Result<TcpSocket> {
    // A connection of a program that ended may linger there.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Serves whoever connects to the listener.
pub async fn serve(listener: TcpListener, observer: Observer) -> Infallible {
    let handler = Handler {
        observer,
        metrics: Arc::new(Semaphore::new(SLOTS)),
        status: Arc::new(Semaphore::new(SLOTS)),
    };
    let accept = |cx: &mut Context<'_>| listener.poll_accept(cx).map_ok(|(stream, _)| stream);
    clients::serve("HTTP", CONNECTIONS_MAX, accept, |stream, request| {
        converse(stream, request, handler.clone())
    })
    .await
}

/// One request and its answer.
async fn converse(stream: TcpStream, seen: RequestSeen, handler: Handler) {
    let answer = service_fn(|request: Request<Incoming>| {
        seen.note();
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.respond(&request).await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(HEADERS_SIZE_MAX)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection to HTTP failed");
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
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            let methods = hyper::header::HeaderValue::from_static("GET, HEAD");
            refusal.headers_mut().insert(ALLOW, methods);
            return refusal;
        }
        match request.uri().path() {
            "/livez" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => match readiness::evaluate(&self.observer.snapshot().await) {
                Ok(ready) => plain(StatusCode::OK, ready),
                Err(not) => plain(StatusCode::SERVICE_UNAVAILABLE, not),
            },
            "/metrics" => {
                self.large(&self.metrics, metrics::MEDIA_TYPE, metrics::text)
                    .await
            }
            "/status" => {
                self.large(&self.status, "application/json", |snapshot| {
                    status(&snapshot)
                })
                .await
            }
            "/" => plain(StatusCode::OK, "/livez\n/readyz\n/metrics\n/status\n"),
            _ => plain(
                StatusCode::NOT_FOUND,
                "not found: there are /livez, /readyz, /metrics and /status\n",
            ),
        }
    }

    /// Makes an answer on a thread of its own.
    async fn large(
        &self,
        slots: &Arc<Semaphore>,
        media_type: &'static str,
        of: impl FnOnce(Snapshot) -> String + Send + 'static,
    ) -> HttpResponse {
        let slot = Arc::clone(slots).acquire_owned();
        let Ok(Ok(slot)) = timeout(SLOT_WITHIN, slot).await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "busy: try again\n");
        };
        let snapshot = self.observer.snapshot_with_waits().await;
        // The slot belongs to the work, which goes on when its client is disconnected.
        let making = tokio::task::spawn_blocking(move || Large {
            text: of(snapshot),
            _slot: slot,
        });
        let Ok(large) = making.await else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "a bug: see the log\n");
        };
        let body = Bytes::from_owner(large);
        answer(StatusCode::OK, media_type, body)
    }
}

/// An answer that keeps its slot until it is sent, or given up.
struct Large {
    text: String,
    _slot: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

fn status(snapshot: &Snapshot) -> String {
    let status = Status::of(snapshot, &WithDevices::All);
    serde_json::to_string(&status).expect("every key of a status is a text")
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> HttpResponse {
    answer(status, "text/plain; charset=utf-8", text.into())
}

fn answer(status: StatusCode, media_type: &'static str, body: Bytes) -> HttpResponse {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let media_type = hyper::header::HeaderValue::from_static(media_type);
    answer.headers_mut().insert(CONTENT_TYPE, media_type);
    answer
}

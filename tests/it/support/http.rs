//! A manager's HTTP server on a free port, and requests to it.

use std::net::SocketAddr;

use simple_device_plugin::observe::http;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::process::Running;
use super::{DEADLINE, Manager, POLL_INTERVAL, plugin_dir, within};

/// A manager in a temporary device plugin directory, with an HTTP server.
pub struct Observed {
    pub dir: TempDir,
    pub manager: Manager,
    pub http: Http,
}

impl Observed {
    pub async fn of(variables: &[(&str, &str)]) -> Self {
        let dir = plugin_dir();
        let manager = Manager::start(dir.path(), variables);
        let http = Http::of(&manager).await;
        Self { dir, manager, http }
    }
}

/// A manager's HTTP server.
pub struct Http {
    pub address: SocketAddr,
    /// `None` if the server is in another process.
    _server: Option<AbortOnDropHandle<std::convert::Infallible>>,
}

impl Http {
    pub async fn of(manager: &Manager) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(http::serve(listener, manager.observer.clone()));
        Self {
            address,
            _server: Some(AbortOnDropHandle::new(server)),
        }
    }

    /// The server of a process with `HTTP_ADDRESS=127.0.0.1:0`.
    #[track_caller]
    pub fn of_process(running: &Running) -> Self {
        let line = running.wait_for_log("serving HTTP");
        let (_, address) = line.split_once("address=").expect("an address");
        Self {
            address: address.parse().expect("an address"),
            _server: None,
        }
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address)
            .await
            .expect("a connection")
    }

    /// Sends a GET request and returns the status code and the body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: n\r\n\r\n"))
            .await
    }

    pub async fn send(&self, request: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        let answer = within("a response", async {
            stream
                .write_all(request.as_bytes())
                .await
                .expect("a server");
            answer(&mut stream).await
        });
        answer.await
    }

    /// Waits until `/readyz` returns this status code, and a body that contains `words`.
    #[track_caller]
    pub fn readiness(&self, status: u16, words: &str) -> impl Future<Output = ()> {
        self.gets("/readyz", status, words)
    }

    /// Waits until the path returns this status code, and a body that contains `words`.
    #[track_caller]
    pub fn gets(&self, path: &str, status: u16, words: &str) -> impl Future<Output = ()> {
        let what = format!("{path} {status} {words}");
        let at = std::panic::Location::caller();
        async move {
            let mut last = None;
            let waited = tokio::time::timeout(DEADLINE, async {
                loop {
                    let (code, text) = self.get(path).await;
                    if code == status && text.contains(words) {
                        return;
                    }
                    last = Some((code, text));
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
            });
            assert!(waited.await.is_ok(), "{at}: not {what}: {last:?}");
        }
    }
}

/// Reads the response until the server closes the connection. Returns the status code and the body.
pub async fn answer(stream: &mut TcpStream) -> (u16, String) {
    let mut text = String::new();
    // The server may reset the connection without reading the whole request.
    let _ = stream.read_to_string(&mut text).await;
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status.unwrap_or(0), body.to_owned())
}

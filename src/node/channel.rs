//! A gRPC channel that uses one existing connection and never reconnects.

use std::io;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};

use crate::api::AUTHORITY;

/// Creates a channel over `stream`. Every call fails once the stream is closed.
///
/// # Errors
/// Returns an error if the HTTP/2 connection cannot be set up.
pub async fn channel_over(stream: UnixStream) -> Result<Channel, Error> {
    let unused = Mutex::new(Some(TokioIo::new(stream)));
    let connector = tower::service_fn(move |_| {
        let stream = unused.lock().take();
        let closed = || io::Error::new(io::ErrorKind::NotConnected, "the connection is closed");
        std::future::ready(stream.ok_or_else(closed))
    });
    Endpoint::from_static(AUTHORITY)
        .connect_with_connector(connector)
        .await
}

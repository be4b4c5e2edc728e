//! A gRPC channel over one connection, and never another.

use std::io;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};

use crate::api::AUTHORITY;

/// A channel over this stream alone: once it is closed, every call fails.
///
/// # Errors
/// When the peer does not speak HTTP/2.
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

//! Connects to kubelet.sock and calls Register.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::api::v1beta1::RegisterRequest;
use crate::api::v1beta1::registration_client::RegistrationClient;
use crate::net::user_namespace::{REMEDY, in_user_namespace};
use crate::node::channel::channel_over;
use crate::util::file_id::FileVersion;
use crate::util::sanitize::sanitize;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The delays before a refused connection is retried. A server creates its socket file with `bind` before it calls
/// `listen`, so a process that watches the directory can connect too early.
const CONNECT_RETRY_DELAYS: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
];

/// Longer than the 10 s for which the kubelet dials the plugin's socket inside Register.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection to the kubelet that never reconnects. So a registration reaches the kubelet that was running before the
/// plugin's socket was bound, or fails.
#[derive(Debug)]
pub(crate) struct KubeletConnection {
    channel: Channel,
    identity: FileVersion,
}

/// Why the connection to the kubelet failed.
#[derive(Debug, Error)]
pub(crate) enum NoKubelet {
    #[error("there is no socket {}", sanitize(&.0.display().to_string()))]
    Missing(PathBuf),
    /// No process listens on the socket, or this process has no permission to connect.
    #[error("cannot connect to kubelet.sock: {0}")]
    Refused(io::Error),
    /// Permission was denied, and root in this user namespace is not root on the host.
    #[error("cannot connect to kubelet.sock from this pod's user namespace: {REMEDY}")]
    UserNamespace,
    /// The kubelet's HTTP/2 server sent nothing.
    #[error("the kubelet does not respond on kubelet.sock within {} s", CONNECT_TIMEOUT.as_secs())]
    Silent,
    #[error("kubelet.sock was replaced during the connection attempt")]
    Replaced,
}

/// Why Register failed.
#[derive(Debug, Error)]
pub(crate) enum RegisterError {
    /// The kubelet answered with an error.
    #[error("the kubelet refused the registration: {0}")]
    Refused(String),
    #[error("the connection to the kubelet was lost during Register")]
    Broken,
    #[error("the kubelet does not respond to Register within {} s", REGISTER_TIMEOUT.as_secs())]
    TimedOut,
}

impl KubeletConnection {
    /// Connects and waits until the kubelet has sent its first HTTP/2 frame. Both together may take 1 s.
    ///
    /// # Errors
    /// Returns an error if no kubelet answers.
    pub async fn open(socket: &Path) -> Result<Self, NoKubelet> {
        let identity = FileVersion::of_socket(socket).map_err(NoKubelet::Refused)?;
        let identity = identity.ok_or_else(|| NoKubelet::Missing(socket.to_owned()))?;
        let stream = timeout(CONNECT_TIMEOUT, connect_and_await_settings(socket))
            .await
            .map_err(|_| NoKubelet::Silent)?
            .map_err(connect_error)?;
        if FileVersion::of_socket(socket).ok() != Some(Some(identity)) {
            return Err(NoKubelet::Replaced);
        }
        let channel = channel_over(stream)
            .await
            .map_err(|error| NoKubelet::Refused(io::Error::other(error)))?;
        Ok(Self { channel, identity })
    }

    /// Returns the version of the kubelet.sock file that this connection belongs to.
    pub(crate) fn identity(&self) -> FileVersion {
        self.identity
    }

    /// Calls Register. Before it answers, the kubelet dials the plugin's socket and calls GetDevicePluginOptions.
    ///
    /// # Errors
    /// Returns an error if the kubelet refuses, does not respond within 15 s, or closes the connection.
    pub async fn register(self, request: RegisterRequest) -> Result<(), RegisterError> {
        let mut client = RegistrationClient::new(self.channel);
        match timeout(REGISTER_TIMEOUT, client.register(request)).await {
            Ok(Ok(_)) => Ok(()),
            // The client sets a source for transport errors. A status that the kubelet sent has no source.
            Ok(Err(status)) if status.source().is_some() => Err(RegisterError::Broken),
            Ok(Err(status)) => Err(RegisterError::Refused(describe(&status))),
            Err(_) => Err(RegisterError::TimedOut),
        }
    }
}

fn connect_error(error: io::Error) -> NoKubelet {
    if error.kind() == io::ErrorKind::PermissionDenied && in_user_namespace() {
        return NoKubelet::UserNamespace;
    }
    NoKubelet::Refused(error)
}

/// Connects and waits until the server has sent data. A grpc-go server writes its SETTINGS frame before it reads
/// (`NewServerTransport`), so the wait detects a kubelet that hangs.
async fn connect_and_await_settings(socket: &Path) -> io::Result<UnixStream> {
    let stream = connect(socket).await?;
    stream.readable().await?;
    Ok(stream)
}

async fn connect(socket: &Path) -> io::Result<UnixStream> {
    for delay in CONNECT_RETRY_DELAYS {
        match UnixStream::connect(socket).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sleep(delay).await,
            connected => return connected,
        }
    }
    UnixStream::connect(socket).await
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), sanitize(status.message()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};

    #[tokio::test]
    async fn connect_retries_until_the_server_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.sock");
        let kubelet = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&kubelet, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        let refused = UnixStream::connect(&path).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let connecting = connect(&path);
        let listening = async {
            tokio::task::yield_now().await;
            listen(&kubelet, 1).unwrap();
        };
        let (connected, ()) = tokio::join!(connecting, listening);
        assert!(connected.is_ok(), "{connected:?}");
        drop(kubelet);
        assert!(connect(&path).await.is_err());
    }
}

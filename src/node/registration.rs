//! The connection to the kubelet, and what is asked of it: to register.

use std::error::Error as _;
use std::io;
use std::path::Path;
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

/// A socket's file is there a moment before its owner listens (`bind`, then `listen`), and whoever
/// watches the directory can be that fast: looks again after these pauses.
const CONNECT_RETRY_DELAYS: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
];

/// Inside Register the kubelet dials our socket, for 10 s at most.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(15);

/// One connection to one kubelet. It never reconnects: a registration reaches the kubelet that was
/// there when the socket was bound, or none.
#[derive(Debug)]
pub(crate) struct KubeletConnection {
    channel: Channel,
    identity: FileVersion,
}

/// Why there is no kubelet to talk to.
#[derive(Debug, Error)]
pub(crate) enum NoKubelet {
    #[error("there is no socket kubelet.sock")]
    Missing,
    /// A socket that a kubelet left behind, or one that may not be opened.
    #[error("cannot connect to kubelet.sock: {0}")]
    Refused(io::Error),
    /// A socket that root alone may open, who is not root here.
    #[error("cannot connect to kubelet.sock from this pod's user namespace: {REMEDY}")]
    UserNamespace,
    /// A socket with someone behind it who says nothing.
    #[error("the kubelet says nothing")]
    Silent,
    /// The socket was replaced meanwhile.
    #[error("kubelet.sock was replaced")]
    Replaced,
}

/// Why a registration did not come about.
#[derive(Debug, Error)]
pub(crate) enum RegisterError {
    #[error("the kubelet refused: {0}")]
    Refused(String),
    /// The kubelet is gone.
    #[error("the connection to the kubelet broke")]
    Broken,
    /// No answer within 15 s.
    #[error("the kubelet did not answer Register within {} s", REGISTER_TIMEOUT.as_secs())]
    TimedOut,
}

impl KubeletConnection {
    /// Connects and waits for the kubelet's greeting, one second in all.
    ///
    /// # Errors
    /// When no kubelet answers.
    pub async fn open(socket: &Path) -> Result<Self, NoKubelet> {
        let identity = FileVersion::of_socket(socket).map_err(NoKubelet::Refused)?;
        let identity = identity.ok_or(NoKubelet::Missing)?;
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

    /// Which kubelet.sock this is.
    pub(crate) fn identity(&self) -> FileVersion {
        self.identity
    }

    /// Registers; the kubelet answers after it has dialled back and asked for the options.
    ///
    /// # Errors
    /// When the kubelet refuses, does not answer in time, or is gone.
    pub async fn register(self, request: RegisterRequest) -> Result<(), RegisterError> {
        let mut client = RegistrationClient::new(self.channel);
        match timeout(REGISTER_TIMEOUT, client.register(request)).await {
            Ok(Ok(_)) => Ok(()),
            // What the kubelet sends has no cause of ours; what the connection does, has.
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

/// A connection whose server has spoken. grpc-go's server writes its SETTINGS before it reads
/// (`NewServerTransport`), so a kubelet that accepts but is stuck is told from one that works.
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

    /// What a watcher of the directory sees first: the file, and nobody listens yet.
    #[tokio::test]
    async fn a_socket_that_listens_a_moment_later_is_no_refusal() {
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

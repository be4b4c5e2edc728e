//! Binds a Unix socket without taking over one in use, and removes the socket only if it was not replaced.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;
use tokio::net::UnixListener;
use tracing::warn;

use crate::net::dir_lock::{Lock, lock_dir};
use crate::util::file_id::FileId;

/// The wait for the directory lock. After it, the socket is bound without the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct OwnSocket {
    path: PathBuf,
    /// No other file can get this identity: the open listener keeps the inode from being reused.
    file: FileId,
    listener: Arc<UnixListener>,
}

/// What [`OwnSocket::bind`] noticed of another process that may have served the same resource before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    None,
    /// A socket without a listener was at the path, and was removed.
    StaleSocket,
    /// Another process held the directory lock, so it may have bound or removed a socket.
    ConcurrentBind,
}

/// Why the socket cannot be bound.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    /// A process listens on the socket. Such a socket is never replaced.
    #[error("another process serves this socket")]
    Taken,
    #[error("the path exists and is not a socket")]
    NotASocket,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OwnSocket {
    /// Binds the socket with mode 0600. The probe, the removal of a stale socket and the bind happen under the
    /// directory lock: if two processes start together, one binds and the other finds the socket in use.
    ///
    /// # Errors
    /// Returns an error if the path is in use or a system call fails.
    pub async fn bind(path: PathBuf) -> Result<(Self, Predecessor), BindError> {
        let lock = lock_dir(dir_of(&path), LOCK_TIMEOUT).await?;
        if matches!(lock, Lock::TimedOut) {
            let seconds = LOCK_TIMEOUT.as_secs();
            warn!(
                path = %path.display(),
                "another process has locked the directory for {seconds} s; binding the socket without the lock"
            );
        }
        let predecessor = match (remove_stale(&path)?, &lock) {
            (Predecessor::None, Lock::TimedOut | Lock::Held { waited: true, .. }) => {
                Predecessor::ConcurrentBind
            }
            (predecessor, _) => predecessor,
        };
        let listener = Arc::new(UnixListener::bind(&path)?);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        let metadata = path.symlink_metadata()?;
        let socket = Self {
            file: FileId::from(&metadata),
            path,
            listener,
        };
        Ok((socket, predecessor))
    }

    /// Removes the socket's file, unless the file was replaced or the directory lock is not free within `timeout`. A
    /// file that remains is a stale socket, which the next bind removes.
    pub async fn remove(self, timeout: Duration) {
        let lock = lock_dir(dir_of(&self.path), timeout).await;
        if matches!(lock, Ok(Lock::Held { .. })) && self.is_in_place() {
            // An error means that the file is already gone or stays as a stale socket.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    pub fn listener(&self) -> &Arc<UnixListener> {
        &self.listener
    }

    /// Returns whether the file at the path is still this socket.
    pub(crate) fn is_in_place(&self) -> bool {
        let metadata = self.path.symlink_metadata();
        metadata.is_ok_and(|file| FileId::from(&file) == self.file)
    }
}

fn dir_of(path: &Path) -> &Path {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.unwrap_or(Path::new("."))
}

/// Removes the socket at the path if no process listens on it.
fn remove_stale(path: &Path) -> Result<Predecessor, BindError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Predecessor::None),
        Err(error) => return Err(error.into()),
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotASocket),
        Ok(_) => {}
    }
    if has_listener(path)? {
        return Err(BindError::Taken);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(Predecessor::StaleSocket),
    }
}

/// Returns whether a process listens on a socket. Only a refused connection or a missing file counts as no: with a full
/// backlog or without permission to connect, a listener is assumed.
///
/// # Errors
/// Returns an error if no socket can be created for the probe, or the path is too long for a socket.
pub fn has_listener(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    let connected = rustix::net::connect(&probe, &address);
    Ok(!matches!(connected, Err(Errno::CONNREFUSED | Errno::NOENT)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn socket_path() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.sock");
        (dir, path)
    }

    #[tokio::test]
    async fn the_socket_has_mode_0600_and_can_be_removed() {
        let (_dir, path) = socket_path();
        let (socket, predecessor) = OwnSocket::bind(path.clone()).await.unwrap();
        assert_eq!(predecessor, Predecessor::None);
        let mode = socket.path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let path = socket.path.clone();
        socket.remove(Duration::ZERO).await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_in_use_is_kept_and_a_stale_socket_is_replaced() {
        let (_dir, path) = socket_path();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let bound = OwnSocket::bind(path.clone()).await;
        assert!(matches!(bound, Err(BindError::Taken)), "{bound:?}");
        drop(listener);
        let (_socket, predecessor) = OwnSocket::bind(path.clone()).await.unwrap();
        assert_eq!(predecessor, Predecessor::StaleSocket);
    }

    #[tokio::test]
    async fn a_socket_with_a_full_backlog_is_in_use() {
        let (_dir, path) = socket_path();
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut clients = Vec::new();
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let client =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                    .unwrap();
            let connected = rustix::net::connect(&client, &SocketAddrUnix::new(&path).unwrap());
            clients.push(client);
            if connected == Err(Errno::AGAIN) {
                break;
            }
        }
        let bound = OwnSocket::bind(path.clone()).await;
        assert!(matches!(bound, Err(BindError::Taken)), "{bound:?}");
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_is_kept() {
        let (_dir, path) = socket_path();
        std::fs::write(&path, "precious").unwrap();
        let bound = OwnSocket::bind(path.clone()).await;
        assert!(matches!(bound, Err(BindError::NotASocket)), "{bound:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_socket_bound_later_at_the_same_path_is_not_removed() {
        let (_dir, path) = socket_path();
        let (first, _) = OwnSocket::bind(path.clone()).await.unwrap();
        std::fs::remove_file(&first.path).unwrap();
        assert!(!first.is_in_place());
        let (second, _) = OwnSocket::bind(path.clone()).await.unwrap();
        first.remove(Duration::ZERO).await;
        assert!(second.is_in_place());
    }

    #[tokio::test]
    async fn bind_waits_for_the_directory_lock() {
        let (_dir, path) = socket_path();
        let lock = lock_dir(dir_of(&path), Duration::ZERO).await.unwrap();
        let mut binding = std::pin::pin!(OwnSocket::bind(path.clone()));
        assert!((&mut binding).now_or_never().is_none());
        drop(lock);
        let (_socket, predecessor) = binding.await.unwrap();
        assert_eq!(predecessor, Predecessor::ConcurrentBind);
    }

    #[tokio::test(start_paused = true)]
    async fn bind_proceeds_when_the_directory_lock_is_never_released() {
        let (_dir, path) = socket_path();
        let _lock = lock_dir(dir_of(&path), Duration::ZERO).await.unwrap();
        let (socket, predecessor) = OwnSocket::bind(path.clone()).await.unwrap();
        assert_eq!(predecessor, Predecessor::ConcurrentBind);
        socket.remove(Duration::ZERO).await;
    }
}

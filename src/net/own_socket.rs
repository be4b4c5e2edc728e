//! A socket of ours: bound without taking anyone's, removed only if it is still ours.

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

/// How long to wait for the directory's lock before binding without it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct OwnSocket {
    path: PathBuf,
    /// The open listener keeps its inode from being reused.
    file: FileId,
    listener: Arc<UnixListener>,
}

/// What stood in the socket's place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predecessor {
    None,
    /// A socket that nobody served any more; it was removed.
    StaleSocket,
    /// Another process that was binding in the directory.
    ConcurrentBind,
}

/// Why the socket can't be bound now.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    /// A socket there still answers: it is never taken.
    #[error("another process serves this socket")]
    Taken,
    /// Something else has the name.
    #[error("the path is taken by something that is not a socket")]
    NotASocket,
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OwnSocket {
    /// Binds the socket with mode 0600. Test, removal and bind happen under the directory's lock, so
    /// that of two starters one wins and the other sees it.
    ///
    /// # Errors
    /// When the place is taken, or the operating system refuses.
    pub async fn bind(path: PathBuf) -> Result<(Self, Predecessor), BindError> {
        let lock = lock_dir(dir_of(&path), LOCK_TIMEOUT).await?;
        if matches!(lock, Lock::TimedOut) {
            let path = path.display();
            warn!("somebody keeps the directory locked: binding {path} without the lock");
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

    /// Removes the file, unless another has taken its place, or somebody keeps the directory locked for longer
    /// than this: a file that stays is found stale by whoever binds next.
    pub async fn remove(self, timeout: Duration) {
        let lock = lock_dir(dir_of(&self.path), timeout).await;
        if matches!(lock, Ok(Lock::Held { .. })) && self.is_in_place() {
            // Whoever removed it first did what was to be done.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// The listener behind the file.
    pub fn listener(&self) -> &Arc<UnixListener> {
        &self.listener
    }

    /// Whether the file is still there and still ours.
    pub(crate) fn is_in_place(&self) -> bool {
        let metadata = self.path.symlink_metadata();
        metadata.is_ok_and(|file| FileId::from(&file) == self.file)
    }
}

fn dir_of(path: &Path) -> &Path {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.unwrap_or(Path::new("."))
}

/// Makes room for a socket, if nobody serves the one that is there.
fn remove_stale(path: &Path) -> Result<Predecessor, BindError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Predecessor::None),
        Err(error) => return Err(error.into()),
        Ok(file) if !file.file_type().is_socket() => return Err(BindError::NotASocket),
        Ok(_) => {}
    }
    if answers(path)? {
        return Err(BindError::Taken);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(Predecessor::StaleSocket),
    }
}

/// Whether someone listens on a socket. Only a refusal says no: a full backlog or a missing right is someone.
///
/// # Errors
/// When the operating system has no socket to ask with, or the path is too long for one.
pub fn answers(path: &Path) -> io::Result<bool> {
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
    async fn is_private_and_removed_with_its_owner() {
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
    async fn one_that_answers_is_not_taken_and_a_stale_one_is() {
        let (_dir, path) = socket_path();
        let neighbour = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let bound = OwnSocket::bind(path.clone()).await;
        assert!(matches!(bound, Err(BindError::Taken)), "{bound:?}");
        drop(neighbour);
        let (_socket, predecessor) = OwnSocket::bind(path.clone()).await.unwrap();
        assert_eq!(predecessor, Predecessor::StaleSocket);
    }

    #[tokio::test]
    async fn a_full_backlog_still_answers() {
        let (_dir, path) = socket_path();
        let _busy = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let client =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
                    .unwrap();
            let connected = rustix::net::connect(&client, &SocketAddrUnix::new(&path).unwrap());
            waiting.push(client);
            if connected == Err(Errno::AGAIN) {
                break;
            }
        }
        let bound = OwnSocket::bind(path.clone()).await;
        assert!(matches!(bound, Err(BindError::Taken)), "{bound:?}");
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let (_dir, path) = socket_path();
        std::fs::write(&path, "precious").unwrap();
        let bound = OwnSocket::bind(path.clone()).await;
        assert!(matches!(bound, Err(BindError::NotASocket)), "{bound:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_successor_is_not_removed() {
        let (_dir, path) = socket_path();
        let (ours, _) = OwnSocket::bind(path.clone()).await.unwrap();
        std::fs::remove_file(&ours.path).unwrap();
        assert!(!ours.is_in_place());
        let (theirs, _) = OwnSocket::bind(path.clone()).await.unwrap();
        ours.remove(Duration::ZERO).await;
        assert!(theirs.is_in_place());
    }

    #[tokio::test]
    async fn only_one_binds_at_a_time() {
        let (_dir, path) = socket_path();
        let lock = lock_dir(dir_of(&path), Duration::ZERO).await.unwrap();
        let mut binding = std::pin::pin!(OwnSocket::bind(path.clone()));
        assert!((&mut binding).now_or_never().is_none());
        drop(lock);
        let (_socket, predecessor) = binding.await.unwrap();
        assert_eq!(predecessor, Predecessor::ConcurrentBind);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_is_kept_is_not_waited_for_for_ever() {
        let (_dir, path) = socket_path();
        let _kept = lock_dir(dir_of(&path), Duration::ZERO).await.unwrap();
        let (socket, predecessor) = OwnSocket::bind(path.clone()).await.unwrap();
        assert_eq!(predecessor, Predecessor::ConcurrentBind);
        socket.remove(Duration::ZERO).await;
    }
}

//! The kubelet's device plugin directory, and how to tell one socket in it from its successor.

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::socket_name::KUBELET_SOCKET;

/// Between tries for the lock.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// The directory in which the kubelet and its device plugins have their sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginDir(PathBuf);

/// Tells a socket from one bound later under the same name. An inode number alone may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketIdentity {
    device: u64,
    inode: u64,
    ctime: (i64, i64),
}

impl PluginDir {
    /// The directory with this path; it need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of the kubelet's registration socket.
    pub fn kubelet_socket(&self) -> PathBuf {
        self.0.join(KUBELET_SOCKET)
    }

    /// Holds the directory's lock until it is dropped. The lock is on the directory itself: nothing is
    /// left behind in it. Whoever binds holds it for a moment, so one that is held for longer than
    /// `patience` is not meant for us (anyone who may read the directory can take it).
    ///
    /// # Errors
    /// When the directory cannot be opened or locked.
    pub async fn lock(&self, patience: Duration) -> io::Result<Lock> {
        let dir = File::open(&self.0)?;
        let deadline = Instant::now() + patience;
        let mut waited = false;
        loop {
            match dir.try_lock() {
                Ok(()) => return Ok(Lock::Held { _dir: dir, waited }),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    waited = true;
                    sleep(LOCK_PAUSE).await;
                }
                Err(TryLockError::WouldBlock) => return Ok(Lock::Denied),
            }
        }
    }
}

/// How it went with the directory's lock.
#[derive(Debug)]
pub enum Lock {
    /// Ours until this is dropped; `waited`: after somebody else's.
    Held {
        /// Unlocks when closed.
        _dir: File,
        /// Whether somebody else had it before.
        waited: bool,
    },
    /// Somebody else keeps it.
    Denied,
}

impl SocketIdentity {
    /// The identity of the socket at this path; `None` where there is no socket.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        match path.symlink_metadata() {
            Ok(file) => Ok(file.file_type().is_socket().then(|| Self::from(&file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl From<&Metadata> for SocketIdentity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

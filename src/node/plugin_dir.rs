//! The kubelet's device plugin directory, and how to tell one socket in it from its successor.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::model::socket_name::{KUBELET_SOCKET, SocketName};

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

    /// The path of a plugin's socket.
    pub fn socket(&self, name: &SocketName) -> PathBuf {
        self.0.join(name.as_str())
    }
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

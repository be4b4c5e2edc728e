//! The kubelet's device plugin directory.

use std::path::{Path, PathBuf};

use crate::model::socket_name::{KUBELET_SOCKET, SocketName};

/// The directory in which the kubelet and its device plugins have their sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginDir(PathBuf);

impl PluginDir {
    /// Wraps a path. The directory need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path of the kubelet's registration socket.
    pub(crate) fn kubelet_socket(&self) -> PathBuf {
        self.0.join(KUBELET_SOCKET)
    }

    /// Returns the path of a plugin's socket.
    pub fn socket(&self, name: &SocketName) -> PathBuf {
        self.0.join(name.as_str())
    }
}

//! Watches the device plugin directory for changes of kubelet.sock, of the plugins' sockets and of the kubelet's
//! checkpoint. One watch serves the whole process.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use inotify::{EventMask, WatchMask};
use thiserror::Error;
use tokio::sync::watch;

use crate::model::socket_name::KUBELET_SOCKET;
use crate::node::checkpoint_file;
use crate::node::plugin_dir::PluginDir;
use crate::util::dir_watch::DirWatch;
use crate::util::file_id::FileVersion;

/// The version of the socket `kubelet.sock`, or `None` if there is no such socket.
pub(crate) type KubeletSocket = Option<FileVersion>;

/// Examines the device plugin directory at every event and poll. Each time, it sends a value even if kubelet.sock is
/// unchanged, so that every plugin checks for its own socket.
pub(crate) struct KubeletWatcher {
    dir: PluginDir,
    socket: watch::Sender<KubeletSocket>,
    checkpoint_writes: watch::Sender<()>,
    watch: DirWatch,
}

/// The device plugin directory was removed while in use. A container's mount refers to the removed directory until the
/// container is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the device plugin directory was replaced on the host; only a restarted container can see the new directory"
)]
pub struct DirReplaced;

impl KubeletWatcher {
    /// Starts the watch and examines the directory once.
    pub fn new(dir: PluginDir) -> Self {
        let events = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let mut watcher = Self {
            watch: DirWatch::new(dir.path().to_owned(), events),
            dir,
            socket: watch::Sender::new(None),
            checkpoint_writes: watch::Sender::new(()),
        };
        // A directory that is already replaced is reported by `run`.
        let _ = watcher.examine();
        watcher
    }

    /// Subscribes to the versions of `kubelet.sock`.
    pub fn subscribe(&self) -> watch::Receiver<KubeletSocket> {
        self.socket.subscribe()
    }

    /// Returns a receiver of a value for each event and poll after which the kubelet's checkpoint may have changed.
    pub fn checkpoint_writes(&self) -> watch::Receiver<()> {
        self.checkpoint_writes.subscribe()
    }

    /// Watches until the directory is removed.
    pub async fn run(mut self) -> DirReplaced {
        loop {
            if let Err(replaced) = self.examine() {
                return replaced;
            }
            let removed = EventMask::DELETE | EventMask::MOVED_FROM;
            self.watch
                .changed(|event| {
                    event.name.as_ref().is_some_and(|name| {
                        if name == checkpoint_file::FILE {
                            // Only this receiver is notified: the kubelet can write the file many times per second.
                            self.checkpoint_writes.send_replace(());
                        }
                        name == KUBELET_SOCKET
                            || event.mask.intersects(removed) && name.as_bytes().ends_with(b".sock")
                    })
                })
                .await;
        }
    }

    fn examine(&mut self) -> Result<(), DirReplaced> {
        let dir = self.dir.path().metadata();
        if dir.is_ok_and(|dir| dir.nlink() == 0) {
            return Err(DirReplaced);
        }
        self.watch.renew();
        // If the socket cannot be examined, the next attempt to connect reports the error.
        let socket = FileVersion::of_socket(&self.dir.kubelet_socket());
        self.socket.send_replace(socket.ok().flatten());
        self.checkpoint_writes.send_replace(());
        Ok(())
    }
}

//! One watch for the whole process: which kubelet.sock stands in the plugin dir.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use inotify::{EventMask, WatchMask};
use thiserror::Error;
use tokio::sync::watch;

use crate::model::socket_name::KUBELET_SOCKET;
use crate::node::plugin_dir::PluginDir;
use crate::util::dir_watch::DirWatch;
use crate::util::file_id::FileVersion;

/// Which socket stands at `kubelet.sock`: `None` where there is none.
pub(crate) type KubeletSocket = Option<FileVersion>;

/// Examines the plugin dir at every event and poll, and sends what it finds each time, also where nothing changed at
/// kubelet.sock: a plugin may have lost its own socket.
pub(crate) struct KubeletWatcher {
    dir: PluginDir,
    socket: watch::Sender<KubeletSocket>,
    watch: DirWatch,
}

/// The plugin dir was removed while it was in use. In a container the mount then shows the removed
/// directory for ever; only a new container gets the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the plugin dir was replaced on the host; only a new container sees the new one")]
pub struct DirReplaced;

impl KubeletWatcher {
    /// Starts the watch, then examines the directory for the first time.
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
        };
        // A directory that is already replaced is reported by `run`.
        let _ = watcher.examine();
        watcher
    }

    /// Follows which socket stands at `kubelet.sock`.
    pub fn subscribe(&self) -> watch::Receiver<KubeletSocket> {
        self.socket.subscribe()
    }

    /// Watches for as long as the directory is the one that the kubelet uses.
    pub async fn run(mut self) -> DirReplaced {
        loop {
            if let Err(replaced) = self.examine() {
                return replaced;
            }
            let removed = EventMask::DELETE | EventMask::MOVED_FROM;
            self.watch
                .changed(|event| {
                    event.name.as_ref().is_some_and(|name| {
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
        // A socket that cannot be examined is reported by the attempt to connect.
        let socket = FileVersion::of_socket(&self.dir.kubelet_socket());
        self.socket.send_replace(socket.ok().flatten());
        Ok(())
    }
}

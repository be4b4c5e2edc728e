//! One watch for the whole process: which kubelet.sock stands in the plugin dir.

use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::model::socket_name::KUBELET_SOCKET;
use crate::node::plugin_dir::{PluginDir, SocketIdentity};

/// For what inotify does not tell: file systems without events, a directory made anew.
const SLOW_POLL: Duration = Duration::from_secs(5);
/// Where inotify is not to be had at all.
const POLL_ALONE: Duration = Duration::from_secs(2);

/// Room for a burst of events: a starting kubelet removes every socket at once.
const EVENT_BUFFER: usize = 4096;

/// What is at `kubelet.sock`: `None` where there is no socket.
pub type Sight = Option<SocketIdentity>;

/// Looks at the plugin dir at every event and poll. Each look is sent, also where nothing of the
/// kubelet's changed: an instance may have lost its own socket.
pub struct KubeletWatcher {
    dir: PluginDir,
    sight: watch::Sender<Sight>,
    armed: Option<Armed>,
    told_of_polling: bool,
}

/// An inotify instance on the directory that has this device and inode.
struct Armed {
    events: EventStream<Vec<u8>>,
    dir: (u64, u64),
}

/// The plugin dir was removed while it was in use. In a container the mount then shows the removed
/// directory for ever; only a new container gets the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the plugin dir was replaced on the host; only a new container sees the new one")]
pub struct DirReplaced;

impl KubeletWatcher {
    /// Arms the watch, then looks for the first time.
    pub fn new(dir: PluginDir) -> Self {
        let mut watcher = Self {
            dir,
            sight: watch::Sender::new(None),
            armed: None,
            told_of_polling: false,
        };
        // A directory that is already replaced is told by the first look of `run`.
        let _ = watcher.look();
        watcher
    }

    /// Follows the looks.
    pub fn subscribe(&self) -> watch::Receiver<Sight> {
        self.sight.subscribe()
    }

    /// Looks for as long as the directory is the one that others see.
    pub async fn run(mut self) -> DirReplaced {
        loop {
            if let Err(replaced) = self.look() {
                return replaced;
            }
            self.wait().await;
        }
    }

    /// Waits for an event that may concern a socket, or for the next poll.
    async fn wait(&mut self) {
        let Some(armed) = &mut self.armed else {
            return tokio::time::sleep(POLL_ALONE).await;
        };
        let broken = tokio::select! {
            () = tokio::time::sleep(SLOW_POLL) => false,
            broken = armed.next_concern() => broken,
        };
        if broken {
            self.armed = None;
        }
    }

    fn look(&mut self) -> Result<(), DirReplaced> {
        let dir = self.dir.path().metadata().ok();
        if dir.as_ref().is_some_and(|dir| dir.nlink() == 0) {
            return Err(DirReplaced);
        }
        self.arm(dir.as_ref());
        // What cannot be told is told by the try to connect.
        let socket = SocketIdentity::of(&self.dir.kubelet_socket());
        self.sight.send_replace(socket.ok().flatten());
        Ok(())
    }

    /// Keeps the watch on the directory that stands at the path now.
    fn arm(&mut self, dir: Option<&Metadata>) {
        let now = dir.map(|dir| (dir.dev(), dir.ino()));
        if self.armed.as_ref().map(|armed| armed.dir) == now {
            return;
        }
        self.armed = None;
        let Some(dir) = now else { return };
        match watch_events(&self.dir) {
            Ok(events) => {
                self.armed = Some(Armed { events, dir });
                self.told_of_polling = false;
            }
            // Gone since the look; the next one will tell.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if !self.told_of_polling => {
                self.told_of_polling = true;
                warn!(%error, "cannot watch the plugin dir: looking every 2 s instead");
            }
            Err(_) => {}
        }
    }
}

impl Armed {
    /// Waits for an event on the directory or on kubelet.sock, or for a socket to go. Tells whether
    /// the watch broke instead.
    async fn next_concern(&mut self) -> bool {
        loop {
            match self.events.next().await {
                Some(Ok(event)) => {
                    let gone = EventMask::DELETE | EventMask::MOVED_FROM;
                    let Some(name) = event.name else {
                        // The directory itself is gone: one made anew may have the same inode.
                        return event.mask.contains(EventMask::IGNORED);
                    };
                    let a_socket_is_gone =
                        event.mask.intersects(gone) && name.as_bytes().ends_with(b".sock");
                    if name == KUBELET_SOCKET || a_socket_is_gone {
                        return false;
                    }
                }
                Some(Err(error)) => {
                    debug!(%error, "the watch on the plugin dir broke");
                    return true;
                }
                None => return true,
            }
        }
    }
}

fn watch_events(dir: &PluginDir) -> io::Result<EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVE
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    inotify.watches().add(dir.path(), mask)?;
    inotify.into_event_stream(vec![0; EVENT_BUFFER])
}

//! Waits for changes in a directory, with inotify where the host has it and by polling in any case.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{Event, EventMask, EventStream, Inotify, WatchMask};
use tokio::time::sleep;
use tracing::debug;

use crate::util::file_id::FileId;
use crate::util::retry::WarnOnce;

/// For what inotify does not report: file systems without events, a directory that another replaced.
const POLL: Duration = Duration::from_secs(5);

/// The poll where there is no inotify: `fs.inotify.max_user_instances` may be used up.
const POLL_ALONE: Duration = Duration::from_secs(2);

/// In bytes; room for a burst: a starting kubelet removes every socket at once.
const EVENT_BUFFER: usize = 4096;

/// A watch on the directory at a path, also after another directory has taken its place.
pub(crate) struct DirWatch {
    dir: PathBuf,
    mask: WatchMask,
    active: Option<Active>,
    failures: WarnOnce,
}

/// An inotify instance on one directory.
struct Active {
    dir: FileId,
    events: EventStream<Vec<u8>>,
}

impl DirWatch {
    /// Watches the directory for these events. It need not exist yet.
    pub fn new(dir: PathBuf, mask: WatchMask) -> Self {
        let mut watch = Self {
            dir,
            mask,
            active: None,
            failures: WarnOnce::default(),
        };
        watch.renew();
        watch
    }

    /// Waits for an event that `concerns` the caller, or for the next poll. Call [`DirWatch::renew`] before looking at
    /// the directory.
    pub async fn changed(&mut self, concerns: impl Fn(&Event<OsString>) -> bool) {
        let Some(active) = &mut self.active else {
            return sleep(POLL_ALONE).await;
        };
        let broken = tokio::select! {
            () = sleep(POLL) => false,
            broken = active.concern(concerns) => broken,
        };
        if broken {
            self.active = None;
        }
    }

    /// Moves the watch to the directory that is at the path now.
    pub(crate) fn renew(&mut self) {
        let now = self.dir.metadata().ok().as_ref().map(FileId::from);
        if self.active.as_ref().map(|active| active.dir) == now {
            return;
        }
        self.active = None;
        let Some(dir) = now else { return };
        match self.events() {
            Ok(events) => {
                self.active = Some(Active { dir, events });
                self.failures.reset();
            }
            // Removed a moment ago; the next poll finds what replaced it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let dir = self.dir.display();
                self.failures.log(
                    &error,
                    &format!("cannot watch {dir}: polling it every 2 s instead"),
                );
            }
        }
    }

    fn events(&self) -> io::Result<EventStream<Vec<u8>>> {
        let inotify = Inotify::init()?;
        inotify
            .watches()
            .add(&self.dir, self.mask | WatchMask::ONLYDIR)?;
        inotify.into_event_stream(vec![0; EVENT_BUFFER])
    }
}

impl Active {
    /// Waits for an event on the directory itself or one that `concerns` the caller. Returns whether the watch broke.
    async fn concern(&mut self, concerns: impl Fn(&Event<OsString>) -> bool) -> bool {
        loop {
            match self.events.next().await {
                Some(Ok(event)) if event.name.is_none() => {
                    // The directory was removed: a new one may have the same inode.
                    return event.mask.contains(EventMask::IGNORED);
                }
                Some(Ok(event)) if concerns(&event) => return false,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    debug!(%error, "the watch on a directory broke");
                    return true;
                }
                None => return true,
            }
        }
    }
}

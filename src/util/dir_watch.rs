//! Waits for changes in a directory with inotify, and polls in addition.

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

/// Finds changes that inotify does not report: some file systems deliver no events, and the directory can be replaced.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The poll interval without inotify, for example when `fs.inotify.max_user_instances` is exhausted.
const POLL_INTERVAL_WITHOUT_INOTIFY: Duration = Duration::from_secs(2);

/// In bytes. Has room for a burst of events: a starting kubelet removes every socket in its directory.
const EVENT_BUFFER: usize = 4096;

/// A watch on the directory at a path. [`DirWatch::renew`] follows the path when the directory is replaced.
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
    /// Watches the directory for the events in `mask`. The directory need not exist yet.
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

    /// Waits for an event for which `is_relevant` returns true, for an event on the directory itself, or for the next
    /// poll. Call [`DirWatch::renew`] before reading the directory.
    pub async fn changed(&mut self, is_relevant: impl Fn(&Event<OsString>) -> bool) {
        let Some(active) = &mut self.active else {
            return sleep(POLL_INTERVAL_WITHOUT_INOTIFY).await;
        };
        let ended = tokio::select! {
            () = sleep(POLL_INTERVAL) => false,
            ended = active.relevant_event(is_relevant) => ended,
        };
        if ended {
            self.active = None;
        }
    }

    /// Moves the watch to the directory that is currently at the path.
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
            // The directory was removed after its metadata was read. The next poll finds its replacement.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let dir = self.dir.display();
                self.failures.log(
                    &error,
                    &format!(
                        "cannot watch {dir} with inotify, polling it every 2 s instead; check the fs.inotify sysctl limits"
                    ),
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
    /// Waits for an event on the directory itself or a relevant one. Returns whether the watch has ended.
    async fn relevant_event(&mut self, is_relevant: impl Fn(&Event<OsString>) -> bool) -> bool {
        loop {
            match self.events.next().await {
                Some(Ok(event)) if event.name.is_none() => {
                    // IGNORED: the directory was removed. A new one may reuse its inode, so the watch must end.
                    return event.mask.contains(EventMask::IGNORED);
                }
                Some(Ok(event)) if is_relevant(&event) => return false,
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    debug!(%error, "inotify watch failed");
                    return true;
                }
                None => return true,
            }
        }
    }
}

//! The lock on a directory, held by whoever binds or removes a socket in it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Between tries for the lock.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// How it went with the directory's lock.
#[derive(Debug)]
pub(crate) enum Lock {
    /// Ours until this is dropped; `waited`: after somebody else's.
    Held {
        /// Unlocks when closed.
        _dir: File,
        /// Whether somebody else had it before.
        waited: bool,
    },
    /// Somebody else keeps it.
    TimedOut,
}

/// Holds the directory's lock until it is dropped. The lock is on the directory itself: nothing is
/// left behind in it. Whoever binds holds it for a moment, so one that is held for longer than
/// `timeout` is not meant for us (anyone who may read the directory can take it).
///
/// # Errors
/// When the directory cannot be opened or locked.
pub(crate) async fn lock_dir(dir: &Path, timeout: Duration) -> io::Result<Lock> {
    let dir = File::open(dir)?;
    let deadline = Instant::now() + timeout;
    let mut waited = false;
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(Lock::Held { _dir: dir, waited }),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                waited = true;
                sleep(RETRY_DELAY).await;
            }
            Err(TryLockError::WouldBlock) => return Ok(Lock::TimedOut),
        }
    }
}

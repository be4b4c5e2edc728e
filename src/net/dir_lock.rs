//! An exclusive lock on a directory, held while a socket in the directory is bound or removed.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The time between two attempts to take the lock.
const RETRY_DELAY: Duration = Duration::from_millis(5);

/// The result of [`lock_dir`].
#[derive(Debug)]
pub(crate) enum Lock {
    /// This process holds the lock until the value is dropped.
    Held {
        /// Closing the directory releases the lock.
        _dir: File,
        /// Whether another process held the lock first.
        waited: bool,
    },
    /// Another process held the lock for the whole timeout.
    TimedOut,
}

/// Takes the lock with `flock(2)` on the directory itself, which creates no lock file.
///
/// Any process that can read the directory can take the lock. A plugin holds it only for milliseconds, so the caller
/// may ignore a lock that is held for longer than `timeout`.
///
/// # Errors
/// Returns an error if the directory cannot be opened or locked.
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

//! Reads the kubelet's checkpoint file, `kubelet_internal_checkpoint` in the device plugin directory. The program never
//! writes it.

use std::io;
use std::mem::{Discriminant, discriminant};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::warn;

use crate::node::checkpoint::{Checkpoint, parse};
use crate::util::file_id::FileVersion;
use crate::util::regular_file::RegularFile;

/// The name of the file in the device plugin directory.
pub const FILE: &str = "kubelet_internal_checkpoint";

/// The most bytes that are read: many times the size for 100 resources with 1,000 devices each.
pub const SIZE_MAX: u64 = 64 << 20;

/// The maximum age of a result of [`CheckpointFile::read_recent`].
const RECENT: Duration = Duration::from_millis(100);

/// The limit for one read. A hung disk can block a read forever.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The checkpoint file of one device plugin directory. The file is read again only after a change, and by one caller at
/// a time. So a hung disk blocks at most one thread, however many callers wait. Clones share the last result.
#[derive(Clone, Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    last: Arc<Mutex<LastRead>>,
}

/// Why no checkpoint is available.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The kubelet writes the file when the first plugin registers.
    #[error("the kubelet has not written a checkpoint yet")]
    Missing,
    /// The file is not in the format of `checkpoint.go`, or is larger than [`SIZE_MAX`].
    #[error("the kubelet's checkpoint has an unknown format: {0}")]
    UnknownFormat(String),
    /// The path is not a regular file, a system call failed, or the read timed out.
    #[error("the kubelet's checkpoint cannot be read: {0}")]
    Unreadable(String),
}

#[derive(Debug)]
struct LastRead {
    path: PathBuf,
    /// The kind of the last logged error. A successful read or a missing file resets it.
    logged: Option<Discriminant<CheckpointError>>,
    /// The last read, including one with an unknown format.
    read: Option<Read>,
}

#[derive(Debug)]
struct Read {
    began: Instant,
    version: FileVersion,
    /// Whether a later change is certain to change `version`. Timestamps of file systems are coarse.
    is_unambiguous: bool,
    outcome: Result<LoadedCheckpoint, CheckpointError>,
}

/// A checkpoint and the version of the file that it was read from.
#[derive(Clone, Debug)]
pub struct LoadedCheckpoint {
    pub checkpoint: Arc<Checkpoint>,
    pub modified: SystemTime,
    pub version: FileVersion,
}

impl CheckpointFile {
    /// Creates a reader for the checkpoint in the device plugin directory. The file need not exist.
    pub fn new(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let last = LastRead {
            path: path.clone(),
            logged: None,
            read: None,
        };
        Self {
            path,
            last: Arc::new(Mutex::new(last)),
        }
    }

    /// Returns the current version of the file, or `None` if there is no file. The call is a single `stat(2)`, which is
    /// fast enough to run outside of a blocking thread.
    pub fn version(&self) -> Option<FileVersion> {
        FileVersion::at(&self.path)
    }

    /// Returns the current contents of the file. A changed file is read on a blocking thread, because it can be large.
    ///
    /// # Errors
    /// Returns an error if the file does not exist, cannot be read within 5 s, or has an unknown format.
    pub async fn read(&self) -> Result<LoadedCheckpoint, CheckpointError> {
        if let Ok(last) = self.last.try_lock()
            && let Some(read) = &last.read
            && read.is_unambiguous
            && self.version() == Some(read.version)
        {
            return read.outcome.clone();
        }
        self.read_unless(|_| false).await
    }

    /// Returns the contents of the file, at most 100 ms old, and not from before `since`. When many plugins register
    /// together, the kubelet rewrites the file after each list, and they share one read.
    ///
    /// # Errors
    /// Returns the same errors as [`CheckpointFile::read`].
    pub(crate) async fn read_recent(
        &self,
        since: Option<tokio::time::Instant>,
    ) -> Result<LoadedCheckpoint, CheckpointError> {
        let is_after = move |began: Instant| since.is_none_or(|since| began >= since.into_std());
        self.read_unless(move |last| last.began.elapsed() < RECENT && is_after(last.began))
            .await
    }

    async fn read_unless(
        &self,
        is_acceptable: impl Fn(&Read) -> bool + Send + 'static,
    ) -> Result<LoadedCheckpoint, CheckpointError> {
        let reading = async {
            // The blocking thread owns the guard, since it may run for longer than the timeout.
            let mut last = Arc::clone(&self.last).lock_owned().await;
            if let Some(read) = last.read.as_ref().filter(|last| is_acceptable(last)) {
                return read.outcome.clone();
            }
            let read = tokio::task::spawn_blocking(move || last.read()).await;
            read.map_err(|error| CheckpointError::Unreadable(error.to_string()))?
        };
        let late =
            |_| CheckpointError::Unreadable("the disk does not respond within 5 s".to_owned());
        timeout(READ_TIMEOUT, reading).await.map_err(late)?
    }
}

impl LastRead {
    fn read(&mut self) -> Result<LoadedCheckpoint, CheckpointError> {
        let read = self.load();
        match &read {
            Ok(_) | Err(CheckpointError::Missing) => self.logged = None,
            Err(error) if self.logged == Some(discriminant(error)) => {}
            Err(error) => {
                warn!(%error, "cannot read which devices pods hold from the kubelet's checkpoint");
                self.logged = Some(discriminant(error));
            }
        }
        read
    }

    fn load(&mut self) -> Result<LoadedCheckpoint, CheckpointError> {
        let began = Instant::now();
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => CheckpointError::Missing,
            _ => CheckpointError::Unreadable(error.to_string()),
        };
        let file = RegularFile::open(&self.path).map_err(unreadable)?;
        let version = FileVersion::from(file.metadata());
        // Another caller may have read this version while this one waited for the lock.
        if let Some(before) = &self.read
            && before.is_unambiguous
            && before.version == version
        {
            return before.outcome.clone();
        }
        let modified = file.metadata().modified().map_err(unreadable)?;
        let text = file.read_at_most(SIZE_MAX).map_err(unreadable)?;
        let loaded = parse(&text).map(|checkpoint| LoadedCheckpoint {
            checkpoint: Arc::new(checkpoint),
            modified,
            version,
        });
        // The position of the error changes with every write of the file, so the message omits it.
        let unknown = |error: io::Error| {
            let error = error.to_string();
            let error = error.split(" at line ").next().unwrap_or_default();
            CheckpointError::UnknownFormat(error.to_owned())
        };
        let outcome = loaded.map_err(unknown);
        self.read = Some(Read {
            began,
            version,
            is_unambiguous: version.is_unambiguous(),
            outcome: outcome.clone(),
        });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod that holds a device.
    const HELD: &[u8] =
        br#"{"Data":{"PodDeviceEntries":[{"ResourceName":"a/b","DeviceIDs":{"0":["x"]}}],"RegisteredDevices":{}}}"#;

    #[tokio::test]
    async fn a_missing_file_and_a_named_pipe_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(dir.path());
        assert_eq!(file.read().await.unwrap_err(), CheckpointError::Missing);
        let pipe = std::process::Command::new("mkfifo")
            .arg(dir.path().join(FILE))
            .status();
        assert!(pipe.unwrap().success());
        let pipe = file.read().await.unwrap_err();
        assert!(matches!(pipe, CheckpointError::Unreadable(_)), "{pipe}");
    }

    #[tokio::test]
    async fn reads_the_file_again_only_after_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(dir.path());
        let write = |text: &[u8]| {
            // Replaces the file by a rename, as the kubelet does.
            let new = dir.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, dir.path().join(FILE)).unwrap();
        };
        write(HELD);
        assert!(file.read().await.unwrap().checkpoint.get("a/b").is_some());
        // A replacement within this time could have the same timestamps.
        std::thread::sleep(FileVersion::TIMESTAMP_RESOLUTION);
        let first = file.read().await.unwrap();
        let again = file.clone().read().await.unwrap();
        assert!(Arc::ptr_eq(&first.checkpoint, &again.checkpoint));
        write(br#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}}}"#);
        let other = file.read().await.unwrap();
        assert!(other.checkpoint.get("a/b").is_none());
        write(b"{");
        let broken = file.read().await.unwrap_err();
        assert!(
            matches!(broken, CheckpointError::UnknownFormat(_)),
            "{broken}"
        );
    }
}

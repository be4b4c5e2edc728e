//! `kubelet_internal_checkpoint` in the plugin dir, only read here.

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

/// The file's name in the plugin dir.
pub const FILE: &str = "kubelet_internal_checkpoint";

/// In bytes: many times that of a hundred resources of a thousand devices.
pub const SIZE_MAX: u64 = 64 << 20;

/// A read this recent is shared by those who register at the same time, while the kubelet rewrites the file with each list. What
/// a predecessor allocated is older: a registration that may follow one settles for half a second first.
const RECENT: Duration = Duration::from_millis(100);

/// From a disk that hangs, it is not read at all.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The file in one plugin dir. It is read again only when it changed, and by one at a time: a hung disk
/// blocks at most one thread, however many callers wait. A clone shares what was read.
#[derive(Clone, Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    last: Arc<Mutex<LastRead>>,
}

/// Why the file says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// The kubelet writes it when the first plugin registers.
    #[error("the kubelet has not written a checkpoint yet")]
    Missing,
    /// Another kubelet than we know.
    #[error("the kubelet's checkpoint has an unknown form: {0}")]
    UnknownFormat(String),
    /// It is too large, no file, or on a disk that hangs.
    #[error("the kubelet's checkpoint cannot be read: {0}")]
    Unreadable(String),
}

#[derive(Debug)]
struct LastRead {
    path: PathBuf,
    /// The kind of error that was logged last, until the file can be understood again.
    logged: Option<Discriminant<CheckpointError>>,
    /// Also what could not be understood.
    read: Option<Read>,
}

#[derive(Debug)]
struct Read {
    began: Instant,
    version: FileVersion,
    /// What changed a moment ago may change again and look the same: a file system's clock is coarse.
    is_settled: bool,
    outcome: Result<LoadedCheckpoint, CheckpointError>,
}

/// What the kubelet wrote, and when.
#[derive(Clone, Debug)]
pub struct LoadedCheckpoint {
    pub checkpoint: Arc<Checkpoint>,
    pub modified: SystemTime,
    /// The file that it was.
    pub version: FileVersion,
}

impl CheckpointFile {
    /// The one in this plugin dir.
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

    /// Which file stands there now; `None` where there is none. As the plugin dir is looked at all the time, this
    /// needs no thread.
    pub fn version(&self) -> Option<FileVersion> {
        FileVersion::at(&self.path)
    }

    /// What the file says now; a changed one is read beside everything else that runs, since a large one takes
    /// its time.
    ///
    /// # Errors
    /// When there is no such file yet, or it cannot be read within 5 s, or not be understood.
    pub async fn read(&self) -> Result<LoadedCheckpoint, CheckpointError> {
        if let Ok(last) = self.last.try_lock()
            && let Some(read) = &last.read
            && read.is_settled
            && self.version() == Some(read.version)
        {
            return read.outcome.clone();
        }
        self.read_unless(|_| false).await
    }

    /// What the file says now, or said a moment ago: for many who ask at the same time, while the kubelet writes it
    /// again and again.
    ///
    /// # Errors
    /// As [`CheckpointFile::read`].
    pub(crate) async fn read_recent(&self) -> Result<LoadedCheckpoint, CheckpointError> {
        self.read_unless(|last| last.began.elapsed() < RECENT).await
    }

    async fn read_unless(
        &self,
        is_acceptable: impl Fn(&Read) -> bool + Send + 'static,
    ) -> Result<LoadedCheckpoint, CheckpointError> {
        let reading = async {
            // Goes with the thread, which may be held up for longer than we wait.
            let mut last = Arc::clone(&self.last).lock_owned().await;
            if let Some(read) = last.read.as_ref().filter(|last| is_acceptable(last)) {
                return read.outcome.clone();
            }
            let read = tokio::task::spawn_blocking(move || last.read()).await;
            read.map_err(|error| CheckpointError::Unreadable(error.to_string()))?
        };
        let late = |_| CheckpointError::Unreadable("it takes longer than 5 s".to_owned());
        timeout(READ_TIMEOUT, reading).await.map_err(late)?
    }
}

impl LastRead {
    fn read(&mut self) -> Result<LoadedCheckpoint, CheckpointError> {
        let read = self.open();
        match &read {
            Ok(_) | Err(CheckpointError::Missing) => self.logged = None,
            Err(error) if self.logged == Some(discriminant(error)) => {}
            Err(error) => {
                warn!("{error}; which devices pods hold is not known from it");
                self.logged = Some(discriminant(error));
            }
        }
        read
    }

    fn open(&mut self) -> Result<LoadedCheckpoint, CheckpointError> {
        let began = Instant::now();
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => CheckpointError::Missing,
            _ => CheckpointError::Unreadable(error.to_string()),
        };
        let file = RegularFile::open(&self.path).map_err(unreadable)?;
        let version = FileVersion::from(file.metadata());
        // Somebody may have read it while we stood in line.
        if let Some(before) = &self.read
            && before.is_settled
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
        // Where in the file it is differs from write to write.
        let unknown = |error: io::Error| {
            let error = error.to_string();
            let error = error.split(" at line ").next().unwrap_or_default();
            CheckpointError::UnknownFormat(error.to_owned())
        };
        let outcome = loaded.map_err(unknown);
        self.read = Some(Read {
            began,
            version,
            is_settled: version.is_settled(),
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
    async fn no_file_is_an_error_and_a_pipe_is_no_file() {
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
    async fn only_what_changed_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(dir.path());
        let write = |text: &[u8]| {
            // As the kubelet does: a new file in the place of the old.
            let new = dir.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, dir.path().join(FILE)).unwrap();
        };
        write(HELD);
        assert!(file.read().await.unwrap().checkpoint.get("a/b").is_some());
        // Too young to be told from what may come in its place.
        std::thread::sleep(FileVersion::SETTLES_WITHIN);
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

//! Detects whether the file at a path was changed or replaced.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Device and inode of a file. A file system may reuse the inode of a removed file, so keep the file open or compare
/// [`FileVersion`]s instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

/// Identifies the state of a file: a changed file, or another file at the same path, has a different version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    id: FileId,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileVersion {
    /// An upper limit of the resolution of file system timestamps, which is the kernel tick of at most 10 ms. Two
    /// changes within one tick can have the same version.
    pub(crate) const TIMESTAMP_RESOLUTION: Duration = Duration::from_millis(20);

    /// Returns the version of the file at this path, following symlinks. `None` if its metadata cannot be read.
    pub fn at(path: &Path) -> Option<Self> {
        path.metadata().ok().as_ref().map(Self::from)
    }

    /// Returns the version of the socket at this path, or `None` if the path does not exist or is not a socket.
    ///
    /// # Errors
    /// Returns an error if the path's metadata cannot be read.
    pub fn of_socket(path: &Path) -> io::Result<Option<Self>> {
        match path.symlink_metadata() {
            Ok(file) => Ok(file.file_type().is_socket().then(|| Self::from(&file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the last change is old enough that any later change gives the file a different version.
    pub(crate) fn is_unambiguous(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let since = Duration::new(
            seconds.try_into().unwrap_or(0),
            nanoseconds.try_into().unwrap_or(0),
        );
        let age = SystemTime::now().duration_since(UNIX_EPOCH + since);
        age.is_ok_and(|age| age >= Self::TIMESTAMP_RESOLUTION)
    }
}

impl From<&Metadata> for FileId {
    fn from(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
        }
    }
}

impl From<&Metadata> for FileVersion {
    fn from(file: &Metadata) -> Self {
        Self {
            id: file.into(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

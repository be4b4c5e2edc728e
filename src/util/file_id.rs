//! Which file stands at a path, and whether it was changed or replaced since.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Device and inode. A file system may reuse the inode of a removed file: hold the file open, or compare a
/// [`FileVersion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

/// A file in one state: another file at the same path, or the same file after a change, has another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileVersion {
    id: FileId,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileVersion {
    /// File systems stamp changes with a coarse clock, of 10 ms at most: within it, two changes look the same.
    pub(crate) const SETTLES_WITHIN: Duration = Duration::from_millis(20);

    /// The version of the file at this path, symlinks followed; `None` where there is none.
    pub fn at(path: &Path) -> Option<Self> {
        path.metadata().ok().as_ref().map(Self::from)
    }

    /// The version of the socket at this path; `None` where there is no socket.
    ///
    /// # Errors
    /// When the path cannot be examined.
    pub fn of_socket(path: &Path) -> io::Result<Option<Self>> {
        match path.symlink_metadata() {
            Ok(file) => Ok(file.file_type().is_socket().then(|| Self::from(&file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether every later change will give the file another version.
    pub(crate) fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let since = Duration::new(
            seconds.try_into().unwrap_or(0),
            nanoseconds.try_into().unwrap_or(0),
        );
        let age = SystemTime::now().duration_since(UNIX_EPOCH + since);
        age.is_ok_and(|age| age >= Self::SETTLES_WITHIN)
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

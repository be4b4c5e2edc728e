//! Files of others, read with a bound and without waiting for what is no file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;

/// A regular file that is open.
#[derive(Debug)]
pub struct RegularFile {
    file: File,
    metadata: Metadata,
}

/// Tells a file's content from what was there before: device, inode, size, and the times of its last changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl RegularFile {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be opened or is something else: a pipe might never end.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        Ok(Self { file, metadata })
    }

    /// As it was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// At most so many bytes of it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_at_most(self, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.file.take(limit).read_to_end(&mut content)?;
        Ok(content)
    }
}

impl Version {
    /// Two changes within a tick of a file system's clock, 10 ms at most, cannot be told apart.
    pub const SETTLES_WITHIN: Duration = Duration::from_millis(20);

    /// Whether a later change will show, whatever is changed.
    pub fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let since = Duration::new(
            seconds.try_into().unwrap_or(0),
            nanoseconds.try_into().unwrap_or(0),
        );
        let age = SystemTime::now().duration_since(UNIX_EPOCH + since);
        age.is_ok_and(|age| age >= Self::SETTLES_WITHIN)
    }
}

impl From<&Metadata> for Version {
    fn from(file: &Metadata) -> Self {
        Self {
            file: (file.dev(), file.ino()),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

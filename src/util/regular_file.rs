//! Files of others, read with a bound and without waiting for what is no file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// A regular file that is open.
#[derive(Debug)]
pub(crate) struct RegularFile {
    file: File,
    metadata: Metadata,
}

impl RegularFile {
    /// Opens the file at this path.
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

    /// The metadata of the moment when it was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Reads the file, but not more than `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn read_at_most(self, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.file.take(limit).read_to_end(&mut content)?;
        Ok(content)
    }
}

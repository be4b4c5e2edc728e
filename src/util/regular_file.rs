//! Reads files that other processes write: at most a given number of bytes, and never from a pipe or a device.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

#[derive(Debug)]
pub(crate) struct RegularFile {
    file: File,
    metadata: Metadata,
}

impl RegularFile {
    /// Opens the file without blocking, even if the path is a pipe that has no writer.
    ///
    /// # Errors
    /// Returns an error if the path cannot be opened or is not a regular file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Self { file, metadata })
    }

    /// Returns the metadata that the file had when it was opened.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Reads the file up to `limit` bytes.
    ///
    /// # Errors
    /// Returns an error if a read fails.
    pub(crate) fn read_at_most(self, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        self.file.take(limit).read_to_end(&mut content)?;
        Ok(content)
    }
}

//! The errors in a file, each with its line.

use std::fmt;

use super::super::error::{ConfigErrors, Place};

/// Collects the errors of one file.
pub(crate) struct FileErrors<'a> {
    /// The file as it was named.
    pub file: &'a str,
    pub errors: &'a mut ConfigErrors,
}

impl FileErrors<'_> {
    /// `key` is what the value stands under, `value` what stands there, where it is a text.
    pub fn add(
        &mut self,
        line: usize,
        key: &str,
        value: Option<&str>,
        expected: impl fmt::Display,
    ) {
        let place = Place::File {
            file: self.file.to_owned(),
            line,
            key: key.to_owned(),
        };
        let value = value.filter(|_| !key.is_empty());
        self.errors.add_at(place, value, expected);
    }
}

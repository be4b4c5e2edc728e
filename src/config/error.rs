//! The errors in a configuration.

use std::collections::BTreeSet;
use std::fmt;

use thiserror::Error;

use super::settings::{At, Origin};
use crate::util::sanitize::sanitize;

/// One error: where it is, the value found there, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub place: Place,
    /// The value, or one element of a list. `None` if it is not a text.
    pub value: Option<String>,
    pub expected: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A variable's full name, as in `NUMBER_DEVICES_1.worker2`.
    Variable(String),
    /// A line of the config file.
    File {
        /// The path as given in `CONFIG_FILE`.
        file: String,
        /// Counted from 1.
        line: usize,
        /// The key of the value. Empty if the error concerns the file itself or an entry without a key.
        key: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Variable(name) => write!(f, "{}", sanitize(name))?,
            Place::File { file, line, key } => {
                let space = if key.is_empty() { "" } else { " " };
                write!(f, "{}:{line}:{space}{}", sanitize(file), sanitize(key))?;
            }
        }
        if let Some(value) = &self.value {
            write!(f, "=\"{}\"", sanitize(value))?;
        }
        let colon = if matches!(&self.place, Place::File { key, .. } if key.is_empty()) {
            ""
        } else {
            ":"
        };
        write!(f, "{colon} expected {}", self.expected)
    }
}

/// All errors in a configuration, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Error)]
#[error("{}", self.lines())]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    /// The number of errors beyond [`ERRORS_MAX`].
    more: usize,
    /// The path of the config file, as given in `CONFIG_FILE`.
    file: String,
    /// Variables whose values are not UTF-8. They have no further errors.
    not_utf8: BTreeSet<String>,
    /// Warnings about misspelled variables, which may explain the errors.
    warnings: Vec<String>,
}

/// Marks a value that is invalid and whose error has been reported.
pub(crate) struct Reported;

/// Collects the results like `collect`, but evaluates all of them, so that every error is reported.
pub(super) fn all<T>(
    results: impl IntoIterator<Item = Result<T, Reported>>,
) -> Result<Vec<T>, Reported> {
    let results: Vec<_> = results.into_iter().collect();
    results.into_iter().collect()
}

/// The number of errors that are kept. Further errors are only counted.
const ERRORS_MAX: usize = 200;

impl ConfigErrors {
    pub fn as_slice(&self) -> &[ConfigError] {
        &self.errors
    }

    /// Returns the warnings to print before the errors.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub(super) fn with_warnings(self, warnings: Vec<String>) -> Self {
        Self { warnings, ..self }
    }

    /// Returns the number of errors and where they are, as in `2 errors in the variables`.
    pub fn summary(&self) -> String {
        let in_file = |error: &ConfigError| match &error.place {
            Place::File { .. } => true,
            Place::Variable(name) => name == "CONFIG_FILE",
        };
        let place = if self.errors.iter().any(in_file) {
            "configuration"
        } else {
            "variables"
        };
        match (self.errors.len(), self.more) {
            (1, _) => format!("1 error in the {place}"),
            (count, 0) => format!("{count} errors in the {place}"),
            (shown, more) => {
                let count = shown + more;
                format!("{count} errors in the {place}; the first {shown} are shown")
            }
        }
    }

    /// Sets the file that all lines refer to.
    pub(super) fn set_file(&mut self, name: &str) {
        name.clone_into(&mut self.file);
    }

    pub(super) fn add(
        &mut self,
        variable: &str,
        value: &str,
        expected: impl fmt::Display,
    ) -> Reported {
        let place = Place::Variable(variable.to_owned());
        self.push(place, Some(value), expected)
    }

    /// Reports a value that is not UTF-8, and no later error in the same variable.
    pub(super) fn add_not_utf8(&mut self, variable: &str, value: &str) {
        self.add(variable, value, "valid UTF-8");
        self.not_utf8.insert(variable.to_owned());
    }

    /// `key` is the text's key in a config file. Variables do not use it.
    pub(super) fn add_text(
        &mut self,
        key: &str,
        text: &At<String>,
        expected: impl fmt::Display,
    ) -> Reported {
        self.add_at(&text.origin, key, Some(&text.value), expected)
    }

    /// Like [`Self::add_text`], for values that are not texts: their `value` is `None`.
    pub(super) fn add_at(
        &mut self,
        origin: &Origin,
        key: &str,
        value: Option<&str>,
        expected: impl fmt::Display,
    ) -> Reported {
        let place = match origin {
            Origin::Variable(name) => Place::Variable(name.to_string()),
            Origin::Line(line) => Place::File {
                file: self.file.clone(),
                line: *line,
                key: key.to_owned(),
            },
        };
        self.push(place, value, expected)
    }

    fn push(&mut self, place: Place, value: Option<&str>, expected: impl fmt::Display) -> Reported {
        if matches!(&place, Place::Variable(name) if self.not_utf8.contains(name)) {
            return Reported;
        }
        let error = ConfigError {
            place,
            value: value.map(str::to_owned),
            expected: expected.to_string(),
        };
        // A variable that applies to several resources is validated once for each of them.
        if self.errors.contains(&error) {
            return Reported;
        }
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        } else {
            self.more += 1;
        }
        Reported
    }

    /// Adds the errors of one node. `which` says in the message which node it is. An error that an earlier node has
    /// already is not added again.
    pub(super) fn add_of_node(&mut self, node_errors: Self, which: Option<&str>) {
        for error in node_errors.errors {
            let is_known = self.errors.iter().any(|known| {
                let is_same = known.place == error.place && known.value == error.value;
                is_same && known.expected.starts_with(&error.expected)
            });
            if !is_known {
                let which = which.map_or(String::new(), |which| format!(" ({which})"));
                let expected = format!("{}{which}", error.expected);
                self.push(error.place, error.value.as_deref(), expected);
            }
        }
        self.more += node_errors.more;
    }

    /// Sorts the errors by line. Errors in variables come first.
    pub(super) fn sort_by_line(&mut self) {
        self.errors.sort_by_key(|error| match error.place {
            Place::Variable(_) => 0,
            Place::File { line, .. } => line,
        });
    }

    /// Returns the value, or the errors if there are any.
    pub(super) fn into_result<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(self),
        }
    }

    fn lines(&self) -> String {
        let lines: Vec<String> = self.errors.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

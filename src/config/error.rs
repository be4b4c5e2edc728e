//! What is wrong with a configuration.

use std::fmt;

use thiserror::Error;

use super::settings::{At, Origin};
use crate::util::sanitize::sanitize;

/// One thing that is wrong: where, what stands there, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub place: Place,
    /// The value, or the element of its list; `None` where it is no text.
    pub value: Option<String>,
    /// What was expected instead.
    pub expected: String,
}

/// Where an error is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A variable's full name, as in `NUMBER_DEVICES_1.worker2`.
    Variable(String),
    /// A line of the config file.
    File {
        /// The file as it was named.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What the value stands under; empty where that is the file.
        key: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Variable(name) => write!(f, "{}", sanitize(name))?,
            Place::File { file, line, key } => {
                let blank = if key.is_empty() { "" } else { " " };
                write!(f, "{}:{line}:{blank}{}", sanitize(file), sanitize(key))?;
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

/// Everything that is wrong with a configuration, in the order in which it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Error)]
#[error("{}", self.lines())]
pub struct ConfigErrors {
    errors: Vec<ConfigError>,
    more: usize,
    /// The config file as it was named: what lines are lines of.
    file: String,
}

/// The value is wrong, and its error is reported already.
pub(crate) struct Reported;

/// The results, or that one of them was wrong; all are made first, as an error in one must not hide those of the next.
pub(super) fn all<T>(
    results: impl IntoIterator<Item = Result<T, Reported>>,
) -> Result<Vec<T>, Reported> {
    let results: Vec<_> = results.into_iter().collect();
    results.into_iter().collect()
}

/// Nobody reads more at a time.
const ERRORS_MAX: usize = 200;

impl ConfigErrors {
    pub fn as_slice(&self) -> &[ConfigError] {
        &self.errors
    }

    /// How many there are, and where.
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
            (count, more) => format!("{count} errors in the {place}, and {more} more"),
        }
    }

    /// From here on lines are those of this file.
    pub(super) fn in_file(&mut self, name: &str) {
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

    /// `key` is what the text stands under in a file.
    pub(super) fn add_text(
        &mut self,
        key: &str,
        text: &At<String>,
        expected: impl fmt::Display,
    ) -> Reported {
        self.add_at(&text.origin, key, Some(&text.value), expected)
    }

    /// `key` is what the value stands under in a file, `value` what stands there, where it is a text.
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
        let error = ConfigError {
            place,
            value: value.map(str::to_owned),
            expected: expected.to_string(),
        };
        // A variable that serves several resources is validated for each of them.
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

    /// Adds the errors of one node, each with the node's `place`, but for those that another node has already.
    pub(super) fn add_of_node(&mut self, of_node: Self, place: Option<&str>) {
        for error in of_node.errors {
            let is_known = self.errors.iter().any(|known| {
                let is_same = known.place == error.place && known.value == error.value;
                is_same && known.expected.starts_with(&error.expected)
            });
            if !is_known {
                let place = place.map_or(String::new(), |place| format!(" ({place})"));
                let expected = format!("{}{place}", error.expected);
                self.push(error.place, error.value.as_deref(), expected);
            }
        }
        self.more += of_node.more;
    }

    /// As the file has them; those in the variables first.
    pub(super) fn sort_by_line(&mut self) {
        self.errors.sort_by_key(|error| match error.place {
            Place::Variable(_) => 0,
            Place::File { line, .. } => line,
        });
    }

    /// The value, unless anything is wrong.
    pub(super) fn unless_any<T>(self, value: Option<T>) -> Result<T, Self> {
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

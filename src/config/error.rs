//! What is wrong with a configuration.

use std::fmt;

use thiserror::Error;

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

    pub(super) fn add(&mut self, variable: &str, value: &str, expected: impl fmt::Display) {
        self.add_at(Place::Variable(variable.to_owned()), Some(value), expected);
    }

    pub(super) fn add_at(
        &mut self,
        place: Place,
        value: Option<&str>,
        expected: impl fmt::Display,
    ) {
        let error = ConfigError {
            place,
            value: value.map(str::to_owned),
            expected: expected.to_string(),
        };
        // A list that serves several resources is read once for each of them.
        if self.errors.contains(&error) {
            return;
        }
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        } else {
            self.more += 1;
        }
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

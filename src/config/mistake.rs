//! What is wrong with a configuration.

use std::fmt;

use thiserror::Error;

use crate::foreign::foreign;

/// One thing that is wrong: where, what stands there, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it is.
    pub place: Place,
    /// The value, or the element of its list; `None` where it is no text.
    pub value: Option<String>,
    /// What was expected instead.
    pub expected: String,
}

/// Where a mistake is.
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

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Variable(name) => write!(f, "{}", foreign(name))?,
            Place::File { file, line, key } => {
                let blank = if key.is_empty() { "" } else { " " };
                write!(f, "{}:{line}:{blank}{}", foreign(file), foreign(key))?;
            }
        }
        if let Some(value) = &self.value {
            write!(f, "=\"{}\"", foreign(value))?;
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
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Each mistake.
    pub fn as_slice(&self) -> &[Mistake] {
        &self.0
    }

    /// How many there are, and where.
    pub fn summary(&self) -> String {
        let in_file = |mistake: &Mistake| matches!(mistake.place, Place::File { .. });
        let place = if self.0.iter().any(in_file) {
            "configuration"
        } else {
            "variables"
        };
        match self.0.len() {
            1 => format!("1 mistake in the {place}"),
            count => format!("{count} mistakes in the {place}"),
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
        let mistake = Mistake {
            place,
            value: value.map(str::to_owned),
            expected: expected.to_string(),
        };
        // A list that serves several resources is read once for each of them.
        if !self.0.contains(&mistake) {
            self.0.push(mistake);
        }
    }

    /// As the file has them; those in the variables first.
    pub(super) fn sort_by_line(&mut self) {
        self.0.sort_by_key(|mistake| match mistake.place {
            Place::Variable(_) => 0,
            Place::File { line, .. } => line,
        });
    }

    /// The value, unless anything is wrong.
    pub(super) fn unless_any<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }

    fn lines(&self) -> String {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }
}

//! What is wrong with a configuration.

use std::fmt;

use thiserror::Error;

use crate::foreign::foreign;

/// One thing that is wrong: where, what stands there, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The variable's full name, as in `NUMBER_DEVICES_1.worker2`.
    pub variable: String,
    /// Its value, or the element of its list.
    pub value: String,
    /// What was expected instead.
    pub expected: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (variable, value) = (foreign(&self.variable), foreign(&self.value));
        write!(f, "{variable}=\"{value}\": expected {}", self.expected)
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

    pub(super) fn add(&mut self, variable: &str, value: &str, expected: impl fmt::Display) {
        let mistake = Mistake {
            variable: variable.to_owned(),
            value: value.to_owned(),
            expected: expected.to_string(),
        };
        // A list that serves several resources is read once for each of them.
        if !self.0.contains(&mistake) {
            self.0.push(mistake);
        }
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

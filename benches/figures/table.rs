//! The figures as a table, ready for the README.

use std::io::Write;
use std::time::Duration;

use tabwriter::TabWriter;

use crate::Result;

/// A figure is the median of so many.
pub const TIMES: usize = 7;

/// Something measured, with its goal.
pub struct Figure {
    what: String,
    measured: f64,
    goal: Option<Goal>,
    unit: &'static str,
    how: String,
}

#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Figure {
    pub fn new(what: &str, measured: f64, most: f64, unit: &'static str) -> Self {
        Self {
            goal: Some(Goal::AtMost(most)),
            ..Self::shown(what, measured, unit)
        }
    }

    pub fn at_least(what: &str, measured: f64, least: f64, unit: &'static str) -> Self {
        Self {
            goal: Some(Goal::AtLeast(least)),
            ..Self::shown(what, measured, unit)
        }
    }

    /// One without a goal.
    pub fn shown(what: &str, measured: f64, unit: &'static str) -> Self {
        Self {
            what: what.to_owned(),
            measured,
            goal: None,
            unit,
            how: String::new(),
        }
    }

    /// Adds how to read it.
    pub fn how(mut self, how: &str) -> Self {
        how.clone_into(&mut self.how);
        self
    }
}

/// Prints them; an error where one misses its goal.
pub fn print(figures: &[Figure]) -> Result<()> {
    let mut missed_count = 0;
    let mut table = TabWriter::new(std::io::stdout()).padding(2);
    writeln!(table, "FIGURE\tMEASURED\tGOAL\t")?;
    for figure in figures {
        let Figure {
            what,
            measured,
            goal,
            unit,
            how,
        } = figure;
        let missed = match *goal {
            Some(Goal::AtMost(most)) => *measured > most,
            Some(Goal::AtLeast(least)) => *measured < least,
            None => false,
        };
        missed_count += usize::from(missed);
        let verdict = if missed { "MISSED" } else { "" };
        let goal = match *goal {
            Some(Goal::AtMost(most)) => format!("≤ {most} {unit}"),
            Some(Goal::AtLeast(least)) => format!("≥ {least} {unit}"),
            None => String::new(),
        };
        let measured = if *measured < 10.0 {
            format!("{measured:.2}")
        } else {
            format!("{measured:.0}")
        };
        let notes = [verdict, how].join(" ");
        writeln!(table, "{what}\t{measured} {unit}\t{goal}\t{}", notes.trim())?;
    }
    table.flush()?;
    if missed_count > 0 {
        return Err(format!("{missed_count} miss the goal").into());
    }
    Ok(())
}

/// Milliseconds.
pub fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

/// The one in the middle.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

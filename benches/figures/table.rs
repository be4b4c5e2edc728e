//! The table of measured figures, which docs/benchmarks.md shows.

use std::io::Write;
use std::time::Duration;

use tabwriter::TabWriter;

use crate::Result;

/// The number of measurements of which a figure is the median.
pub const TIMES: usize = 7;

/// A measured value and its goal.
pub struct Figure {
    what: String,
    measured: f64,
    goal: Option<Goal>,
    unit: &'static str,
    note: String,
}

#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Figure {
    pub fn at_most(what: &str, measured: f64, most: f64, unit: &'static str) -> Self {
        Self {
            goal: Some(Goal::AtMost(most)),
            ..Self::without_goal(what, measured, unit)
        }
    }

    pub fn at_least(what: &str, measured: f64, least: f64, unit: &'static str) -> Self {
        Self {
            goal: Some(Goal::AtLeast(least)),
            ..Self::without_goal(what, measured, unit)
        }
    }

    pub fn without_goal(what: &str, measured: f64, unit: &'static str) -> Self {
        Self {
            what: what.to_owned(),
            measured,
            goal: None,
            unit,
            note: String::new(),
        }
    }

    /// Adds a text that is shown after the goal.
    pub fn note(mut self, note: &str) -> Self {
        note.clone_into(&mut self.note);
        self
    }
}

/// Prints the table.
///
/// # Errors
/// Returns an error if a figure misses its goal, after printing all figures.
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
            note,
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
        let notes = [verdict, note].join(" ");
        writeln!(table, "{what}\t{measured} {unit}\t{goal}\t{}", notes.trim())?;
    }
    table.flush()?;
    if missed_count > 0 {
        return Err(format!("{missed_count} figures miss their goals").into());
    }
    Ok(())
}

/// Converts a duration to milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

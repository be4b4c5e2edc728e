//! The figures as a table, ready for the README.

use std::io::Write;
use std::time::Duration;

use tabwriter::TabWriter;

use crate::Result;

/// A figure is the median of so many.
pub const TIMES: usize = 7;

/// Something measured, with the most it may be.
pub struct Figure {
    what: String,
    measured: f64,
    target: Option<f64>,
    unit: &'static str,
    how: String,
}

impl Figure {
    pub fn new(what: &str, measured: f64, target: f64, unit: &'static str) -> Self {
        Self {
            target: Some(target),
            ..Self::shown(what, measured, unit)
        }
    }

    /// One without a target.
    pub fn shown(what: &str, measured: f64, unit: &'static str) -> Self {
        Self {
            what: what.to_owned(),
            measured,
            target: None,
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

/// Prints them; an error where one is over its target.
pub fn print(figures: &[Figure]) -> Result<()> {
    let mut missed_count = 0;
    let mut table = TabWriter::new(std::io::stdout()).padding(2);
    writeln!(table, "FIGURE\tMEASURED\tAT MOST\t")?;
    for figure in figures {
        let Figure {
            what,
            measured,
            target,
            unit,
            how,
        } = figure;
        let missed = target.is_some_and(|target| *measured > target);
        missed_count += usize::from(missed);
        let verdict = if missed { "MISSED" } else { "" };
        let target = target.map_or_else(String::new, |target| format!("{target} {unit}"));
        let measured = if *measured < 10.0 {
            format!("{measured:.2}")
        } else {
            format!("{measured:.0}")
        };
        let notes = [verdict, how].join(" ");
        writeln!(
            table,
            "{what}\t{measured} {unit}\t{target}\t{}",
            notes.trim()
        )?;
    }
    table.flush()?;
    if missed_count > 0 {
        return Err(format!("{missed_count} over the target").into());
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

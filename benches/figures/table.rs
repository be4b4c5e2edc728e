//! The figures as a table, ready for the README.

use std::io::Write;

use tabwriter::TabWriter;

use crate::Result;

/// Something measured, with the most it may be.
pub struct Figure {
    what: String,
    measured: f64,
    target: f64,
    unit: &'static str,
    how: String,
}

impl Figure {
    pub fn new(what: &str, measured: f64, target: f64, unit: &'static str) -> Self {
        Self {
            what: what.to_owned(),
            measured,
            target,
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

pub fn print(figures: &[Figure]) -> Result<()> {
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
        let verdict = if measured <= target { "" } else { "MISSED" };
        let measured = if *measured < 10.0 {
            format!("{measured:.2}")
        } else {
            format!("{measured:.0}")
        };
        let notes = [verdict, how].join(" ");
        writeln!(
            table,
            "{what}\t{measured} {unit}\t{target} {unit}\t{}",
            notes.trim()
        )?;
    }
    table.flush()?;
    Ok(())
}

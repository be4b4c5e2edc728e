//! How the commands show things: aligned columns, and what a container gets.

use std::fmt::Display;
use std::io::{self, Write};

use tabwriter::TabWriter;

use crate::allocation::Allocation;

/// Prints rows whose cells are separated by tabs, each column as wide as its widest cell.
pub fn columns<R: Display>(
    out: &mut impl Write,
    rows: impl IntoIterator<Item = R>,
) -> io::Result<()> {
    let mut table = TabWriter::new(Vec::new()).padding(2);
    for row in rows {
        writeln!(table, "{row}")?;
    }
    table.flush()?;
    let aligned = table
        .into_inner()
        .map_err(|error| io::Error::other(error.to_string()))?;
    for line in String::from_utf8_lossy(&aligned).lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What a container gets, a row for each: what it is, and what it says.
pub fn outputs(allocation: &Allocation) -> Vec<(&'static str, String)> {
    let env = |(name, value): &(String, String)| ("env", format!("{name}={value}"));
    let annotation = |(name, value): &(String, String)| ("annotation", format!("{name}={value}"));
    let mut rows: Vec<(&str, String)> = allocation.envs.iter().map(env).collect();
    rows.extend(allocation.annotations.iter().map(annotation));
    rows.extend(allocation.device_files.iter().map(|file| {
        let (path, host, permissions) = (&file.container_path, &file.host_path, &file.permissions);
        (
            "device file",
            format!("{path} ({permissions}), the host's {host}"),
        )
    }));
    if rows.is_empty() {
        rows.push(("nothing", "since no prefix is set".to_owned()));
    }
    rows
}

//! Output shared by the commands: aligned columns, tables, and the result of an allocation.

use std::fmt::Display;
use std::io::{self, Write};

use anstyle::Style;
use tabwriter::TabWriter;

use super::style::STRONG;
use crate::model::allocation::Allocation;

/// Prints rows of tab-separated cells in aligned columns.
///
/// # Errors
/// Returns an error if `out` cannot be written.
pub fn columns<R: Display>(
    out: &mut impl Write,
    rows: impl IntoIterator<Item = R>,
) -> io::Result<()> {
    for line in aligned(rows)?.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints a heading and rows of tab-separated cells in aligned columns. Each row has its own style.
///
/// # Errors
/// Returns an error if `out` cannot be written.
pub fn table(
    out: &mut impl Write,
    heading: &str,
    rows: impl IntoIterator<Item = (Style, String)>,
) -> io::Result<()> {
    let (mut styles, mut cells) = (vec![STRONG], vec![heading.to_owned()]);
    for (style, row) in rows {
        styles.push(style);
        cells.push(row);
    }
    let aligned = aligned(cells)?;
    for (style, line) in styles.iter().zip(aligned.lines()) {
        writeln!(out, "{style}{}{style:#}", line.trim_end())?;
    }
    Ok(())
}

fn aligned<R: Display>(rows: impl IntoIterator<Item = R>) -> io::Result<String> {
    let mut table = TabWriter::new(Vec::new()).padding(2);
    for row in rows {
        writeln!(table, "{row}")?;
    }
    table.flush()?;
    let aligned = table.into_inner();
    let aligned = aligned.map_err(|error| io::Error::other(error.to_string()))?;
    Ok(String::from_utf8_lossy(&aligned).into_owned())
}

/// Lists what an allocation gives to a container, as pairs of a label and a text.
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
    rows.extend(allocation.mounts.iter().map(|mount| {
        let access = if mount.read_only { "ro" } else { "rw" };
        let (path, host) = (&mount.container_path, &mount.host_path);
        ("mount", format!("{path} ({access}), the host's {host}"))
    }));
    let cdi = allocation.cdi_devices.iter();
    rows.extend(cdi.map(|name| ("CDI device", name.clone())));
    rows
}

//! `status`: how the program that runs here stands, as it tells on its control socket.

mod show;

pub use show::struck;

use std::io::{self, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::bail;

use super::screen::Screen;
use crate::control::{Reply, Request, client};
use crate::status::{self, Status};

/// Between two looks of `--watch`.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is wanted.
#[derive(Debug)]
pub struct Wanted {
    /// This resource, with its devices.
    pub resource: Option<String>,
    /// For programs.
    pub json: bool,
    /// Again and again.
    pub watch: bool,
}

/// Prints the status, once or for as long as somebody watches.
pub fn run(socket: &Path, wanted: &Wanted, out: &mut Screen<impl Write>) -> anyhow::Result<()> {
    if !wanted.watch {
        let status = wanted.ask(socket)?;
        return Ok(print(&status, wanted, out)?);
    }
    let mut shown = None;
    loop {
        let seen = wanted.ask(socket).map_err(|error| format!("{error:#}"));
        // Its times are those of events: it changes with them alone.
        let seen_as = seen.as_ref().map(serde_json::to_string);
        let seen_as = seen_as
            .map_err(Clone::clone)
            .and_then(|text| text.map_err(|e| e.to_string()));
        if out.is_live() || shown.as_ref() != Some(&seen_as) {
            draw(&seen, wanted, out)?;
            shown = Some(seen_as);
        }
        sleep(LOOK_AGAIN);
    }
}

impl Wanted {
    fn ask(&self, socket: &Path) -> anyhow::Result<Status> {
        let devices = match &self.resource {
            Some(resource) => status::Wanted::Of(resource.clone()),
            None if self.json => status::Wanted::All,
            None => status::Wanted::None,
        };
        ask(socket, devices)
    }
}

/// How it stands.
pub fn ask(socket: &Path, devices: status::Wanted) -> anyhow::Result<Status> {
    match client::ask(socket, &Request::Status(devices))? {
        Reply::Status(status) => Ok(*status),
        Reply::Done(_) | Reply::Error(_) => bail!("not the answer to what was asked"),
    }
}

/// On a terminal in the place of what was there, otherwise below it.
fn draw(
    seen: &Result<Status, String>,
    wanted: &Wanted,
    out: &mut Screen<impl Write>,
) -> io::Result<()> {
    let mut text = Vec::new();
    match seen {
        Ok(status) => print(status, wanted, &mut text)?,
        Err(error) if wanted.json => writeln!(text, "{}", serde_json::json!({"error": error}))?,
        Err(error) => writeln!(text, "error: {error}")?,
    }
    out.measure();
    out.redraw(&String::from_utf8_lossy(&text))?;
    if !wanted.json && !out.is_live() {
        writeln!(out)?;
    }
    out.flush()
}

fn print(status: &Status, wanted: &Wanted, out: &mut impl Write) -> io::Result<()> {
    match (&*status.resources, &wanted.resource) {
        _ if wanted.json && wanted.watch => writeln!(out, "{}", serde_json::to_string(status)?),
        _ if wanted.json => writeln!(out, "{}", serde_json::to_string_pretty(status)?),
        ([resource], Some(_)) => show::resource(status, resource, SystemTime::now(), out),
        _ => show::all(status, SystemTime::now(), out),
    }
}

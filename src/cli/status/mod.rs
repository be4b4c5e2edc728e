//! `status`: shows the status of the running daemon, which it gets over the control socket.

mod show;

pub use show::injected;

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::bail;

use crate::cli::request::{self, UNEXPECTED};
use crate::control::{Reply, Request};
use crate::observe::status::{self, Status};

#[derive(Debug)]
pub(crate) struct StatusOptions {
    /// This resource, with its devices.
    pub resource: Option<String>,
    /// For programs.
    pub json: bool,
}

pub fn run(socket: &Path, wanted: &StatusOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let devices = match &wanted.resource {
        Some(resource) => status::WithDevices::Of(resource.clone()),
        None if wanted.json => status::WithDevices::All,
        None => status::WithDevices::None,
    };
    let status = ask(socket, devices, wanted.json, out)?;
    Ok(print(&status, wanted, out)?)
}

/// Asks for the status. A refusal is printed as JSON, if that is wanted, and is an error in any case.
pub fn ask(
    socket: &Path,
    devices: status::WithDevices,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<Status> {
    match request::ask(socket, &Request::Status { devices }, json, out)? {
        Reply::Status(status) => Ok(*status),
        _ => bail!(UNEXPECTED),
    }
}

fn print(status: &Status, wanted: &StatusOptions, out: &mut impl Write) -> io::Result<()> {
    match (&*status.resources, &wanted.resource) {
        _ if wanted.json => writeln!(out, "{}", serde_json::to_string_pretty(status)?),
        ([resource], Some(_)) => show::resource(status, resource, SystemTime::now(), out),
        _ => show::all(status, SystemTime::now(), out),
    }
}

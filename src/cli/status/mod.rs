//! The command `status`, which gets the running daemon's status over the control socket and shows it.

mod show;

pub use show::injected;

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::bail;

use crate::cli::request::{self, UNEXPECTED_REPLY};
use crate::control::{Reply, Request};
use crate::observe::status::{self, Status};

#[derive(Debug)]
pub(crate) struct StatusOptions {
    /// Show only this resource, with its devices.
    pub resource: Option<String>,
    pub json: bool,
}

pub fn run(socket: &Path, options: &StatusOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let devices = match &options.resource {
        Some(resource) => status::WithDevices::Of(resource.clone()),
        None if options.json => status::WithDevices::All,
        None => status::WithDevices::None,
    };
    let status = fetch(socket, devices, options.json, out)?;
    Ok(print(&status, options, out)?)
}

/// Requests the status. A refusal is returned as an error; with `json`, it is also printed as JSON.
pub fn fetch(
    socket: &Path,
    devices: status::WithDevices,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<Status> {
    match request::send(socket, &Request::Status { devices }, json, out)? {
        Reply::Status(status) => Ok(*status),
        _ => bail!(UNEXPECTED_REPLY),
    }
}

fn print(status: &Status, options: &StatusOptions, out: &mut impl Write) -> io::Result<()> {
    match (&*status.resources, &options.resource) {
        _ if options.json => writeln!(out, "{}", serde_json::to_string_pretty(status)?),
        ([resource], Some(_)) => show::resource(status, resource, SystemTime::now(), out),
        _ => show::all(status, SystemTime::now(), out),
    }
}

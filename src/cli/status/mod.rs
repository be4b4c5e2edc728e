//! `status`: shows the status of the running daemon, which it gets over the control socket.

mod show;

pub use show::injected;

use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::bail;

use crate::cli::request::UNEXPECTED;
use crate::control::{Reply, Request, client};
use crate::observe::status::{self, Status};

#[derive(Debug)]
pub(crate) struct StatusOptions {
    /// This resource, with its devices.
    pub resource: Option<String>,
    /// For programs.
    pub json: bool,
}

pub fn run(socket: &Path, wanted: &StatusOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let status = wanted.ask(socket)?;
    Ok(print(&status, wanted, out)?)
}

impl StatusOptions {
    fn ask(&self, socket: &Path) -> anyhow::Result<Status> {
        let devices = match &self.resource {
            Some(resource) => status::WithDevices::Of(resource.clone()),
            None if self.json => status::WithDevices::All,
            None => status::WithDevices::None,
        };
        ask(socket, devices)
    }
}

pub fn ask(socket: &Path, devices: status::WithDevices) -> anyhow::Result<Status> {
    match client::ask(socket, &Request::Status { devices })? {
        Reply::Status(status) => Ok(*status),
        Reply::Refused(refusal) => bail!(refusal),
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

//! Sends a request to the running daemon and prints its reply.

use std::io::Write;
use std::path::Path;

use anyhow::bail;

use crate::control::{Reply, Request, client};

/// Asks for it, and prints what then is.
pub fn run(socket: &Path, request: &Request, out: &mut impl Write) -> anyhow::Result<()> {
    match client::ask(socket, request)? {
        Reply::Done(done) => Ok(writeln!(out, "{done}")?),
        Reply::Status(_) | Reply::Error(_) => bail!("not the answer to what was asked"),
    }
}

//! What is set by hand, over the control socket.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;

use crate::control::{Reply, Request, client};

/// Asks for it, and prints what then is.
pub fn run(socket: Option<PathBuf>, request: &Request, out: &mut impl Write) -> anyhow::Result<()> {
    let Some(socket) = socket else {
        bail!("CONTROL_SOCKET is empty: the program has no control socket");
    };
    match client::ask(&socket, request)? {
        Reply::Done(done) => Ok(writeln!(out, "{done}")?),
        Reply::Status(_) | Reply::Error(_) => bail!("not the answer to what was asked"),
    }
}

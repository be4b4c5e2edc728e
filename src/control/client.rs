//! The client side of the control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::util::sanitize::sanitize;

use super::protocol::{Message, MessageVersion, Refusal, Reply, Request, VERSION};

/// How long to wait for the daemon to accept the connection, and then for each read.
const TIMEOUT: Duration = Duration::from_secs(10);

/// In bytes: more than the status of the largest possible number of devices.
const REPLY_SIZE_MAX: u64 = 256 << 20;

/// Sends a request to the daemon and returns its reply. A refusal is also a reply.
///
/// # Errors
/// Returns an error if the daemon cannot be reached, or if its reply cannot be parsed.
pub fn ask(socket: &Path, request: &Request) -> anyhow::Result<Reply> {
    let path = sanitize(&socket.display().to_string());
    let reply = connect(socket).and_then(|stream| exchange(stream, request));
    let reply = reply.map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => {
            anyhow!("permission denied for {path}: run the command as root or as the daemon's user")
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow!(
            "the daemon at {path} does not respond within {} s; see its log",
            TIMEOUT.as_secs()
        ),
        _ => anyhow!(
            "cannot reach the daemon at {path}: {error}; check that it is running, and that CONTROL_SOCKET is the path of its socket"
        ),
    })?;
    let Some(line) = reply.strip_suffix(b"\n") else {
        bail!(
            "the daemon at {path} closed the connection before its reply was complete: it stopped, or it has too many clients"
        );
    };
    parse(line).map_err(|error| anyhow!("cannot parse the daemon's reply from {path}: {error:#}"))
}

fn parse(line: &[u8]) -> anyhow::Result<Reply> {
    let MessageVersion { version } = serde_json::from_slice(line)?;
    if version != VERSION {
        return Ok(Reply::Refused(Refusal::Version { supported: version }));
    }
    let reply: Message<Reply> = serde_json::from_slice(line)?;
    Ok(reply.body)
}

/// Connects with a timeout: connecting blocks while the daemon's accept queue is full.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let client = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&client, Timeout::Send, Some(TIMEOUT))?;
    rustix::net::connect(&client, &SocketAddrUnix::new(socket)?)?;
    Ok(client.into())
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(&Message {
        version: VERSION,
        body: request,
    })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut reply = Vec::new();
    BufReader::new(stream.take(REPLY_SIZE_MAX)).read_until(b'\n', &mut reply)?;
    Ok(reply)
}

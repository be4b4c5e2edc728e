//! Asks on the control socket.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::util::sanitize::sanitize;

use super::protocol::{Message, MessageVersion, Refusal, Reply, Request, VERSION};

/// A daemon that sends nothing for this long does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// In bytes: beyond the status of as many devices as there can be.
const ANSWER_SIZE_MAX: u64 = 256 << 20;

/// Asks once. A refusal is a reply, too.
///
/// # Errors
/// When nobody replies, or not with what can be understood.
pub fn ask(socket: &Path, request: &Request) -> anyhow::Result<Reply> {
    let path = sanitize(&socket.display().to_string());
    let answer = connect(socket).and_then(|stream| exchange(stream, request));
    let answer = answer.map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => {
            anyhow!("you may not ask at {path}: only root and the program's own user may")
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => anyhow!(
            "somebody listens at {path}, but does not answer within {} s",
            PATIENCE.as_secs()
        ),
        _ => anyhow!(
            "nobody answers at {path}: simple-device-plugin does not run here, or CONTROL_SOCKET is another: {error}"
        ),
    })?;
    let Some(answer) = answer.strip_suffix(b"\n") else {
        bail!("the answer at {path} broke off: the program ended, or too many ask");
    };
    parse(answer).map_err(|error| anyhow!("cannot read the answer at {path}: {error:#}"))
}

fn parse(line: &[u8]) -> anyhow::Result<Reply> {
    let MessageVersion { version } = serde_json::from_slice(line)?;
    if version != VERSION {
        return Ok(Reply::Refused(Refusal::Version { supported: version }));
    }
    let reply: Message<Reply> = serde_json::from_slice(line)?;
    Ok(reply.body)
}

/// Does not wait longer for a place in the queue of who listens.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let own = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    set_socket_timeout(&own, Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&own, &SocketAddrUnix::new(socket)?)?;
    Ok(own.into())
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(&Message {
        version: VERSION,
        body: request,
    })?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_SIZE_MAX)).read_until(b'\n', &mut answer)?;
    Ok(answer)
}

//! Asks on the control socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{Reply, Request};

/// Whoever says nothing for so long does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks once.
///
/// # Errors
/// When nobody answers, or not with what can be understood, or with a refusal.
pub fn ask(socket: &Path, request: &Request) -> anyhow::Result<Reply> {
    let path = socket.display();
    let stream = UnixStream::connect(socket).with_context(|| {
        format!("nobody answers at {path}: simple-device-plugin does not run here, or CONTROL_SOCKET is another")
    })?;
    let answer = exchange(stream, request);
    let answer = answer.with_context(|| format!("no answer at {path}"))?;
    match serde_json::from_slice(&answer) {
        Ok(Reply::Error(error)) => bail!("{error}"),
        Ok(reply) => Ok(reply),
        Err(error) => {
            bail!("cannot read the answer at {path}, perhaps of another version: {error}")
        }
    }
}

fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut answer)?;
    Ok(answer)
}

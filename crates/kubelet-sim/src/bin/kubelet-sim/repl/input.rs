//! Standard input, line by line.

use std::io::{self, BufRead, Read};

use tokio::sync::mpsc;

/// Lines that wait until those before them are done.
const LINES_MAX: usize = 64;
/// In bytes. What is beyond is dropped.
const LINE_MAX: u64 = 64 * 1024;

/// The lines as they come.
pub type Lines = mpsc::Receiver<String>;

/// Reads standard input until it ends. A thread does it, since nothing else can wait for a terminal, a
/// pipe and a file alike; where it waits for a line, it goes with the process.
pub fn lines() -> Lines {
    let (send, lines) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        while let Ok(Some(line)) = line(&mut input) {
            if send.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// The next line; none comes when standard input has ended, and the kubelet goes on.
pub async fn next_line(lines: &mut Lines) -> String {
    match lines.recv().await {
        Some(line) => line,
        None => std::future::pending().await,
    }
}

/// The next line; `None` at the end.
fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    if input.take(LINE_MAX).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        input.skip_until(b'\n')?;
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_takes_no_more_memory_than_another() {
        let mut input = vec![b'x'; 200_000];
        input.extend(b"\nstatus\n\xff");
        let mut input = &*input;
        let mut next = || line(&mut input).unwrap();
        assert_eq!(next().map(|line| line.len()), Some(64 * 1024));
        assert_eq!(next().as_deref(), Some("status"));
        assert_eq!(next().as_deref(), Some("\u{fffd}"));
        assert_eq!(next(), None);
    }
}

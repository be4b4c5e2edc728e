//! Standard input, line by line.

use std::io::{self, BufRead, Read};

use tokio::sync::mpsc;

/// The number of lines that are read ahead.
const LINES_MAX: usize = 64;
/// In bytes. The rest of a longer line is dropped.
const LINE_MAX: u64 = 64 * 1024;

/// The lines of standard input.
pub(crate) type Lines = mpsc::Receiver<String>;

/// Reads standard input in a thread, because only a blocking read works for terminals, pipes and files alike. A thread
/// that waits for a line ends with the process.
pub(crate) fn lines() -> Lines {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Ok(Some(line)) = read_line(&mut input) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// Waits for the next line. Never returns after the end of standard input, because the kubelet keeps running.
pub(crate) async fn next_line(lines: &mut Lines) -> String {
    match lines.recv().await {
        Some(line) => line,
        None => std::future::pending().await,
    }
}

/// Reads the next line. Returns `None` at the end of the input.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
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
    fn a_long_line_is_cut() {
        let mut input = vec![b'x'; 200_000];
        input.extend(b"\nstatus\n\xff");
        let mut input = &*input;
        let mut next = || read_line(&mut input).unwrap();
        assert_eq!(next().map(|line| line.len()), Some(64 * 1024));
        assert_eq!(next().as_deref(), Some("status"));
        assert_eq!(next().as_deref(), Some("\u{fffd}"));
        assert_eq!(next(), None);
    }
}

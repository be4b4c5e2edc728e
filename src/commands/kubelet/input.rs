//! Standard input, line by line.

use std::io::BufRead;

use tokio::sync::mpsc;

/// Lines that wait until those before them are done.
const LINES_MAX: usize = 64;

/// Reads standard input until it ends. A thread does it, since nothing else can wait for a terminal, a
/// pipe and a file alike; where it waits for a line, it goes with the process.
pub fn lines() -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            if send.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

//! Standard output, written by a thread of its own: where nobody reads, it holds up nothing. (tracing-appender
//! does the same for the log, but its guard, dropped while the queue is full, prints to that very output.)

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Pieces that wait for a reader. What comes beyond them is lost, and how many is told to the next reader.
const PIECES_MAX: usize = 4096;
/// How long the last pieces may take.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// The way to the thread that writes.
#[derive(Debug)]
pub struct Patient {
    pieces: SyncSender<Vec<u8>>,
    lost: usize,
}

/// Waits, on drop, until all is written, but not for long.
#[derive(Debug)]
pub struct LastWords(Receiver<()>);

impl Patient {
    /// Writes there. When that fails, nobody will ever read, and `gone` is cancelled. The first is to be
    /// dropped last.
    pub fn new(mut out: impl Write + Send + 'static, gone: CancellationToken) -> (LastWords, Self) {
        let (pieces, to_write) = sync_channel::<Vec<u8>>(PIECES_MAX);
        let (done, all_done) = channel();
        std::thread::spawn(move || {
            let _done = done;
            for piece in to_write {
                if out.write_all(&piece).and_then(|()| out.flush()).is_err() {
                    gone.cancel();
                    return;
                }
            }
        });
        (LastWords(all_done), Self { pieces, lost: 0 })
    }
}

impl Drop for LastWords {
    fn drop(&mut self) {
        // It ends without a word, by closing, or it is given up.
        let _ = self.0.recv_timeout(LAST_WORDS_WITHIN);
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut piece = Vec::new();
        if self.lost > 0 {
            writeln!(piece, "… {} pieces were lost: nobody read them", self.lost)?;
        }
        piece.extend(bytes);
        match self.pieces.try_send(piece) {
            Err(TrySendError::Full(_)) => self.lost += 1,
            // Where the thread has ended, it has said so.
            Ok(()) | Err(TrySendError::Disconnected(_)) => self.lost = 0,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// An output that takes nothing until it is let.
    struct Held(Arc<Mutex<Vec<u8>>>);

    impl Write for Held {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_nobody_reads_is_counted() {
        let read = Arc::new(Mutex::new(Vec::new()));
        let (last_words, mut out) = Patient::new(Held(Arc::clone(&read)), CancellationToken::new());
        let held = read.lock().unwrap();
        for _ in 0..PIECES_MAX + 10 {
            out.write_all(b"x\n").unwrap();
        }
        let lost = out.lost;
        assert!((9..=10).contains(&lost), "{lost}");
        drop(held);
        while out.lost > 0 {
            out.write_all(b"y\n").unwrap();
        }
        drop(out);
        drop(last_words);
        let read = String::from_utf8(read.lock().unwrap().clone()).unwrap();
        assert!(read.contains("pieces were lost"), "{read}");
        assert!(read.ends_with("y\n"), "{read}");
    }

    #[test]
    fn an_output_that_is_closed_is_told() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let gone = CancellationToken::new();
        let (last_words, mut out) = Patient::new(writer, gone.clone());
        out.write_all(b"x").unwrap();
        drop(out);
        drop(last_words);
        assert!(gone.is_cancelled());
    }
}

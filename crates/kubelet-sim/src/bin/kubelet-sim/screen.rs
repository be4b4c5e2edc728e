//! Where the commands print: lines that stay, and on a terminal one that tells what is waited for.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use rustix::termios::tcgetwinsize;
use simple_device_plugin::cli::style::DIM;
use textwrap::{Options, WordSplitter, wrap};

/// Back to the line's begin, and empty it.
const ERASE_LINE: &str = "\r\x1b[2K";

/// An output, and whether a person looks at it.
#[derive(Debug)]
pub struct Screen<W: Write> {
    out: W,
    interactive: bool,
    /// Of the terminal; `None` where there is none.
    columns: Option<u16>,
    progress_shown: bool,
}

/// Standard output: with colour where it is a terminal, and `NO_COLOR` and the like do not forbid it.
pub fn stdout() -> Screen<impl Write> {
    let choice = AutoStream::choice(&io::stdout());
    Screen {
        interactive: io::stdout().is_terminal() && choice != ColorChoice::Never,
        columns: columns(),
        out: AutoStream::auto(io::stdout()),
        progress_shown: false,
    }
}

/// Some terminals do not know, and say 0.
fn columns() -> Option<u16> {
    let columns = tcgetwinsize(io::stdout()).ok()?.ws_col;
    Some(columns).filter(|columns| *columns > 0)
}

impl<W: Write> Screen<W> {
    /// Tells on a terminal what is waited for, until the next thing is printed; what is too long for a
    /// line is cut, as only one line can be erased.
    pub(super) fn show_progress(&mut self, what: impl Display) -> io::Result<()> {
        if !self.interactive {
            return Ok(());
        }
        let columns = self.columns.map_or(usize::MAX, usize::from);
        let line: String = what.to_string().chars().take(columns).collect();
        write!(self.out, "{ERASE_LINE}{DIM}{line}{DIM:#}")?;
        self.progress_shown = true;
        self.out.flush()
    }

    /// Prints a text, in as many lines as the terminal needs, all but the first indented.
    ///
    /// # Errors
    /// The output's.
    pub fn write_wrapped(&mut self, text: &str, indent: usize) -> io::Result<()> {
        let Some(columns) = self
            .columns
            .filter(|columns| usize::from(*columns) > indent)
        else {
            return writeln!(self, "{text}");
        };
        let indent = " ".repeat(indent);
        let options = Options::new(columns.into())
            .subsequent_indent(&indent)
            .break_words(false)
            .word_splitter(WordSplitter::NoHyphenation);
        for line in wrap(text, options) {
            writeln!(self, "{line}")?;
        }
        Ok(())
    }

    fn erase_progress(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.progress_shown) {
            self.out.write_all(ERASE_LINE.as_bytes())?;
        }
        Ok(())
    }
}

impl<W: Write> Write for Screen<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.erase_progress()?;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(interactive: bool, columns: Option<u16>) -> Screen<Vec<u8>> {
        Screen {
            out: Vec::new(),
            interactive,
            columns,
            progress_shown: false,
        }
    }

    fn printed(screen: Screen<Vec<u8>>) -> String {
        String::from_utf8(screen.out).unwrap()
    }

    #[test]
    fn what_is_waited_for_leaves_no_trace() {
        let shown = |interactive| {
            let mut screen = screen(interactive, None);
            screen.show_progress("1 of 2").unwrap();
            screen.show_progress("2 of 2").unwrap();
            writeln!(screen, "all").unwrap();
            printed(screen)
        };
        assert_eq!(shown(false), "all\n");
        assert!(shown(true).ends_with("2 of 2\x1b[0m\r\x1b[2Kall\n"));
    }

    #[test]
    fn what_is_waited_for_fits_on_a_line() {
        let mut screen = screen(true, Some(4));
        screen.show_progress("1 of 2").unwrap();
        assert!(printed(screen).ends_with("1 of\x1b[0m"));
    }

    #[test]
    fn only_a_terminal_needs_more_lines() {
        let shown = |columns| {
            let mut screen = screen(false, columns);
            screen.write_wrapped("one two three", 2).unwrap();
            printed(screen)
        };
        assert_eq!(shown(None), "one two three\n");
        assert_eq!(shown(Some(8)), "one two\n  three\n");
        assert_eq!(shown(Some(1)), "one two three\n");
    }
}

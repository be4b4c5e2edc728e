//! Standard output with a progress line, which the next output replaces. Only a terminal shows the progress line.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use rustix::termios::tcgetwinsize;
use simple_device_plugin::cli::style::DIM;
use textwrap::{Options, WordSplitter, wrap};

/// Moves the cursor to the start of the line and erases the line.
const ERASE_LINE: &str = "\r\x1b[2K";

/// An output that wraps lines to the width of the terminal and can show a progress line.
#[derive(Debug)]
pub(crate) struct Screen<W: Write> {
    out: W,
    /// Whether the output is a terminal that supports escape sequences, which the progress line requires.
    interactive: bool,
    /// The width of the terminal; `None` if the output is not a terminal or its width is unknown.
    columns: Option<u16>,
    progress_shown: bool,
}

/// Returns standard output. It has colors if it is a terminal and no variable such as `NO_COLOR` disables them.
pub(crate) fn stdout() -> Screen<impl Write> {
    let choice = AutoStream::choice(&io::stdout());
    Screen {
        interactive: io::stdout().is_terminal() && choice != ColorChoice::Never,
        columns: columns(),
        out: AutoStream::auto(io::stdout()),
        progress_shown: false,
    }
}

/// Returns the width of the terminal on standard output. A terminal that does not know its width reports 0.
fn columns() -> Option<u16> {
    match tcgetwinsize(io::stdout()).ok()?.ws_col {
        0 => None,
        columns => Some(columns),
    }
}

impl<W: Write> Screen<W> {
    /// Shows a progress line until the next output. The text is cut at the width of the terminal, because only one line
    /// can be erased. If the output is not a terminal, this does nothing.
    pub(crate) fn show_progress(&mut self, text: impl Display) -> io::Result<()> {
        if !self.interactive {
            return Ok(());
        }
        let columns = self.columns.map_or(usize::MAX, usize::from);
        let line: String = text.to_string().chars().take(columns).collect();
        write!(self.out, "{ERASE_LINE}{DIM}{line}{DIM:#}")?;
        self.progress_shown = true;
        self.out.flush()
    }

    /// Prints a text, wrapped to the width of the terminal. All lines but the first are indented by `indent` columns.
    pub(crate) fn write_wrapped(&mut self, text: &str, indent: usize) -> io::Result<()> {
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
    fn the_progress_line_is_erased() {
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
    fn the_progress_line_is_cut_at_the_width() {
        let mut screen = screen(true, Some(4));
        screen.show_progress("1 of 2").unwrap();
        assert!(printed(screen).ends_with("1 of\x1b[0m"));
    }

    #[test]
    fn only_a_terminal_wraps_lines() {
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

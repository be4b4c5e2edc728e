//! The styles of terminal output. `anstream` removes them if stdout is not a terminal.

use anstyle::{AnsiColor, Style};

pub const PLAIN: Style = Style::new();
/// For headings and names.
pub const STRONG: Style = Style::new().bold();
/// For success.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// For anything that needs attention, such as a device that is not Healthy.
pub const ODD: Style = AnsiColor::Yellow.on_default();
/// For failures.
pub const BAD: Style = AnsiColor::Red.on_default();
/// For secondary information.
pub const DIM: Style = Style::new().dimmed();

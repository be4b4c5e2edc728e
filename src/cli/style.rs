//! What colours mean. Where none are wanted, the screen drops them.

use anstyle::{AnsiColor, Style};

pub const PLAIN: Style = Style::new();
/// Headings, and what a paragraph is about.
pub const STRONG: Style = Style::new().bold();
/// As it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
pub const ODD: Style = AnsiColor::Yellow.on_default();
/// Not as it should be.
pub const BAD: Style = AnsiColor::Red.on_default();
pub const DIM: Style = Style::new().dimmed();

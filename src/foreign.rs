//! Text that others wrote, made fit for a log line or an error.

const CHARACTERS_MAX: usize = 256;

/// At most 256 characters of the text, what is not printable escaped; `…` where it was cut.
pub fn foreign(text: &str) -> String {
    let mut characters = text.chars();
    let mut shown = String::new();
    for character in characters.by_ref().take(CHARACTERS_MAX) {
        match character {
            '\'' | '"' | '\\' => shown.push(character),
            other => shown.extend(other.escape_debug()),
        }
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::foreign;

    #[test]
    fn is_cut_and_escaped() {
        assert_eq!(foreign("the host's \"gpu-0\" ü"), "the host's \"gpu-0\" ü");
        assert_eq!(
            foreign("a\nINFO faked\u{1b}[31m"),
            r"a\nINFO faked\u{1b}[31m"
        );
        assert_eq!(foreign(&"x".repeat(300)).chars().count(), 257);
    }
}

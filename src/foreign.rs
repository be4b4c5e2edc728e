//! Text that others wrote, made fit for a log line or an error.

const CHARACTERS_MAX: usize = 256;

/// At most 256 characters of the text, control characters and quotes escaped; `…` where it was cut.
pub fn foreign(text: &str) -> String {
    let mut characters = text.chars();
    let mut shown: String = characters
        .by_ref()
        .take(CHARACTERS_MAX)
        .flat_map(char::escape_debug)
        .collect();
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
        assert_eq!(foreign("gpu-0"), "gpu-0");
        assert_eq!(
            foreign("a\nINFO faked\u{1b}[31m"),
            r"a\nINFO faked\u{1b}[31m"
        );
        assert_eq!(foreign(&"x".repeat(300)).chars().count(), 257);
    }
}

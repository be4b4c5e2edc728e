//! Text that others wrote, made fit for a log line or an error.

const CHARACTERS_MAX: usize = 256;

/// At most 256 characters of the text, what is not printable escaped; `…` where it was cut.
pub fn sanitize(text: &str) -> String {
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
    use super::sanitize;

    #[test]
    fn is_cut_and_escaped() {
        assert_eq!(sanitize("the host's \"gpu-0\" ü"), "the host's \"gpu-0\" ü");
        assert_eq!(
            sanitize("a\nINFO faked\u{1b}[31m"),
            r"a\nINFO faked\u{1b}[31m"
        );
        assert_eq!(sanitize(&"x".repeat(300)).chars().count(), 257);
    }
}

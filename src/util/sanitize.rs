//! Makes untrusted text safe to show in log lines and errors.

const CHARACTERS_MAX: usize = 256;

/// Returns the first 256 characters with non-printable characters escaped, followed by `…` if the text is longer.
pub fn sanitize(text: &str) -> String {
    let mut characters = text.chars();
    let mut sanitized = String::new();
    for character in characters.by_ref().take(CHARACTERS_MAX) {
        match character {
            '\'' | '"' | '\\' => sanitized.push(character),
            other => sanitized.extend(other.escape_debug()),
        }
    }
    if characters.next().is_some() {
        sanitized.push('…');
    }
    sanitized
}

#[cfg(test)]
mod tests {
    use super::sanitize;

    #[test]
    fn cuts_long_texts_and_escapes_non_printable_characters() {
        assert_eq!(sanitize("the host's \"gpu-0\" ü"), "the host's \"gpu-0\" ü");
        assert_eq!(
            sanitize("a\nINFO faked\u{1b}[31m"),
            r"a\nINFO faked\u{1b}[31m"
        );
        assert_eq!(sanitize(&"x".repeat(300)).chars().count(), 257);
    }
}

//! Tests with invalid YAML, and with YAML that is not a config file.

use proptest::prelude::*;

use super::{EXAMPLE, FileText, read_on};
use crate::config::error::Place;

#[test]
fn reports_invalid_yaml_with_its_line() {
    let deep = format!("resources: {}", "[".repeat(3000));
    let doubling = ('b'..='i').zip('a'..).map(|(name, of)| {
        let of = vec![format!("*{of}"); 9].join(",");
        format!("{name}: &{name} [{of}]")
    });
    let doubling: Vec<String> = doubling.collect();
    let bomb = format!("a: &a [1,1,1,1,1,1,1,1,1]\n{}", doubling.join("\n"));
    for (text, expected) in [
        ("resources: [1,\n", "c.yaml:1: expected valid YAML: "),
        ("a: b: c", "c.yaml:1: expected valid YAML: "),
        (
            "",
            "c.yaml:1: expected a mapping with the key resources, and optionally nodes and removalGrace",
        ),
        ("[]", "c.yaml:1: expected a mapping with the key resources"),
        (
            "resources: []\n---\nresources: []",
            "c.yaml:2: expected a single YAML document",
        ),
        ("resources: !!seq []", "c.yaml:1: expected no tag"),
        ("resources: *x", "c.yaml:1: expected valid YAML: "),
        (
            "resources: &x [*x]",
            "c.yaml:1: expected an alias whose anchor is complete",
        ),
        ("nodes: []", "c.yaml:1: expected the key resources"),
        (&deep, "c.yaml:1: expected valid YAML: "),
        (
            &bomb,
            "expected fewer aliases: they expand the file to more than 16 MiB",
        ),
    ] {
        let errors = read_on("n", text).expect_err(text).to_string();
        assert!(errors.contains(expected), "{errors}\nlacks {expected}");
    }
    assert!(
        read_on("n", b"\xff".to_vec())
            .unwrap_err()
            .to_string()
            .contains("valid UTF-8; it is invalid at byte 0")
    );
    let large = read_on("n", vec![b' '; FileText::SIZE_MAX + 1])
        .unwrap_err()
        .to_string();
    assert!(large.contains("a file of at most 1048576 bytes"), "{large}");
}

/// Generates texts of tokens that are common in config files.
fn any_yaml() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "resources",
        "nodes",
        "name",
        "devices",
        "id",
        "env",
        "numa",
        "health",
        "match",
        "a/b",
        "{id}",
        "{ids}",
        "{x|uuid}",
        "Healthy",
        "n",
        "*",
        "99999999999999999999",
        "-1",
        "0x10",
        "~",
        "true",
        "&a",
        "*a",
        "<<",
        "/dev/null",
        "hostPath",
        "deviceFiles",
        "mounts",
        "attributes",
        "removalGrace",
        "30s",
        "\"",
        "'",
        "|",
        ">",
        "!!int",
        "---",
        "?",
    ]);
    let glue = prop::sample::select(vec![
        ": ", "\n", "\n  ", "\n- ", ", ", "[", "]", "{", "}", " ",
    ]);
    let part = (words, glue).prop_map(|(word, glue)| format!("{word}{glue}"));
    prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn does_not_panic_for_any_text(text in any_yaml()) {
        let _ = read_on("n", text);
    }

    #[test]
    fn does_not_panic_for_any_bytes(at in 0..EXAMPLE.len(), bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        let mut text = EXAMPLE.as_bytes().to_vec();
        let end = (at + bytes.len()).min(text.len());
        text.splice(at..end, bytes);
        let _ = read_on("n", text);
    }

    /// Removes a part of a valid file.
    #[test]
    fn errors_have_a_line_of_the_file(from in 0..EXAMPLE.len(), length in 0_usize..40) {
        let to = (from + length).min(EXAMPLE.len());
        let text = format!("{}{}", &EXAMPLE[..from], &EXAMPLE[to..]);
        if let Err(errors) = read_on("n", &*text) {
            for error in errors.as_slice() {
                let Place::File { line, .. } = error.place else { panic!("{error}") };
                prop_assert!((1..=text.lines().count() + 1).contains(&line), "{error}");
            }
        }
    }
}

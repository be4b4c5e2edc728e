//! Text that is no YAML, and YAML that is no config file.

use proptest::prelude::*;

use super::{EXAMPLE, FileText, read_on};
use crate::config::error::Place;

#[test]
fn what_is_no_yaml_is_told_with_its_line() {
    let deep = format!("resources: {}", "[".repeat(3000));
    let doubling = ('b'..='i').zip('a'..).map(|(name, of)| {
        let of = vec![format!("*{of}"); 9].join(",");
        format!("{name}: &{name} [{of}]")
    });
    let doubling: Vec<String> = doubling.collect();
    let bomb = format!("a: &a [1,1,1,1,1,1,1,1,1]\n{}", doubling.join("\n"));
    for (text, expected) in [
        ("resources: [1,\n", "c.yaml:1: expected YAML: "),
        ("a: b: c", "c.yaml:1: expected YAML: "),
        (
            "",
            "c.yaml:1: expected the keys resources, nodes and removalGrace",
        ),
        ("[]", "c.yaml:1: expected the keys resources"),
        (
            "resources: []\n---\nresources: []",
            "c.yaml:2: expected one document",
        ),
        ("resources: !!seq []", "c.yaml:1: expected no tag"),
        ("resources: *x", "c.yaml:1: expected YAML: "),
        (
            "resources: &x [*x]",
            "c.yaml:1: expected an alias of something that ended before it",
        ),
        ("nodes: []", "c.yaml:1: expected the key resources"),
        (&deep, "c.yaml:1: expected YAML: "),
        (
            &bomb,
            "expected less: anchors and aliases make more than 16 MiB of it",
        ),
    ] {
        let errors = read_on("n", text).expect_err(text).to_string();
        assert!(errors.contains(expected), "{errors}\nlacks {expected}");
    }
    assert!(
        read_on("n", b"\xff".to_vec())
            .unwrap_err()
            .to_string()
            .contains("text in UTF-8")
    );
    let large = read_on("n", vec![b' '; FileText::SIZE_MAX + 1])
        .unwrap_err()
        .to_string();
    assert!(large.contains("a file of at most 1048576 bytes"), "{large}");
}

/// YAML that looks like a config file, here and there.
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
    fn no_file_makes_it_panic(text in any_yaml()) {
        let _ = read_on("n", text);
    }

    #[test]
    fn no_bytes_make_it_panic(at in 0..EXAMPLE.len(), bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        let mut text = EXAMPLE.as_bytes().to_vec();
        let end = (at + bytes.len()).min(text.len());
        text.splice(at..end, bytes);
        let _ = read_on("n", text);
    }

    /// Whatever is cut out of a good file: it is read, or the error has a line of the file.
    #[test]
    fn mistakes_have_a_line_of_the_file(from in 0..EXAMPLE.len(), length in 0_usize..40) {
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

//! Tests of the limits on files and on the resources in them.

use super::{errors_of, read_on};

#[test]
fn refuses_files_that_would_take_too_much_memory_or_time() {
    let long = "x".repeat(5000);
    let scalars = format!(
        "a: &a \"{}\"\nb: [{}]\n",
        "x".repeat(500_000),
        "*a,".repeat(1000)
    );
    let anchors = format!(
        "a: {}{}{}",
        "&a [".repeat(200),
        "x,".repeat(100_000),
        "]".repeat(200)
    );
    let parts = "{id} ".repeat(80_000);
    let rules: Vec<String> = (0..300).map(|i| format!("'A{i}_{{index}}': x")).collect();
    for (text, expected) in [
        (scalars, "they expand the file to more than 16 MiB"),
        (anchors, "they expand the file to more than 16 MiB"),
        (
            format!("resources: [{{name: a/b, env: {{'X_{{id}}': \"{parts}\"}}}}]"),
            "at most 100 placeholders",
        ),
        (
            format!("resources: [{{name: a/b, devices: [{{id: {long}}}]}}]"),
            "at most 4096 bytes",
        ),
        (
            "resources: [{name: a/b, devices: 150000}, {name: a/c, devices: 150001}]".to_owned(),
            "at most 300000 devices",
        ),
        (
            format!(
                "resources: [{{name: a/b, devices: 10000, env: {{{}}}}}]",
                rules.join(", ")
            ),
            "fewer devices or fewer outputs",
        ),
    ] {
        let errors = errors_of(&text);
        assert!(errors.contains(expected), "{errors:.200}\nlacks {expected}");
        assert!(errors.lines().all(|line| line.len() < 2000));
    }
    let env: Vec<String> = (0..390).map(|i| format!("A{i}: b")).collect();
    let aliases: Vec<String> = (1..200)
        .map(|i| format!("{{name: a/b{i}, env: *e}}"))
        .collect();
    let repeated = format!(
        "resources: [{{name: a/b0, env: &e {{{}}}}}, {}]",
        env.join(", "),
        aliases.join(",")
    );
    assert!(
        errors_of(&repeated).contains("at most 50000 entries in env, annotations, deviceFiles")
    );
    let resources: Vec<String> = (0..1001).map(|i| format!("{{name: a/b{i}}}")).collect();
    let errors = errors_of(&format!("resources: [{}]", resources.join(",")));
    assert!(
        errors.ends_with("expected at most 1000 resources"),
        "{errors}"
    );
    let many = format!(
        "resources: [{{name: a/b, devices: [{}]}}]",
        "{id: ''},\n".repeat(20_000)
    );
    let errors = read_on("n", many).unwrap_err();
    assert_eq!(errors.as_slice().len(), 200);
    assert_eq!(
        errors.summary(),
        "20000 errors in the configuration; the first 200 are shown"
    );
}

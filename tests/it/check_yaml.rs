//! Tests `check --yaml`, which converts variables to a config file.

use crate::support::process::{output, program};

/// Returns the variables and the file of the documented example.
fn example() -> (Vec<(String, String)>, String) {
    let page = include_str!("../../docs/config-file.md");
    let (_, example) = page.split_once("$ env ").expect("the example");
    let (command, rest) = example.split_once(" check --yaml\n").expect("its command");
    let (file, _) = rest.split_once("```").expect("its end");
    let words = command
        .split_whitespace()
        .filter_map(|word| word.split_once('='));
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    (words.map(owned).collect(), file.to_owned())
}

fn check(variables: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    output(program(variables).arg("check").args(arguments))
}

#[test]
fn the_documented_example_is_equivalent_to_its_variables() {
    let (variables, file) = example();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(n, v)| (&**n, &**v)).collect();
    assert_eq!(variables.len(), 5, "{variables:?}");
    let (code, stdout, stderr) = check(&variables, &["--yaml"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(stdout, file);

    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("c.yaml");
    std::fs::write(&path, &stdout).expect("a file");
    let path = path.to_str().expect("UTF-8");
    let allowed = stdout
        .lines()
        .find_map(|line| line.strip_prefix("# ALLOWED_HOST_PATHS="));
    let with_file = [
        ("CONFIG_FILE", path),
        ("ALLOWED_HOST_PATHS", allowed.expect("paths")),
    ];
    for node in ["worker", "worker2"] {
        let of_node = ["--json", "--node", node];
        assert_eq!(check(&with_file, &of_node), check(&variables, &of_node));
    }
}

#[test]
fn refuses_a_config_file_and_invalid_variables() {
    let (code, _, stderr) = check(&[("CONFIG_FILE", "/c.yaml")], &["--yaml"]);
    assert_eq!(code, Some(78));
    assert!(
        stderr.starts_with(
            "error: CONFIG_FILE=\"/c.yaml\": expected to be unset, because check --yaml"
        ),
        "{stderr}"
    );
    let wrong = [("NUMBER_DEVICES.a", "x"), ("ENV_PREFIX_0.b", "A=B")];
    let (code, stdout, stderr) = check(&wrong, &["--yaml"]);
    assert_eq!((code, &*stdout), (Some(78), ""));
    for error in ["NUMBER_DEVICES.a=\"x\"", "ENV_PREFIX_0.b=\"A=B\""] {
        assert!(stderr.contains(error), "{stderr}");
    }
    let (code, ..) = check(&[], &["--yaml", "--json"]);
    assert_eq!(code, Some(2));
}

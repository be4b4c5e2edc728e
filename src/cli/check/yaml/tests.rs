//! Tests that the printed config file is equivalent to the variables on every node.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{print, scalar};
use crate::config::{Config, Environment, FileText, Host, by_node};
use crate::offer::resource::Resource;

/// Node names in variables, and last one that no variable names.
const NODES: [&str; 4] = ["n", "m.example", "w*[1]", "other"];

fn printed(environment: &Environment) -> Option<String> {
    let host = Host {
        hostname: Some("host".to_owned()),
        ..Host::default()
    };
    let mut out = Vec::new();
    print(&by_node(environment, &host).ok()?, &mut out).expect("memory");
    Some(String::from_utf8(out).expect("UTF-8"))
}

/// Returns the resources of the file, with the `ALLOWED_HOST_PATHS` of its comment. Without a file, returns the resources of
/// the variables.
fn resources(variables: &Environment, file: Option<&str>, node: &str) -> Vec<Resource> {
    let mut environment = Environment::from([("NODE_NAME".to_owned(), node.into())]);
    let file_text = file.map(|text| {
        let mut lines = text.lines();
        let allowed = lines.find_map(|line| line.strip_prefix("# ALLOWED_HOST_PATHS="));
        let paths = allowed.map(|list| serde_json::from_str(list).unwrap_or(list.to_owned()));
        environment.extend(paths.map(|paths| ("ALLOWED_HOST_PATHS".to_owned(), paths.into())));
        FileText {
            name: "c.yaml".to_owned(),
            content: Ok(text.as_bytes().to_vec()),
        }
    });
    if file_text.is_none() {
        environment.extend(variables.clone());
    }
    let config = Config::read(&environment, file_text.as_ref(), &Host::default());
    let file = file.unwrap_or_default();
    let config = config.unwrap_or_else(|errors| panic!("{errors}\n{variables:?}\n{file}"));
    config.plugins.resources
}

#[test]
fn quotes_texts_that_yaml_would_not_read_as_strings() {
    for text in [
        "gpu",
        "example.com/gpu",
        "/dev/null",
        "_x",
        "nope",
        "e10",
        "gpu-0",
    ] {
        assert_eq!(scalar(text), text);
    }
    for (text, quoted) in [
        ("", "\"\""),
        ("yes", "\"yes\""),
        ("NULL", "\"NULL\""),
        ("Y", "\"Y\""),
        ("010", "\"010\""),
        ("1.10", "\"1.10\""),
        (".inf", "\".inf\""),
        ("-x", "\"-x\""),
        ("a b", "\"a b\""),
        ("a: b #c", "\"a: b #c\""),
        ("\"\\", r#""\"\\""#),
        (
            "a\tb\n\u{7f}\u{85}\u{2028}\u{feff}",
            r#""a\tb\n\u007f\u0085\u2028\ufeff""#,
        ),
        ("ü🦀", "\"ü🦀\""),
    ] {
        assert_eq!(scalar(text), quoted);
    }
}

/// Generates an element of a list, which cannot contain commas or NUL characters.
fn any_text() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec![
        "yes",
        "null",
        "~",
        "010",
        "1.10",
        "-1",
        "- x",
        "# x",
        "a: b",
        "{id}",
        "'",
        "\"",
        "\\",
        "\u{7f}",
        "\u{85}",
        "a\u{2028}b",
        "\u{feff}",
        "\u{fffe}",
        "&a",
        "*a",
        "!x",
        "%",
        "@",
        "`",
        "|",
        ">",
        "?",
        "a\nb",
    ]);
    prop_oneof![odd.prop_map(str::to_owned), "[a-z]{1,4}", "[^,\0\\s]{0,6}"]
}

/// Generates a valid value of this variable for one resource.
fn any_value(variable: &'static str) -> BoxedStrategy<String> {
    let words =
        |words: &[&'static str]| prop::sample::select(words.to_vec()).prop_map(str::to_owned);
    match variable {
        "NUMBER_DEVICES" => words(&["", "0", "1", "3", "007", "40"]).boxed(),
        "NUMA_NODES" => words(&["", "0", "0-1", "0+2+2", "1023"]).boxed(),
        "PREFERRED_ALLOCATION" => words(&["", "none", "ordered", "packed", "spread"]).boxed(),
        "PLUGIN_NAME" => "[a-z0-9]{0,2}".boxed(),
        "DEVICE_FILE_HOST_PATH" => any_text().prop_map(|text| format!("/{text}")).boxed(),
        _ => any_text().boxed(),
    }
}

const VARIABLES: [&str; 9] = [
    "NUMBER_DEVICES",
    "DEVICE_ID_PREFIX",
    "PLUGIN_NAME",
    "ENV_PREFIX",
    "ANNOTATION_PREFIX",
    "DEVICE_FILE_PREFIX",
    "DEVICE_FILE_HOST_PATH",
    "NUMA_NODES",
    "PREFERRED_ALLOCATION",
];

/// Generates a variable for all resources, for each of them or for one index, on all nodes or on one.
fn any_variable() -> impl Strategy<Value = (String, String)> {
    let node = prop::sample::select(vec!["", "", ".n", ".m.example", ".w*[1]"]);
    prop::sample::select(VARIABLES.to_vec()).prop_flat_map(move |variable| {
        let list = prop::collection::vec(any_value(variable), 1..4);
        let index = prop::option::of(0_usize..3);
        (list, index, node.clone()).prop_map(move |(list, index, node)| match index {
            Some(index) => (format!("{variable}_{index}{node}"), list[0].clone()),
            None => (format!("{variable}{node}"), list.join(",")),
        })
    })
}

fn any_environment() -> impl Strategy<Value = Environment> {
    let names = || prop::sample::subsequence(vec!["a/x", "a/y", "b/no", "b/1"], 1..4);
    let of_node = prop::option::of(names());
    let others = prop::collection::btree_map(any_variable(), Just(()), 0..6);
    (names(), of_node, others).prop_map(|(names, of_node, others)| {
        let others: BTreeMap<String, String> = others.into_keys().collect();
        let mut environment =
            Environment::from([("RESOURCE_NAME".to_owned(), names.join(",").into())]);
        environment
            .extend(of_node.map(|names| ("RESOURCE_NAME.n".to_owned(), names.join(",").into())));
        environment.extend(others.into_iter().map(|(name, value)| (name, value.into())));
        environment
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_file_is_equivalent_to_the_variables_on_every_node(environment in any_environment()) {
        let file = printed(&environment);
        prop_assume!(file.is_some());
        for node in NODES {
            let from_file = resources(&environment, file.as_deref(), node);
            prop_assert_eq!(from_file, resources(&environment, None, node), "{}", file.unwrap_or_default());
        }
    }
}

#[test]
fn an_error_names_the_nodes_that_it_applies_to() {
    let errors = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        let environment = pairs.map(|(name, value)| ((*name).to_owned(), value.into()));
        let host = Host {
            hostname: Some("host".to_owned()),
            ..Host::default()
        };
        let errors = by_node(&environment.collect(), &host).expect_err("no error");
        errors.to_string()
    };
    assert_eq!(
        errors(&[("RESOURCE_NAME.n", "a/x,a/y"), ("NUMBER_DEVICES", "1,2")]),
        "NUMBER_DEVICES=\"1,2\": expected 1 element instead of 2, because there is one resource (on nodes that no variable names)"
    );
    // An error on all nodes is reported once.
    assert_eq!(
        errors(&[("ENV_PREFIX.n", "E"), ("NUMBER_DEVICES", "two")]),
        "NUMBER_DEVICES=\"two\": expected a whole number, 0 or more (on nodes that no variable names)"
    );
    assert_eq!(
        errors(&[("NUMBER_DEVICES", "two")]),
        "NUMBER_DEVICES=\"two\": expected a whole number, 0 or more"
    );
}

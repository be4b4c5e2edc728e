//! A config file that equals the variables, for every node.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{print, scalar};
use crate::config::{Config, Environment, FileText, Host, by_node};
use crate::offer::resource::Resource;

/// Node names that variables use, the last of which none does.
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

/// The resources of the variables or, where there is a file, of the file, with what its comment says is allowed.
fn resources(variables: &Environment, file: Option<&str>, node: &str) -> Vec<Resource> {
    let mut environment = Environment::from([("NODE_NAME".to_owned(), node.into())]);
    let text = file.map(|text| {
        let mut lines = text.lines();
        let allowed = lines.find_map(|line| line.strip_prefix("# ALLOWED_HOST_PATHS="));
        let paths = allowed.map(|list| serde_json::from_str(list).unwrap_or(list.to_owned()));
        environment.extend(paths.map(|paths| ("ALLOWED_HOST_PATHS".to_owned(), paths.into())));
        FileText {
            name: "c.yaml".to_owned(),
            content: Ok(text.as_bytes().to_vec()),
        }
    });
    if text.is_none() {
        environment.extend(variables.clone());
    }
    let config = Config::read(&environment, text.as_ref(), &Host::default());
    let file = file.unwrap_or_default();
    let config = config.unwrap_or_else(|errors| panic!("{errors}\n{variables:?}\n{file}"));
    config.plugins.resources
}

#[test]
fn texts_have_quotes_where_a_reader_needs_them() {
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

/// A text of one element: without commas and NUL, which a variable's element cannot have.
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

/// One variable of a resource: its name, its value for one resource, and what the value must be to be valid.
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

/// A variable for all resources, for each of them or by index, for all nodes or one.
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

    /// Devices, IDs, sockets, outputs and policy are the same, on nodes that variables name and on others.
    #[test]
    fn the_file_equals_the_variables(environment in any_environment()) {
        let file = printed(&environment);
        prop_assume!(file.is_some());
        for node in NODES {
            let of_file = resources(&environment, file.as_deref(), node);
            prop_assert_eq!(of_file, resources(&environment, None, node), "{}", file.unwrap_or_default());
        }
    }
}

#[test]
fn an_error_says_which_nodes_it_is_about() {
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
        "NUMBER_DEVICES=\"1,2\": expected one element for the one resource, not 2 (on nodes that no variable names)"
    );
    // One that all nodes have is reported once.
    assert_eq!(
        errors(&[("ENV_PREFIX.n", "E"), ("NUMBER_DEVICES", "two")]),
        "NUMBER_DEVICES=\"two\": expected a whole number, 0 or more (on nodes that no variable names)"
    );
    assert_eq!(
        errors(&[("NUMBER_DEVICES", "two")]),
        "NUMBER_DEVICES=\"two\": expected a whole number, 0 or more"
    );
}

//! Tests of warnings about what a container gets.

use super::plugins;

#[test]
fn warns_about_a_name_shared_by_several_devices() {
    let plugins =
        plugins("resources: [{name: a/b, devices: [{id: a-1}, {id: a1}], env: {'{id|alnum}': x}}]");
    let warnings = crate::config::warnings::of(&plugins, None);
    assert!(
        warnings[0]
            .starts_with("a/b has the environment variable a1 for several devices: a container"),
        "{warnings:?}"
    );
}

/// Measured with IDs of 18 bytes: a container with 6,800 of them in one variable starts, and one with 7,000 does not.
#[test]
fn warns_about_a_variable_that_may_be_too_long() {
    let with = |count: usize| {
        let text = format!(
            "resources: [{{name: a/b, deviceIdPrefix: eleven-char, devices: {count}, env: {{GPUS: '{{ids}}'}}}}]"
        );
        crate::config::warnings::of(&plugins(&text), None)
    };
    assert!(with(6_800).is_empty(), "{:?}", with(6_800));
    let [warning] = &*with(7_500) else {
        panic!("expected one warning");
    };
    let (before, after) = warning.split_once("more than ").expect("a count");
    assert_eq!(before, "a/b: a container with ");
    let (fit, after) = after.split_once(" of the 7500 devices ").expect("a count");
    assert!(
        after.starts_with("may not start: the environment variable GPUS would exceed 128 KiB"),
        "{after}"
    );
    assert!(
        (6_800..7_000).contains(&fit.parse::<usize>().unwrap()),
        "{fit}"
    );
}

/// Measured with IDs of 86 characters, each in its own variable: a container with 20,000 of them starts, and one with
/// 25,000 does not.
#[test]
fn warns_about_an_environment_that_may_be_too_large() {
    let with = |count: usize| {
        let prefix = "x".repeat(78);
        let text = format!(
            "resources: [{{name: a/b, deviceIdPrefix: {prefix}, devices: {count}, env: {{'ONE_{{index}}': '{{id}}'}}}}]"
        );
        let warnings = crate::config::warnings::of(&plugins(&text), None).into_iter();
        warnings
            .filter(|warning| warning.contains("environment"))
            .collect::<Vec<_>>()
    };
    assert!(with(18_000).is_empty(), "{:?}", with(18_000));
    let [warning] = &*with(25_000) else {
        panic!("expected one warning");
    };
    let (_, after) = warning.split_once("more than ").expect("a count");
    let (fit, _) = after.split_once(" of the 25000 devices ").expect("a count");
    assert!(
        (18_000..21_000).contains(&fit.parse::<usize>().unwrap()),
        "{fit}"
    );
}

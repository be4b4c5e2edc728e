//! Warnings about what a container gets.

use super::plugins;

#[test]
fn one_name_for_several_devices_is_warned_of() {
    let plugins =
        plugins("resources: [{name: a/b, devices: [{id: a-1}, {id: a1}], env: {'{id|alnum}': x}}]");
    let warnings = crate::config::warnings::of(&plugins, None);
    assert!(
        warnings[0].starts_with("a/b has the env a1 for several devices: one wins"),
        "{warnings:?}"
    );
}

/// Measured with IDs of 18 bytes: 6,800 of them in one variable run, and 7,000 do not.
#[test]
fn a_variable_that_keeps_a_container_from_starting_is_warned_of() {
    let with = |count: usize| {
        let text = format!(
            "resources: [{{name: a/b, deviceIdPrefix: eleven-char, devices: {count}, env: {{GPUS: '{{ids}}'}}}}]"
        );
        crate::config::warnings::of(&plugins(&text), None)
    };
    assert!(with(6_800).is_empty(), "{:?}", with(6_800));
    let [warning] = &*with(7_500) else {
        panic!("no warning, or several");
    };
    let (before, after) = warning.split_once("more than ").expect("a count");
    assert_eq!(before, "a/b: a container with ");
    let (fit, after) = after.split_once(" of its 7500 devices ").expect("a count");
    assert!(
        after.starts_with("may not start: the env GPUS would be over 128 KiB"),
        "{after}"
    );
    assert!(
        (6_800..7_000).contains(&fit.parse::<usize>().unwrap()),
        "{fit}"
    );
}

/// Measured with IDs of 86 characters in a variable each: 20,000 run, and 25,000 do not.
#[test]
fn an_environment_that_keeps_a_container_from_starting_is_warned_of() {
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
        panic!("no warning, or several");
    };
    let (_, after) = warning.split_once("more than ").expect("a count");
    let (fit, _) = after.split_once(" of its 25000 devices ").expect("a count");
    assert!(
        (18_000..21_000).contains(&fit.parse::<usize>().unwrap()),
        "{fit}"
    );
}

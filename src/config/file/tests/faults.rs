//! Tests of the key `faults`.

use super::{errors_of, plugins, read_on};

const ONE: &str = "resources: [{name: example.com/gpu, faults: FAULTS}]";

#[test]
fn a_fault_is_displayed_as_on_the_command_line() {
    let text = ONE.replace(
        "FAULTS",
        "[{on: allocate, delay: 10s, probability: 0.5, after: 3, times: 2, seed: 7},
          {on: pre-start, error: UNAVAILABLE, message: no luck, times: unlimited}, {on: stream},
          {on: registration, for: 90s}, {on: health, devices: 0-1, up: 10s, down: 5s, probability: 1},
          {on: health, devices: 0, up: 1s, down: 1s}, {on: options, error: INTERNAL, message: 010}]",
    );
    let plugins = plugins(&text);
    let faults = plugins.faults.of(&plugins.resources[0].name);
    let words: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "allocate --delay 10s --probability 0.5 --after 3 --times 2 --seed 7",
            "pre-start --error UNAVAILABLE --message 'no luck' --times unlimited",
            "stream",
            "registration --for 1m30s",
            "health 0-1 --up 10s --down 5s --probability 1",
            "health 0 --up 1s --down 1s",
            "options --error INTERNAL --message 010",
        ]
    );
}

#[test]
fn errors_in_faults_name_the_key() {
    for (faults, expected) in [
        (
            "[{on: allocate, delay: 61s}]",
            "delay=\"61s\": expected a duration from 10ms to 60s, for example 10s",
        ),
        (
            "[{on: allocate, delay: 10}]",
            "delay=\"10\": expected a duration from 10ms to 60s, for example 10s",
        ),
        (
            "[{on: allocate}]",
            "faults: expected either delay or error with on: allocate; message only with error",
        ),
        (
            "[{on: stream, up: 1s}]",
            "faults: expected no key \"up\" with on: stream",
        ),
        (
            "[{on: alocate}]",
            "on=\"alocate\": expected allocate, preferred, pre-start, options, stream, registration or health",
        ),
        ("[{delay: 1s}]", "faults: expected the key on"),
        (
            "[{rpc: stream}]",
            "rpc: expected one of the keys on, devices, delay, error, message, for, up, down, probability, after, times, seed\nc.yaml:2: faults: expected the key on",
        ),
        (
            "[{on: stream, when: now}]",
            "when: expected one of the keys on, devices, delay, error, message, for, up, down, probability, after, times, seed",
        ),
        (
            "[{on: stream, probability: 1.5}]",
            "probability=\"1.5\": expected a number from 0 to 1, for example 0.5",
        ),
        (
            "[{on: stream, probability: 2}]",
            "probability=\"2\": expected a number from 0 to 1, for example 0.5",
        ),
        (
            "[{on: stream, times: 0}]",
            "times=\"0\": expected a whole number, 1 or more, or unlimited",
        ),
        (
            "[{on: stream, after: x}]",
            "after=\"x\": expected a whole number, 0 or more",
        ),
        (
            "[{on: options, error: OK}]",
            "error=\"OK\": expected one of the gRPC status codes CANCELED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED",
        ),
        (
            "[{on: health, devices: gpu, up: 1s, down: 1s}]",
            "faults=\"health gpu --up 1s --down 1s\": expected a comma-separated list of device IDs, indexes (0) or ranges (0-3), or all; there is no device \"gpu\"",
        ),
    ] {
        let errors = errors_of(&format!("\n{}", ONE.replace("FAULTS", faults)));
        assert_eq!(errors, format!("c.yaml:2: {expected}"), "{faults}");
    }
    let many = ONE.replace("FAULTS", &format!("[{}]", "{on: stream}, ".repeat(65)));
    assert!(
        errors_of(&many).contains("at most 64 faults"),
        "{}",
        errors_of(&many)
    );
}

#[test]
fn errors_in_faults_name_the_line_of_the_value_or_of_the_fault() {
    let text = "
resources:
  - name: example.com/gpu
    faults:
      - on: stream
        times: 0
      - on: stream
        up: 1s
      - \"on\": stream
";
    assert_eq!(
        errors_of(text),
        "c.yaml:6: times=\"0\": expected a whole number, 1 or more, or unlimited\n\
         c.yaml:7: faults: expected no key \"up\" with on: stream"
    );
}

#[test]
fn faults_of_a_node_replace_those_of_the_resource() {
    let text = "
resources:
  - {name: example.com/gpu, devices: 4, faults: [{on: stream}, {on: health, devices: 0-3, up: 1s, down: 1s}]}
  - {name: example.com/nic, faults: [{on: stream}]}
nodes:
  - {match: n, resources: [{name: example.com/gpu, devices: 0}, {name: example.com/nic, faults: []}]}
";
    let faults = |node: &str| -> Vec<usize> {
        let plugins = read_on(node, text).unwrap_or_else(|errors| panic!("{errors}"));
        let resources = plugins.resources.iter();
        resources
            .map(|resource| plugins.faults.of(&resource.name).len())
            .collect()
    };
    // Indexes of devices that do not exist on this node are not an error.
    assert_eq!(faults("n"), [2, 0]);
    assert_eq!(faults("m"), [2, 1]);
    let many = ONE.replace(
        "FAULTS",
        &format!(
            "[{}]",
            "{on: health, devices: all, up: 1s, down: 1s}, ".repeat(9)
        ),
    );
    assert!(
        errors_of(&many).contains("at most 8 faults with on: health"),
        "{}",
        errors_of(&many)
    );
}

#[test]
fn warns_about_faults_that_are_never_injected() {
    let text = ONE.replace(
        "FAULTS",
        "[{on: pre-start, delay: 1s}, {on: preferred, delay: 1s}, {on: allocate, delay: 1s}]",
    );
    let warnings = crate::config::warnings::of(&plugins(&text), None);
    assert_eq!(
        warnings,
        [
            "example.com/gpu: the fault pre-start --delay 1s is never injected: preStart is false, so the kubelet does not call PreStartContainer",
            "example.com/gpu: the fault preferred --delay 1s is never injected: preferredAllocation is none, so the kubelet does not call GetPreferredAllocation",
        ]
    );
}

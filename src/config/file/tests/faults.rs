//! The faults of a resource.

use super::{errors_of, read_on, resources};

const ONE: &str = "resources: [{name: example.com/gpu, faults: FAULTS}]";

#[test]
fn faults_are_said_as_on_the_command_line() {
    let text = ONE.replace(
        "FAULTS",
        "[{rpc: allocate, delay: 10s, probability: 0.5, after: 3, times: 2, seed: 7},
          {rpc: pre-start, error: UNAVAILABLE, message: no luck, times: unlimited}, {rpc: stream},
          {rpc: registration, for: 90s}, {rpc: health, devices: 0-1, up: 10s, down: 5s, probability: 1}]",
    );
    let faults = &resources(&text)[0].faults;
    let words: Vec<String> = faults
        .iter()
        .map(|fault| fault.spec().to_string())
        .collect();
    assert_eq!(
        words,
        [
            "allocate --delay 10s --probability 0.5 --after 3 --times 2 --seed 7",
            "pre-start --error UNAVAILABLE --message 'no luck' --times unlimited",
            "stream",
            "registration --for 1m30s",
            "health 0-1 --up 10s --down 5s --probability 1",
        ]
    );
}

#[test]
fn wrong_faults_are_told_with_their_lines() {
    for (faults, expected) in [
        (
            "[{rpc: allocate, delay: 61s}]",
            "delay=\"61s\": expected a time from 10ms to 1m, as in 10s",
        ),
        (
            "[{rpc: allocate, delay: 10}]",
            "delay=\"10\": expected a time from 10ms to 1m, as in 10s",
        ),
        (
            "[{rpc: allocate}]",
            "faults=\"allocate\": expected either a delay or an error for allocate",
        ),
        (
            "[{rpc: alocate}]",
            "rpc=\"alocate\": expected allocate, preferred, pre-start, options, stream, registration or health",
        ),
        ("[{delay: 1s}]", "faults: expected the key rpc"),
        (
            "[{rpc: stream, when: now}]",
            "when: expected one of the keys rpc, devices, delay, error, message, for, up, down, probability, after, times, seed",
        ),
        (
            "[{rpc: stream, probability: 1.5}]",
            "probability=\"1.5\": expected a number from 0 to 1, as in 0.5",
        ),
        (
            "[{rpc: stream, probability: 2}]",
            "probability=\"2\": expected a number from 0 to 1, as in 0.5",
        ),
        (
            "[{rpc: stream, times: 0}]",
            "times=\"0\": expected a whole number from 1, or unlimited",
        ),
        (
            "[{rpc: stream, after: x}]",
            "after=\"x\": expected a whole number",
        ),
        (
            "[{rpc: options, error: OK}]",
            "error=\"OK\": expected a code of gRPC but OK, as in UNAVAILABLE",
        ),
        (
            "[{rpc: health, devices: gpu, up: 1s, down: 1s}]",
            "faults=\"health gpu --up 1s --down 1s\": expected devices that there are: no device \"gpu\": expected IDs, indexes as in 0, ranges as in 0-3, comma-separated, or all",
        ),
    ] {
        let errors = errors_of(&format!("\n{}", ONE.replace("FAULTS", faults)));
        let first = errors.lines().next().unwrap_or_default();
        assert_eq!(first, format!("c.yaml:2: {expected}"), "{faults}");
    }
    let many = ONE.replace("FAULTS", &format!("[{}]", "{rpc: stream}, ".repeat(65)));
    assert!(
        errors_of(&many).contains("at most 64 faults"),
        "{}",
        errors_of(&many)
    );
}

#[test]
fn faults_of_a_node_replace_those_of_all() {
    let text = "
resources:
  - {name: example.com/gpu, devices: 4, faults: [{rpc: stream}, {rpc: health, devices: 0-3, up: 1s, down: 1s}]}
  - {name: example.com/nic, faults: [{rpc: stream}]}
nodes:
  - {match: n, resources: [{name: example.com/gpu, devices: 0}, {name: example.com/nic, faults: []}]}
";
    let faults = |node: &str| -> Vec<usize> {
        let resources = read_on(node, text).unwrap_or_else(|errors| panic!("{errors}"));
        resources
            .iter()
            .map(|resource| resource.faults.len())
            .collect()
    };
    // Devices that another node lacks are no error there.
    assert_eq!(faults("n"), [2, 0]);
    assert_eq!(faults("m"), [2, 1]);
    let many = ONE.replace(
        "FAULTS",
        &format!(
            "[{}]",
            "{rpc: health, devices: all, up: 1s, down: 1s}, ".repeat(9)
        ),
    );
    assert!(
        errors_of(&many).contains("at most 8 faults of health"),
        "{}",
        errors_of(&many)
    );
}

#[test]
fn faults_that_never_strike_are_warned_of() {
    let text = ONE.replace(
        "FAULTS",
        "[{rpc: pre-start, delay: 1s}, {rpc: preferred, delay: 1s}, {rpc: allocate, delay: 1s}]",
    );
    let warnings = crate::config::warnings::of(&resources(&text), None);
    assert_eq!(
        warnings,
        [
            "example.com/gpu: the fault pre-start --delay 1s is never injected: preStart is false, so the kubelet does not call it",
            "example.com/gpu: the fault preferred --delay 1s is never injected: preferredAllocation is none, so the kubelet does not ask for it",
        ]
    );
}

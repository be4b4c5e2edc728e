//! Tests that each example script succeeds on the simulated kubelet and prints the expected text.

use std::path::Path;
use std::process::Command;

use crate::support::process::binary;

/// Runs the script, and checks that its output contains these texts in this order.
#[track_caller]
fn shows(example: &str, words: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(example)
        .join("run");
    let output = Command::new(script)
        .env("PROGRAM", binary("simple-device-plugin"))
        .env("KUBELET_SIM", binary("kubelet-sim"))
        .env("LATE", "5s")
        .output()
        .expect("a shell");
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{stdout}{stderr}");
    assert_eq!(stderr, "");
    let mut rest = &*stdout;
    for words in words {
        let at = rest
            .find(words)
            .unwrap_or_else(|| panic!("no {words:?} after the previous text:\n{stdout}"));
        rest = &rest[at + words.len()..];
    }
}

#[test]
fn unhealthy_device() {
    let words = [
        "pod train is admitted",
        "set gpu-node-0 to Unhealthy",
        "listed 4 devices, 3 healthy: gpu-node-0 Unhealthy",
        "gpu-node-0  Unhealthy, overridden  default/train/main",
        "pod next: UnexpectedAdmissionError: example.com/gpu: 3 devices are requested, 2 are available",
        "reset to the configuration",
        "gpu-node-0 Healthy",
    ];
    shows("006-unhealthy-device", &words);
}

#[test]
fn flapping_device() {
    let words = [
        "gpu-node-3 Unhealthy",
        "gpu-node-3 Healthy",
        "gpu-node-3 Unhealthy",
        "gpu-node-3 Healthy",
        "configuration  health 3 --up 3s --down 2s",
        "cleared 1 fault",
        "no faults",
    ];
    shows("007-flapping-device", &words);
}

#[test]
fn slow_allocate() {
    let words = [
        "pod train is admitted",
        "pod slow is admitted",
        // The number of seconds depends on the machine.
        "after ",
        "1 of 2, exhausted  configuration  allocate --delay 3s --after 1 --times 1",
        "pod unlucky: UnexpectedAdmissionError: example.com/gpu: Allocate failed: Unavailable: no luck",
        "pod next is admitted",
    ];
    shows("008-slow-allocate", &words);
}

#[test]
fn lost_stream() {
    let words = [
        "pod train is admitted",
        "example.com/gpu lost: its stream ended",
        "example.com/gpu  4         0",
        "listed 4 devices, all healthy",
        "restarts       1 fault",
        "train  main       example.com/gpu  gpu-node-",
    ];
    shows("009-lost-stream", &words);
}

#[test]
fn late_node() {
    let words = [
        "example.com/gpu  suspended",
        "no plugin has registered yet",
        "listed 4 devices, all healthy",
        "1 of 1 resources ready",
    ];
    shows("010-late-node", &words);
}

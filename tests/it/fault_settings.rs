//! How users set, list and clear faults, by command and in the config file.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::http::Http;
use crate::support::process::{output, program};
use crate::support::running_node::{FOUR, Node};
use crate::support::{GPU, Manager, plugin_dir, pod, resources, text, until, wait_for_node};
use serde_json::Value;
use simple_device_plugin::control::{ClearReply, FaultReply, Refusal};
use simple_device_plugin::fault::{TooManyFaults, UncalledRpc};
use simple_device_plugin::model::selection::SelectionError;

/// A resource with a registration fault and an Allocate fault.
const FAULTY: &str = "{resources: [{name: example.com/gpu, devices: 4, faults: [{on: registration, for: 1s}, {on: allocate, error: INTERNAL, times: 1}]}]}";

#[tokio::test]
async fn clears_the_faults_of_one_resource_only() {
    let two =
        "{resources: [{name: example.com/gpu, devices: 4}, {name: example.com/nic, devices: 4}]}";
    let node = Node::with(two);
    for name in [GPU, "example.com/nic"] {
        wait_for_node(&node.kubelet, name, 4, 4).await;
        node.run(&["fault", "allocate", name, "--delay", "1s"]);
    }
    let (_, status, _) = node.run(&["status"]);
    assert!(
        status.contains("example.com/gpu has 1 fault; see `fault list`\n"),
        "{status}"
    );
    let cleared: Vec<ClearReply> = node.run_json(&["fault", "clear", GPU]);
    assert_eq!((&*cleared[0].resource, cleared[0].faults), (GPU, 1));
    let list = node.run(&["fault", "list"]).1;
    assert!(
        list.contains("example.com/nic  0 of 0    command  allocate --delay 1s\n"),
        "{list}"
    );
    assert!(!list.contains(GPU), "{list}");
    let (_, status, _) = node.run(&["status", "example.com/nic"]);
    assert!(
        status.contains("  faults         allocate --delay 1s, injected 0 of 0\n"),
        "{status}"
    );
    let cleared: Vec<ClearReply> = node.run_json(&["fault", "clear"]);
    let faults: Vec<usize> = cleared.iter().map(|cleared| cleared.faults).collect();
    assert_eq!(faults, [0, 1]);
}

#[tokio::test]
async fn reset_restores_the_configured_faults() {
    let began = Instant::now();
    let node = Node::with(FAULTY);
    node.wait_for_node(4, 4).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    node.refused("p").await;
    node.admits("p").await.expect("the fault is exhausted");
    assert_eq!(node.status()["faults"][1]["setAtRunTime"], false);

    // A reload that does not change a fault keeps its counts.
    node.reloads(&FAULTY.replace("devices: 4", "devices: 5"));
    node.wait_for_node(5, 5).await;
    assert_eq!(node.status()["faults"][1]["injected"], 1);
    node.admits("q").await.expect("the fault is exhausted");

    node.clears_all_faults();
    node.run(&["fault", "allocate", GPU, "--error", "ABORTED"]);
    node.resets();
    let faults = node.status()["faults"].clone();
    assert_eq!(
        faults[0]["fault"],
        serde_json::json!({"on": "registration", "for": "1s"})
    );
    assert_eq!(
        faults[1]["fault"],
        serde_json::json!({"on": "allocate", "error": "INTERNAL", "times": 1})
    );
    node.wait_for_node(5, 0).await;
    node.wait_for_node(5, 5).await;

    // A reload that changes one fault keeps the counts of the other.
    node.reloads(&FAULTY.replace("INTERNAL", "ABORTED"));
    let warned = node.manager.wait_for_log("a fault is configured");
    assert!(warned.contains("allocate --error ABORTED"), "{warned}");
    let error = node.refused("aborted").await;
    assert!(error.contains("Aborted"), "{error}");
    assert_eq!(node.status()["faults"][0]["injected"], 1);
    // A cleared fault stays cleared when a reload adds another fault.
    node.clears_all_faults();
    let more = FAULTY.replace("faults: [", "faults: [{on: preferred, delay: 1s}, ");
    node.reloads(
        &more
            .replace("INTERNAL", "ABORTED")
            .replace("devices: 4", "devices: 5"),
    );
    until("the new fault", || {
        let faults = node.status()["faults"].clone();
        faults.as_array().is_some_and(|faults| faults.len() == 1)
    })
    .await;
    node.reloads("{resources: [{name: example.com/gpu, devices: 5}]}");
    node.wait_for_node(5, 5).await;
    until("no faults", || {
        node.run(&["fault", "list"]).1 == "no faults\n"
    })
    .await;
    node.admits("r").await.expect("admitted");
}

#[tokio::test]
async fn an_invalid_fault_is_refused_and_changes_nothing() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    let missing = node.refusal(&["fault", "health", GPU, "4", "--up", "1s", "--down", "1s"]);
    let reason = SelectionError::NoIndex { index: 4, count: 4 };
    assert!(matches!(missing, Refusal::Devices { reason: found, .. } if found == reason));
    for action in ["stream", "list", "clear"] {
        let unknown = node.refusal(&["fault", action, "example.com/fpga"]);
        assert!(
            matches!(unknown, Refusal::NoSuchResource { .. }),
            "{unknown}"
        );
    }
    for invalid in [
        &["allocate", GPU, "--delay", "61s"][..],
        &["stream", GPU, "--for", "1s"],
        &["health", GPU, "0", "--up", "1ms", "--down", "1s"],
        &["list", GPU, "stream"],
        &[GPU, "stream"],
        &[],
    ] {
        let (code, _, _) = node.run(&[&["fault"], invalid].concat());
        assert_eq!(code, Some(2), "{invalid:?}");
    }
    assert_eq!(node.run(&["fault", "list"]).1, "no faults\n");
    let set: FaultReply = node.run_json(&["fault", "pre-start", GPU, "--delay", "1s"]);
    assert_eq!(set.never_injected, Some(UncalledRpc::PreStart));
    let listed: Value = node.run_json(&["fault", "list", GPU]);
    assert_eq!(listed[0]["resource"], GPU);
    for _ in 0..63 {
        assert_eq!(
            node.run(&["fault", "stream", GPU, "--probability", "0"]).0,
            Some(0)
        );
    }
    assert_eq!(
        node.refusal(&["fault", "stream", GPU]),
        Refusal::TooManyFaults {
            resource: GPU.to_owned(),
            reason: TooManyFaults::Faults
        }
    );
}

#[tokio::test]
async fn metrics_count_injected_and_active_faults() {
    let dir = plugin_dir();
    let kubelet = crate::support::kubelet(dir.path());
    let manager = Manager::of(dir.path(), resources(&[("RESOURCE_NAME", GPU)]));
    wait_for_node(&kubelet, GPU, 2, 2).await;
    let http = Http::of(&manager).await;
    let (_, text) = http.get("/metrics").await;
    assert!(!text.contains("faults_injected_total{"), "{text}");
    let fault = r#"{"on": "allocate", "error": "ABORTED", "times": 2}"#;
    let fault = serde_json::from_str(fault).expect("a fault");
    manager.plugin(GPU).set_fault(fault).expect("a free slot");
    let sample = |name, count| {
        format!("\nsimple_device_plugin_{name}{{resource=\"{GPU}\",fault=\"allocate\"}} {count}\n")
    };
    for (injected, active) in [(0, 1), (1, 1), (2, 0)] {
        let (_, text) = http.get("/metrics").await;
        let injected = sample("faults_injected_total", injected);
        let active = sample("faults_active", active);
        assert!(text.contains(&injected) && text.contains(&active), "{text}");
        let _ = kubelet.admit(&pod("p", &[(GPU, 1)])).await;
    }
    let (_, text) = http.get("/metrics").await;
    assert!(text.contains("code=\"Aborted\"} 2\n"), "{text}");
    manager.stop().await;
}

#[test]
fn check_shows_the_configured_faults() {
    let dir = plugin_dir();
    let file = dir.path().join("config.yaml");
    fs::write(&file, FAULTY).expect("a file");
    let check = |arguments: &[&str]| {
        let mut command = program(&[("CONFIG_FILE", text(&file))]);
        output(command.arg("check").args(arguments)).1
    };
    let shown = check(&[]);
    assert!(shown.contains("  faults            registration --for 1s\n                    allocate --error INTERNAL --times 1\n"), "{shown}");
    let json: Value = serde_json::from_str(&check(&["--json"])).expect("JSON");
    assert_eq!(json["resources"][0]["faults"][0]["for"], "1s");
}

//! How users set, list and clear faults, by command and in the config file.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::http::Http;
use crate::support::process::{output, program};
use crate::support::steered::{FOUR, Node};
use crate::support::{GPU, Manager, plugin_dir, pod, resources, shows, text, until};
use serde_json::Value;

const LATE: &str = "{resources: [{name: example.com/gpu, devices: 4, faults: [{rpc: registration, for: 1s}, {rpc: allocate, error: INTERNAL, times: 1}]}]}";

#[tokio::test]
async fn one_resource_is_cleared_alone() {
    let two =
        "{resources: [{name: example.com/gpu, devices: 4}, {name: example.com/nic, devices: 4}]}";
    let node = Node::with(two);
    for name in [GPU, "example.com/nic"] {
        shows(&node.kubelet, name, 4, 4).await;
        node.does(&["fault", name, "allocate", "--delay", "1s"]);
    }
    let (_, status, _) = node.does(&["status"]);
    assert!(
        status.contains("example.com/gpu has a fault; fault list shows it\n"),
        "{status}"
    );
    node.sets(
        &["fault", "clear", GPU],
        "example.com/gpu: 1 fault is cleared\n",
    );
    let list = node.does(&["fault", "list"]).1;
    assert!(
        list.contains("example.com/nic  0 of 0    command  allocate --delay 1s\n"),
        "{list}"
    );
    assert!(!list.contains(GPU), "{list}");
    let (_, status, _) = node.does(&["status", "example.com/nic"]);
    assert!(
        status.contains("  faults         allocate --delay 1s, injected 0 of 0\n"),
        "{status}"
    );
    let cleared = "example.com/gpu: no faults\nexample.com/nic: 1 fault is cleared\n";
    node.sets(&["fault", "clear"], cleared);
}

#[tokio::test]
async fn the_configuration_has_faults_and_config_brings_them_back() {
    let began = Instant::now();
    let node = Node::with(LATE);
    node.shows(4, 4).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    node.refused("p").await;
    node.admits("p").await.expect("once is enough");
    assert_eq!(node.status()["faults"][1]["setAtRunTime"], false);

    // A reload that changes something else keeps the counts of a fault.
    node.reloads(&LATE.replace("devices: 4", "devices: 5"));
    node.shows(5, 5).await;
    assert_eq!(node.status()["faults"][1]["injected"], 1);
    node.admits("q").await.expect("once is enough");

    node.clears_all_faults();
    node.does(&["fault", GPU, "allocate", "--error", "ABORTED"]);
    node.sets(&["reset", GPU], "example.com/gpu: as configured\n");
    let faults = node.status()["faults"].clone();
    assert_eq!(
        faults[0]["fault"],
        serde_json::json!({"rpc": "registration", "for": "1s"})
    );
    assert_eq!(
        faults[1]["fault"],
        serde_json::json!({"rpc": "allocate", "error": "INTERNAL", "times": 1})
    );
    node.shows(5, 0).await;
    node.shows(5, 5).await;

    // A reload that changes one fault keeps the count of the other.
    node.reloads(&LATE.replace("INTERNAL", "ABORTED"));
    let warned = node.manager.says("a fault is configured");
    assert!(warned.contains("allocate --error ABORTED"), "{warned}");
    let told = node.refused("aborted").await;
    assert!(told.contains("Aborted"), "{told}");
    assert_eq!(node.status()["faults"][0]["injected"], 1);
    // A cleared fault stays cleared when a reload adds another one.
    node.clears_all_faults();
    let more = LATE.replace("faults: [", "faults: [{rpc: preferred, delay: 1s}, ");
    node.reloads(
        &more
            .replace("INTERNAL", "ABORTED")
            .replace("devices: 4", "devices: 5"),
    );
    until("the new one", || {
        let faults = node.status()["faults"].clone();
        faults.as_array().is_some_and(|faults| faults.len() == 1)
    })
    .await;
    node.reloads("{resources: [{name: example.com/gpu, devices: 5}]}");
    node.shows(5, 5).await;
    until("no faults", || {
        node.does(&["fault", "list"]).1 == "no faults\n"
    })
    .await;
    node.admits("r").await.expect("admitted");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.refuses(
        &["fault", GPU, "stream", "--for", "1s"],
        "error: example.com/gpu: expected no for for stream\n",
    );
    node.refuses(
        &["fault", GPU, "health", "4", "--up", "1s", "--down", "1s"],
        "error: example.com/gpu: expected devices that there are: no device with the index 4: there are 4, counted from 0\n",
    );
    node.refuses(
        &["fault", "example.com/fpga", "stream"],
        "error: no resource example.com/fpga; there are: example.com/gpu\n",
    );
    node.refuses(
        &["fault", "clear", "example.com/fpga"],
        "error: no resource example.com/fpga; there are: example.com/gpu\n",
    );
    for wrong in [
        &["allocate", "--delay", "61s"][..],
        &["allocate", "--error", "OK"],
        &["allocate", "--delay", "1s", "--times", "0"],
        &["allocate", "--delay", "1s", "--probability", "2"],
        &["health", "0", "--up", "1ms", "--down", "1s"],
        &["list"],
    ] {
        assert_eq!(
            node.does(&[&["fault", GPU], wrong].concat()).0,
            Some(2),
            "{wrong:?}"
        );
    }
    assert_eq!(node.does(&["fault", "list"]).1, "no faults\n");
    let never = "example.com/gpu: pre-start --delay 1s\nit is never injected: preStart is false, so the kubelet does not call it\n";
    let (_, told, _) = node.does(&["fault", GPU, "pre-start", "--delay", "1s"]);
    assert!(told.starts_with(never), "{told}");
    for _ in 0..63 {
        assert_eq!(
            node.does(&["fault", GPU, "stream", "--probability", "0"]).0,
            Some(0)
        );
    }
    node.refuses(
        &["fault", GPU, "stream"],
        "error: example.com/gpu: 64 faults were already set at run time; `fault clear` removes them\n",
    );
}

#[tokio::test]
async fn what_struck_is_counted_for_prometheus() {
    let dir = plugin_dir();
    let kubelet = crate::support::kubelet(dir.path());
    let manager = Manager::of(dir.path(), resources(&[("RESOURCE_NAME", GPU)]));
    shows(&kubelet, GPU, 2, 2).await;
    let http = Http::of(&manager).await;
    let (_, text) = http.get("/metrics").await;
    assert!(!text.contains("faults_injected_total{"), "{text}");
    let spec: simple_device_plugin::fault::FaultSpec =
        serde_json::from_str(r#"{"rpc": "allocate", "error": "ABORTED", "times": 2}"#)
            .expect("a spec");
    manager
        .plugin(GPU)
        .set_fault(spec.fault(None).expect("a fault"))
        .expect("room");
    let label = |count| {
        format!(
            "simple_device_plugin_faults_injected_total{{resource=\"{GPU}\",fault=\"allocate\"}} {count}\n"
        )
    };
    for injected in 0..3 {
        let (_, text) = http.get("/metrics").await;
        assert!(text.contains(&label(injected)), "{text}");
        let _ = kubelet.admit(&pod("p", &[(GPU, 1)])).await;
    }
    let (_, text) = http.get("/metrics").await;
    assert!(text.contains("code=\"Aborted\"} 2\n"), "{text}");
    manager.stop().await;
}

#[test]
fn a_check_shows_faults() {
    let dir = plugin_dir();
    let file = dir.path().join("config.yaml");
    fs::write(&file, LATE).expect("a file");
    let check = |arguments: &[&str]| {
        let mut command = program(&[("CONFIG_FILE", text(&file))]);
        output(command.arg("check").args(arguments)).1
    };
    let shown = check(&[]);
    assert!(shown.contains("  faults            registration --for 1s\n                    allocate --error INTERNAL --times 1\n"), "{shown}");
    let json: Value = serde_json::from_str(&check(&["--json"])).expect("JSON");
    assert_eq!(json["resources"][0]["faults"][0]["for"], "1s");
}

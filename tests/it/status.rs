//! The command `status` shows resources, devices, the pods that hold them, and errors in the config file.

use std::fs;
use std::os::unix::net::UnixListener;

use crate::support::control::ControlledNode;
use crate::support::process::{Running, output, program};
use crate::support::{GPU, kubelet, replace_checkpoint, text, until, wait_for_node};
use rustix::process::Signal;
use serde_json::{Value, json};
use simple_device_plugin::node::checkpoint_file;

/// Replaces every age by `Ns`, since ages differ between runs.
fn without_ages(text: &str) -> String {
    let words = text.split_inclusive([' ', '\n']);
    let aged = words.map(|word| {
        let bare = word.trim_end();
        let digits = bare.trim_end_matches('s');
        let is_age = digits.len() + 1 == bare.len() && digits.bytes().all(|c| c.is_ascii_digit());
        if is_age && !digits.is_empty() {
            word.replace(bare, "Ns")
        } else {
            word.to_owned()
        }
    });
    aged.collect()
}

#[tokio::test]
async fn shows_all_resources_or_one_resource_with_its_devices() {
    let node = ControlledNode::new();
    let (manager, kubelet) = node.running().await;
    let (code, all, stderr) = node.status(&[]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        without_ages(&all),
        format!(
            "simple-device-plugin {version} on node n: 2 of 2 resources ready, up Ns\n\n\
             RESOURCE         STATE       FOR  HEALTHY  HELD\n\
             example.com/gpu  registered  Ns   4 of 4   1\n\
             example.com/nic  registered  Ns   2 of 2   0\n\n\
             held: live, from the kubelet's pod-resources API\n"
        )
    );
    let (_, gpu, _) = node.status(&[GPU]);
    assert_eq!(
        without_ages(&gpu),
        "example.com/gpu registered for Ns\n  \
           endpoint       simple-device-plugin-example.com_gpu.sock\n  \
           registrations  1 registered\n  \
           restarts       none\n  \
           devices        4, 4 healthy, 1 held\n\n\
         NUMA  DEVICE   HEALTH   HELD BY\n\
         0     gpu-n-0  Healthy  default/p/main\n\
         0     gpu-n-2  Healthy\n\
         1     gpu-n-1  Healthy\n\
         1     gpu-n-3  Healthy\n\n\
         held: live, from the kubelet's pod-resources API\n"
    );
    let status = json_status(&node);
    assert_eq!(status["heldFrom"], "podResources");
    let resources = &status["resources"];
    assert_eq!(resources[1]["devices"][1]["id"], "nic-n-1");
    let holder = json!({"namespace": "default", "pod": "p", "container": "main"});
    assert_eq!(resources[0]["devices"][0]["heldBy"], json!([holder]));
    kubelet.stop().await;
    until("the reason why it is not ready", || {
        let (_, all, _) = node.status(&[]);
        all.contains("0 of 2 resources ready")
            && all
                .contains("\nexample.com/gpu waits for the kubelet: cannot connect to kubelet.sock")
    })
    .await;
    drop(manager);
}

fn json_status(node: &ControlledNode) -> Value {
    let (_, json, _) = node.status(&["--json"]);
    serde_json::from_str(&json).expect("JSON")
}

/// A deleted pod is no longer a holder at once, although the kubelet does not write its checkpoint then.
#[tokio::test]
async fn does_not_show_deleted_pods_as_holders() {
    let node = ControlledNode::new();
    let (_manager, kubelet) = node.running().await;
    until("one holder", || {
        json_status(&node)["resources"][0]["held"] == 1
    })
    .await;
    kubelet.delete("p");
    until("no holder", || {
        json_status(&node)["resources"][0]["held"] == 0
    })
    .await;
}

#[tokio::test]
async fn without_the_pod_resources_api_the_holders_come_from_the_checkpoint() {
    let node = ControlledNode::new();
    let missing = node.path().join("no-such.sock");
    let missing = ("POD_RESOURCES_SOCKET", text(&missing));
    let (_manager, _kubelet) = node.running_with(&[missing]).await;
    let note = "held: from the kubelet's checkpoint, written Ns ago; may include deleted pods\n";
    until("the pod", || {
        node.status(&[GPU]).1.contains("Healthy  p/main\n")
    })
    .await;
    for arguments in [&[][..], &[GPU]] {
        let (_, shown, _) = node.status(arguments);
        assert!(without_ages(&shown).ends_with(note), "{shown}");
    }
    let status = json_status(&node);
    assert_eq!(status["heldFrom"], "checkpoint");
    let holder = json!({"podUid": "p", "container": "main"});
    let device = &status["resources"][0]["devices"][0];
    assert_eq!(device["heldBy"], json!([holder]));
}

/// This API accepts connections and never answers.
#[tokio::test]
async fn an_api_that_does_not_answer_leaves_the_checkpoint() {
    let node = ControlledNode::new();
    let socket = node.path().join("hanging.sock");
    let _hanging = UnixListener::bind(&socket).expect("a socket");
    let hanging = ("POD_RESOURCES_SOCKET", text(&socket));
    let (_manager, _kubelet) = node.running_with(&[hanging]).await;
    until("the pod", || {
        node.status(&[GPU]).1.contains("Healthy  p/main\n")
    })
    .await;
    assert_eq!(json_status(&node)["heldFrom"], "checkpoint");
}

/// The kubelet already uses this format for other checkpoints. A checkpoint that cannot be parsed does not count as
/// empty.
#[tokio::test]
async fn a_checkpoint_in_an_unknown_format_is_logged_once_and_holders_are_unknown() {
    let node = ControlledNode::new();
    let (manager, _kubelet) = node.running_with(&[("POD_RESOURCES_SOCKET", "")]).await;
    let unknown =
        "held: unknown (the kubelet's checkpoint has an unknown format: missing field `Data`";
    until("an unknown format", || {
        // The kubelet may write its own checkpoint once more, so replace it again.
        replace_checkpoint(node.path(), r#"{"data": "{}", "dataChecksum": 1}"#);
        node.status(&[]).1.contains(unknown)
    })
    .await;
    let (_, all, _) = node.status(&[]);
    assert!(all.contains("4 of 4   ?"), "{all}");
    let status = json_status(&node);
    assert!(status["resources"][0]["held"].is_null(), "{status}");
    assert!(status["heldFrom"].is_null(), "{status}");
    manager.wait_for_log("has an unknown format");
    // An unknown format is logged once, even if the content changes.
    for unknown in ["{}", r#"{"data": "longer", "dataChecksum": 1}"#, "{"] {
        fs::write(node.path().join(checkpoint_file::FILE), unknown).expect("a checkpoint");
        let (_, all, _) = node.status(&[]);
        assert!(all.contains("has an unknown format"), "{all}");
    }
    let lines = manager.stderr.try_iter();
    assert_eq!(
        lines.filter(|line| line.contains("unknown format")).count(),
        0
    );
}

#[tokio::test]
async fn fails_without_a_daemon_without_a_socket_and_for_an_unknown_resource() {
    let node = ControlledNode::new();
    let (code, stdout, stderr) = node.status(&[]);
    assert_eq!((code, &*stdout), (Some(1), ""));
    assert!(
        stderr.starts_with("error: cannot reach the daemon at "),
        "{stderr}"
    );
    assert!(stderr.contains("CONTROL_SOCKET"), "{stderr}");
    let (code, _, stderr) = output(program(&[]).arg("status"));
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("CONTROL_SOCKET=\"\": expected the path"),
        "{stderr}"
    );
    let (_manager, _kubelet) = node.running().await;
    let (code, _, stderr) = node.status(&["example.com/fpga"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        stderr,
        "error: resource example.com/fpga not found; configured: example.com/gpu, example.com/nic\n"
    );
}

#[tokio::test]
async fn warns_of_a_config_file_with_errors() {
    let node = ControlledNode::new();
    let kubelet = kubelet(node.path());
    let file = node.path().join("config.yaml");
    fs::write(&file, "resources: [{name: example.com/gpu, devices: 2}]").expect("a file");
    let manager = Running::manager(
        node.path(),
        &[
            ("CONTROL_SOCKET", node.control()),
            ("CONFIG_FILE", text(&file)),
        ],
    );
    manager.wait_for_log("listening for commands");
    wait_for_node(&kubelet, GPU, 2, 2).await;
    let status = || node.status(&["--json"]).1;
    fs::write(&file, "resources: [{name: example.com/gpu, devices: 1}]").expect("a file");
    until("a reload", || status().contains("\"changed\": 1")).await;
    until("a device pending removal", || {
        status().contains("\"removing\": true")
    })
    .await;
    assert!(
        node.status(&[GPU])
            .1
            .contains("gpu-n-1  Unhealthy, pending removal")
    );
    fs::write(&file, "resources: [{name: gpu, devices: many}]").expect("a file");
    until("errors", || status().contains("\"refused\": 1")).await;
    let (_, all, _) = node.status(&[]);
    let warning = "warning: the config file has had errors for ";
    assert!(
        all.contains(warning) && all.contains("(and 1 more)"),
        "{all}"
    );
    manager.signal(Signal::HUP);
    until("a second refusal", || status().contains("\"refused\": 2")).await;
    fs::write(&file, "resources: [{name: example.com/gpu, devices: 1}]").expect("a file");
    until("no errors", || !status().contains("\"errors\"")).await;
    assert!(status().contains("\"unchanged\": 1"), "{}", status());
    assert!(!node.status(&[]).1.contains("warning"));
}

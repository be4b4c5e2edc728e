//! Faults of the ListAndWatch stream, of the registration, and of device health.

use crate::support::running_node::{FOUR, FOUR_PRE_START, Node};
use crate::support::{GPU, held, registrations, until, within};
use simple_device_plugin::control::{FaultReply, HealthReply};

#[tokio::test]
async fn the_plugin_registers_again_after_a_dropped_stream() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    node.admits("p").await.expect("admitted");
    let mut shown = node.kubelet.node();
    let set: FaultReply = node.run_json(&["fault", "stream", GPU]);
    assert_eq!((&*set.resource, &*set.fault.to_string()), (GPU, "stream"));
    let lost = shown.wait_for(|node| node[GPU].allocatable == 0);
    within("the loss", lost).await.expect("a kubelet");
    node.wait_for_node(4, 4).await;
    assert_eq!(registrations(&node.kubelet, GPU), 2);
    assert_eq!(held(&node.kubelet, "p"), ["gpu-n-0"]);
    let status = node.status();
    assert_eq!(status["restarts"], serde_json::json!({"fault": 1}));
    assert_eq!(
        status["lastError"]["what"],
        "a stream fault closed ListAndWatch"
    );
    assert_eq!(status["faults"][0]["injected"], 1);
    // With several stream faults, each is injected as often as its `--times` says.
    node.run(&["fault", "stream", GPU, "--times", "2", "--after", "1"]);
    node.run(&["fault", "stream", GPU]);
    until("all three", || {
        node.status()["faultsInjected"]["stream"] == 4
    })
    .await;
    node.wait_for_node(4, 4).await;
}

#[tokio::test]
async fn a_registration_is_suspended_until_the_fault_is_cleared() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    node.run_json::<FaultReply>(&["fault", "registration", GPU]);
    node.wait_for_node(4, 0).await;
    until("its state", || node.status()["state"] == "suspended").await;
    assert_eq!(
        node.status()["waitsFor"],
        "waits until its registration fault ends or is cleared"
    );
    // Neither a kubelet restart nor a configuration change ends the suspension.
    let node = node.with_another_kubelet().await;
    node.reloads(&FOUR_PRE_START.replace("devices: 4", "devices: 3"));
    node.manager
        .wait_for_log("the registration options or the socket changed; registering again");
    assert_eq!(registrations(&node.kubelet, GPU), 0);
    assert_eq!(node.status()["state"], "suspended");
    node.clears_all_faults();
    node.wait_for_node(3, 3).await;
    assert_eq!(node.status()["faultsInjected"]["registration"], 1);
}

/// A fault counts each registration once. A suspended registration and its later attempt are the same registration.
#[tokio::test]
async fn a_registration_fault_counts_each_registration_once() {
    let config = "{resources: [{name: example.com/gpu, devices: 4, faults: [{on: registration, after: 1, times: 9}]}]}";
    let node = Node::with(config);
    node.wait_for_node(4, 4).await;
    let seen = |node: &Node| node.status()["faults"][0]["seen"].clone();
    assert_eq!(seen(&node), 1);
    let node = node.with_another_kubelet().await;
    until("its state", || node.status()["state"] == "suspended").await;
    assert_eq!(seen(&node), 2);
    node.clears_all_faults();
    node.wait_for_node(4, 4).await;
    node.run(&[
        "fault",
        "registration",
        GPU,
        "--for",
        "100ms",
        "--times",
        "9",
    ]);
    node.wait_for_node(4, 0).await;
    node.wait_for_node(4, 4).await;
    assert_eq!(seen(&node), 1);
    let status = node.status();
    assert_eq!(status["faultsInjected"]["registration"], 2);
    assert_eq!(
        status["lastError"]["what"],
        "a registration fault closed ListAndWatch"
    );
    assert_eq!(status["restarts"]["fault"], 1);
    // Clearing a fault ends a suspension before its `--for` has passed.
    node.run(&["fault", "registration", GPU, "--for", "24h"]);
    node.wait_for_node(4, 0).await;
    node.clears_all_faults();
    node.wait_for_node(4, 4).await;
}

#[tokio::test]
async fn health_faults_make_devices_flap() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    node.run(&["health", GPU, "0", "unhealthy"]);
    node.run(&[
        "fault", "health", GPU, "1-2", "--up", "1s", "--down", "1s", "--times", "2",
    ]);
    let mut shown = node.kubelet.node();
    for allocatable in [1, 3, 1, 3] {
        let flapped = shown.wait_for(|node| node[GPU].allocatable == allocatable);
        within("another health", flapped).await.expect("a kubelet");
    }
    assert_eq!(node.status()["faultsInjected"]["health"], 2);
    node.run(&[
        "fault", "health", GPU, "gpu-n-3", "--up", "1s", "--down", "1h",
    ]);
    node.wait_for_node(4, 2).await;
    let (_, status, _) = node.run(&["status", GPU]);
    assert!(
        status.contains("gpu-n-3  Unhealthy, by a fault\n"),
        "{status}"
    );
    assert!(
        status.contains("gpu-n-0  Unhealthy, overridden\n"),
        "{status}"
    );
    let kept: HealthReply = node.run_json(&["health", GPU, "3", "healthy"]);
    assert_eq!(kept.fault_unhealthy, 1);
    // After the device count is reduced, the remaining devices still flap.
    node.run(&["reset", GPU]);
    node.run(&["fault", "health", GPU, "1-3", "--up", "1s", "--down", "1h"]);
    node.run(&["scale", GPU, "3"]);
    node.wait_for_node(3, 1).await;
    node.clears_all_faults();
    node.wait_for_node(3, 3).await;
    assert_eq!(registrations(&node.kubelet, GPU), 1);
}

//! Faults of the kubelet's calls: delays and errors, and how often they are injected.

use std::time::{Duration, Instant};

use crate::support::client::plugin_client;
use crate::support::running_node::{FOUR, FOUR_PRE_START, Node};
use crate::support::{GPU, assert_alive, held, kubelet, until, wait_for_node, within};
use rustix::process::Signal;
use simple_device_plugin::api;
use simple_device_plugin::control::FaultReply;

#[tokio::test]
async fn a_delayed_allocate_delays_only_its_pod() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    let set = node.run(&["fault", "allocate", GPU, "--delay", "60s", "--after", "1"]);
    assert!(
        set.1
            .contains("all calls of the daemon together by at most 120s in any 5 minutes"),
        "{}",
        set.1
    );
    // This fault would refuse the call that the first fault delays, but the test clears both before the delay ends.
    node.run(&[
        "fault", "allocate", GPU, "--error", "ABORTED", "--after", "1",
    ]);
    node.admits("before").await.expect("admitted");
    let began = Instant::now();
    let delayed_pod = async {
        node.admits("slow").await.expect("admitted");
        began.elapsed()
    };
    let during_delay = async {
        until("the injection", || {
            node.run(&["fault", "list"]).1.contains("1 of 2")
        })
        .await;
        // During the delay, the plugin sends lists and the daemon answers commands.
        node.run(&["health", GPU, "3", "unhealthy"]);
        node.wait_for_node(4, 3).await;
        assert!(held(&node.kubelet, "slow").is_empty());
        node.clears_all_faults();
    };
    let (took, ()) = tokio::join!(delayed_pod, during_delay);
    // Clearing the faults ended the delay.
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(held(&node.kubelet, "slow"), ["gpu-n-1"]);
    assert_eq!(node.status()["faultsInjected"]["allocate"], 1);
    node.manager
        .wait_for_log("fault injected: call delayed by 60s in total");
}

#[tokio::test]
async fn a_stopping_plugin_answers_a_delayed_call_at_once() {
    // The stream ends together with the delay. A kubelet on another thread may close the connection before it reads the
    // answer.
    let node = Node::with_kubelet(FOUR, kubelet);
    node.wait_for_node(4, 4).await;
    node.run(&["fault", "allocate", GPU, "--delay", "60s"]);
    let delayed = async {
        let began = Instant::now();
        node.admits("p").await.expect("admitted");
        began.elapsed()
    };
    let stopping = async {
        until("the injection", || {
            node.status()["faultsInjected"]["allocate"] == 1
        })
        .await;
        node.manager.signal(Signal::TERM);
    };
    let (took, ()) = tokio::join!(delayed, stopping);
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_eq!(held(&node.kubelet, "p"), ["gpu-n-0"]);
    assert!(node.manager.wait().success());
}

#[tokio::test]
async fn a_delayed_allocate_is_answered_from_the_devices_after_the_delay() {
    let node = Node::with(&FOUR.replace("devices: 4", "devices: 1"));
    node.wait_for_node(1, 1).await;
    node.run(&["fault", "allocate", GPU, "--delay", "60s"]);
    let delayed = node.refused("p");
    let during_delay = async {
        until("the injection", || {
            node.status()["faultsInjected"]["allocate"] == 1
        })
        .await;
        node.run(&["scale", GPU, "0"]);
        // The device stays in the list as Unhealthy while the call is in flight.
        node.wait_for_node(1, 0).await;
        node.clears_all_faults();
    };
    let (error, ()) = tokio::join!(delayed, during_delay);
    assert!(
        error.contains("device gpu-n-0 is pending removal"),
        "{error}"
    );
    node.wait_for_node(0, 0).await;
    assert_alive(&node.kubelet);
}

/// Calls Allocate of a resource without the kubelet.
async fn call_allocate(node: &Node, name: &str) {
    let socket = format!("simple-device-plugin-example.com_{name}.sock");
    let mut plugin = plugin_client(&node.dir.path().join(socket)).await;
    let request = api::allocate_request(vec![format!("{name}-n-0")]);
    let answer = plugin.allocate(request).await;
    answer.expect("an answer");
}

#[tokio::test]
async fn the_sum_of_all_delays_is_limited() {
    const NAMES: [&str; 3] = [GPU, "example.com/nic", "example.com/fpga"];
    let each = NAMES.map(|name| format!("{{name: {name}, devices: 4}}"));
    let node = Node::with(&format!("{{resources: [{}]}}", each.join(", ")));
    for name in NAMES {
        wait_for_node(&node.kubelet, name, 4, 4).await;
        node.run(&["fault", "allocate", name, "--delay", "60s"]);
    }
    // A call with two delays of 60 s is delayed by the maximum of 60 s.
    node.run(&["fault", "allocate", GPU, "--delay", "60s"]);
    // The calls go directly to the plugins, because the kubelet would make one after the other.
    let delayed = async { tokio::join!(call_allocate(&node, "gpu"), call_allocate(&node, "nic")) };
    let third = async {
        until("both injections", || {
            let list = node.run(&["fault", "list"]).1;
            list.matches("1 of 1").count() == 3
        })
        .await;
        assert!(
            node.manager
                .wait_for_log("the injected delay is shortened")
                .contains("granted=60s")
        );
        let admitted = call_allocate(&node, "fpga");
        within("an answer at once", admitted).await;
        assert!(
            node.manager
                .wait_for_log("the injected delay is shortened")
                .contains("granted=0ns")
        );
        // A delay that was shortened to zero is not counted.
        let list = node.run(&["fault", "list"]).1;
        assert!(list.contains("example.com/fpga  0 of 1"), "{list}");
        node.clears_all_faults();
    };
    tokio::join!(delayed, third);
    // Clearing the faults returned the unused delay to the budget.
    node.run(&["fault", "allocate", GPU, "--delay", "50ms", "--times", "1"]);
    node.admits("later").await.expect("admitted");
    assert_eq!(node.status()["faults"][0]["injected"], 1);
}

#[tokio::test]
async fn a_refused_call_returns_the_code_and_message_of_the_fault() {
    let node = Node::with(FOUR_PRE_START);
    node.wait_for_node(4, 4).await;
    let refusals = [
        ("allocate", "Allocate failed: Unavailable: no luck"),
        (
            "preferred",
            "GetPreferredAllocation failed: Unavailable: no luck",
        ),
    ];
    for (what, expected) in refusals {
        let refusal = ["--error", "UNAVAILABLE", "--message", "no luck"];
        let set: FaultReply = node.run_json(&[&["fault", what, GPU], &refusal[..]].concat());
        let arguments = format!("{what} --error UNAVAILABLE --message 'no luck'");
        assert_eq!(set.fault.to_string(), arguments);
        let error = node.refused("p").await;
        assert!(error.contains(expected), "{error}");
        node.admits(what).await.expect("the fault is exhausted");
    }
    node.run(&[
        "fault",
        "pre-start",
        GPU,
        "--error",
        "internal",
        "--times",
        "1",
    ]);
    let error = node.kubelet.start_containers("allocate").await;
    let error = error.expect_err("a refusal");
    assert_eq!(error.code(), tonic::Code::Internal);
    assert_eq!(error.message(), "injected fault");
    node.kubelet
        .start_containers("allocate")
        .await
        .expect("the fault is exhausted");
    assert_eq!(
        node.status()["faultsInjected"],
        serde_json::json!({"allocate": 1, "preferred": 1, "pre-start": 1})
    );
    let list = node.run(&["fault", "list"]).1;
    let row = "example.com/gpu  1 of 2, exhausted  command  pre-start --error INTERNAL --times 1\n";
    assert!(list.contains(row), "{list}");
}

#[tokio::test]
async fn the_plugin_registers_again_after_refused_options() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    node.run(&[
        "fault", "options", GPU, "--error", "INTERNAL", "--times", "2",
    ]);
    let node = node.with_another_kubelet().await;
    node.wait_for_node(4, 4).await;
    let status = node.status();
    assert_eq!(status["faultsInjected"]["options"], 2);
    assert_eq!(status["registrations"]["registered"], 2);
}

/// Returns which of 20 pods, counted from 0, a random fault with this seed refuses.
async fn refused_pods(node: &Node, seed: &str) -> Vec<usize> {
    node.run(&[
        "fault",
        "allocate",
        GPU,
        "--error",
        "ABORTED",
        "--probability",
        "0.5",
        "--times",
        "unlimited",
        "--seed",
        seed,
    ]);
    let mut refused = Vec::new();
    for count in 0..20 {
        match node.admits("p").await {
            Ok(()) => node.kubelet.delete("p"),
            Err(_) => refused.push(count),
        }
    }
    node.clears_all_faults();
    refused
}

#[tokio::test]
async fn the_same_seed_injects_into_the_same_calls() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    let first = refused_pods(&node, "7").await;
    assert_eq!(refused_pods(&node, "7").await, first);
    assert_ne!(refused_pods(&node, "8").await, first);
    // The daemon reports the seed that it chose.
    let (_, shown, _) = node.run(&["fault", "stream", GPU, "--probability", "0"]);
    assert!(
        shown.starts_with("example.com/gpu: set fault stream --probability 0 --seed "),
        "{shown}"
    );
}

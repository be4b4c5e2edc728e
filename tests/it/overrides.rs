//! The commands `health` and `scale` override the configuration until `reset` removes the overrides.

use std::fs;

use crate::support::control::run;
use crate::support::running_node::{FOUR, Node};
use crate::support::{GPU, assert_alive, held, pod, registrations, until};
use simple_device_plugin::control::{HealthReply, Refusal, ScaleReply};
use simple_device_plugin::model::device::Health;
use simple_device_plugin::model::selection::SelectionError;
use simple_device_plugin::offer::CountError;

fn scaled(devices: usize, pending_removal: usize) -> ScaleReply {
    ScaleReply {
        resource: GPU.to_owned(),
        devices,
        pending_removal,
    }
}

#[tokio::test]
async fn health_is_set_and_reset() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    let one: HealthReply = node.run_json(&["health", GPU, "gpu-n-1", "unhealthy"]);
    let expected = HealthReply {
        resource: GPU.to_owned(),
        health: Health::Unhealthy,
        devices: 1,
        device: Some("gpu-n-1".to_owned()),
        fault_unhealthy: 0,
    };
    assert_eq!(one, expected);
    node.wait_for_node(4, 3).await;
    let range: HealthReply = node.run_json(&["health", GPU, "2-3", "unhealthy"]);
    assert_eq!((range.devices, range.device), (2, None));
    node.wait_for_node(4, 1).await;
    // The kubelet allocates the only device that is still healthy.
    node.kubelet
        .admit(&pod("p", &[(GPU, 1)]))
        .await
        .expect("admitted");
    assert_eq!(held(&node.kubelet, "p"), ["gpu-n-0"]);
    let healthy: HealthReply = node.run_json(&["health", GPU, "3", "healthy"]);
    assert_eq!(healthy.health, Health::Healthy);
    node.wait_for_node(4, 2).await;
    let (_, status, _) = node.run(&["status"]);
    let note = "example.com/gpu has overrides: health of 3 devices set; `reset example.com/gpu` removes them\n";
    assert!(status.contains(note), "{status}");
    let (_, status, _) = node.run(&["status", GPU]);
    assert!(
        status.contains("gpu-n-1  Unhealthy, overridden"),
        "{status}"
    );
    assert!(status.contains("gpu-n-3  Healthy, overridden"), "{status}");
    // The holder is `default/p/main` from the pod-resources API, or `p/main` from the checkpoint.
    let held = |line: &str| line.contains("gpu-n-0  Healthy  ") && line.ends_with("p/main");
    assert!(status.lines().any(held), "{status}");
    node.resets();
    node.wait_for_node(4, 4).await;
    assert!(!node.run(&["status", GPU]).1.contains("overrid"));
    assert_eq!(registrations(&node.kubelet, GPU), 1);
}

#[tokio::test]
async fn a_surplus_device_stays_until_its_pod_is_deleted() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    node.kubelet
        .admit(&pod("p", &[(GPU, 2)]))
        .await
        .expect("admitted");
    assert_eq!(
        node.run_json::<ScaleReply>(&["scale", GPU, "1"]),
        scaled(1, 3)
    );
    node.wait_for_node(4, 1).await;
    // The second device of the pod stays until the pod is deleted.
    node.wait_for_node(2, 1).await;
    node.kubelet.delete("p");
    node.wait_for_node(1, 1).await;
    assert_eq!(
        node.run_json::<ScaleReply>(&["scale", GPU, "6"]),
        scaled(6, 0)
    );
    node.wait_for_node(6, 6).await;
    assert!(
        node.run(&["status"])
            .1
            .contains("has overrides: scaled to 6 devices; ")
    );
    node.resets();
    node.wait_for_node(4, 4).await;
}

/// The kubelet already knows the device as Unhealthy, so it can be removed without another report.
#[tokio::test]
async fn an_unhealthy_surplus_device_is_removed() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    node.run(&["health", GPU, "3", "unhealthy"]);
    node.wait_for_node(4, 3).await;
    node.run(&["scale", GPU, "3"]);
    node.wait_for_node(3, 3).await;
}

#[tokio::test]
async fn overrides_survive_reloads_and_kubelet_restarts() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    assert_eq!(
        node.run_json::<ScaleReply>(&["scale", GPU, "3"]),
        scaled(3, 1)
    );
    node.run(&["health", GPU, "0", "unhealthy"]);
    node.wait_for_node(3, 2).await;
    node.reloads(&FOUR.replace('4', "5"));
    let node = node.with_another_kubelet().await;
    node.wait_for_node(3, 2).await;
    node.resets();
    node.wait_for_node(5, 5).await;
}

#[tokio::test]
async fn invalid_requests_are_refused_and_change_nothing() {
    let list = "{resources: [{name: example.com/gpu, devices: [{id: a}, {id: b}]}]}";
    let node = Node::with(list);
    node.wait_for_node(2, 2).await;
    let resource = || GPU.to_owned();
    let reason = CountError::Listed;
    assert_eq!(
        node.refusal(&["scale", GPU, "3"]),
        Refusal::Count {
            resource: resource(),
            reason
        }
    );
    for (devices, reason) in [
        ("c", SelectionError::Unknown("c".to_owned())),
        ("a,2", SelectionError::NoIndex { index: 2, count: 2 }),
    ] {
        assert_eq!(
            node.refusal(&["health", GPU, devices, "unhealthy"]),
            Refusal::Devices {
                resource: resource(),
                reason
            }
        );
    }
    assert_eq!(
        node.refusal(&["reset", "example.com/fpga"]),
        Refusal::NoSuchResource {
            resource: "example.com/fpga".to_owned(),
            known: vec![resource()],
            more: 0,
        }
    );
    let status = node.refusal(&["status", "example.com/fpga"]);
    assert!(matches!(status, Refusal::NoSuchResource { .. }), "{status}");
    node.reloads("{resources: [{name: example.com/gpu, devices: 2}]}");
    let too_many = node.refusal(&["scale", GPU, "99999999"]);
    assert!(matches!(
        too_many,
        Refusal::Count {
            reason: CountError::TooMany(_),
            ..
        }
    ));
    assert_eq!(node.run(&["health", GPU, "all", "broken"]).0, Some(2));
    assert!(!node.run(&["status"]).1.contains("overrid"));
}

#[tokio::test]
async fn concurrent_commands_and_reloads_end_with_the_last_configuration() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    std::thread::scope(|scope| {
        for client in 0..2 {
            let dir = node.dir.path();
            scope.spawn(move || {
                for round in 0..10 {
                    let count = (round + client) % 6;
                    run(dir, &["scale", GPU, &count.to_string()]);
                    run(dir, &["health", GPU, "all", "unhealthy"]);
                }
            });
        }
        for count in [1, 6, 2, 4] {
            let config = FOUR.replace('4', &count.to_string());
            fs::write(&node.file, config).expect("a file");
            std::thread::yield_now();
        }
    });
    node.resets();
    until("the last reload", || {
        node.run(&["status"]).1.contains("4 of 4")
    })
    .await;
    node.wait_for_node(4, 4).await;
    assert_alive(&node.kubelet);
}

//! Commands that set health and device counts: they override the configuration until `reset` removes them.

use std::fs;

use crate::support::control::does;
use crate::support::steered::{FOUR, Node};
use crate::support::{GPU, assert_alive, held, pod, registrations, until};

#[tokio::test]
async fn health_is_set_and_taken_back() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    let id = "example.com/gpu: set gpu-n-1 to Unhealthy\n";
    node.sets(&["health", GPU, "gpu-n-1", "unhealthy"], id);
    node.shows(4, 3).await;
    let range = "example.com/gpu: set 2 devices to Unhealthy\n";
    node.sets(&["health", GPU, "2-3", "unhealthy"], range);
    node.shows(4, 1).await;
    // The kubelet gives the only device that is still healthy.
    node.kubelet
        .admit(&pod("p", &[(GPU, 1)]))
        .await
        .expect("admitted");
    assert_eq!(held(&node.kubelet, "p"), ["gpu-n-0"]);
    node.sets(
        &["health", GPU, "3", "healthy"],
        "example.com/gpu: set gpu-n-3 to Healthy\n",
    );
    node.shows(4, 2).await;
    let (_, status, _) = node.does(&["status"]);
    let note = "example.com/gpu has overrides: health of 3 devices\n";
    assert!(status.contains(note), "{status}");
    let (_, status, _) = node.does(&["status", GPU]);
    assert!(
        status.contains("gpu-n-1  Unhealthy, overridden"),
        "{status}"
    );
    assert!(status.contains("gpu-n-3  Healthy, overridden"), "{status}");
    assert!(
        status.contains("gpu-n-0  Healthy                p/main"),
        "{status}"
    );
    node.sets(&["reset", GPU], "example.com/gpu: as configured\n");
    node.shows(4, 4).await;
    assert!(!node.does(&["status", GPU]).1.contains("overrid"));
    assert_eq!(registrations(&node.kubelet, GPU), 1);
}

#[tokio::test]
async fn a_count_is_set_by_the_rules_of_retiring() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.kubelet
        .admit(&pod("p", &[(GPU, 2)]))
        .await
        .expect("admitted");
    node.sets(
        &["scale", GPU, "1"],
        "example.com/gpu: scaled to 1 device, 3 pending removal\n",
    );
    node.shows(4, 1).await;
    // The second device of the pod stays until the pod is deleted.
    node.shows(2, 1).await;
    node.kubelet.delete("p");
    node.shows(1, 1).await;
    node.sets(
        &["scale", GPU, "6"],
        "example.com/gpu: scaled to 6 devices\n",
    );
    node.shows(6, 6).await;
    assert!(
        node.does(&["status"])
            .1
            .contains("has overrides: 6 devices\n")
    );
    node.sets(&["reset", GPU], "example.com/gpu: as configured\n");
    node.shows(4, 4).await;
}

/// The kubelet already has it as Unhealthy, so it can leave the list at once.
#[tokio::test]
async fn a_device_that_is_ill_goes_like_another() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.does(&["health", GPU, "3", "unhealthy"]);
    node.shows(4, 3).await;
    node.does(&["scale", GPU, "3"]);
    node.shows(3, 3).await;
}

#[tokio::test]
async fn it_outlives_reloads_and_kubelets_but_no_restart() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    node.sets(
        &["scale", GPU, "3"],
        "example.com/gpu: scaled to 3 devices, 1 pending removal\n",
    );
    node.does(&["health", GPU, "0", "unhealthy"]);
    node.shows(3, 2).await;
    node.reloads(&FOUR.replace('4', "5"));
    let node = node.with_another_kubelet().await;
    node.shows(3, 2).await;
    node.sets(&["reset", GPU], "example.com/gpu: as configured\n");
    node.shows(5, 5).await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_changes_nothing() {
    let list = "{resources: [{name: example.com/gpu, devices: [{id: a}, {id: b}]}]}";
    let node = Node::with(list);
    node.shows(2, 2).await;
    node.refuses(
        &["scale", GPU, "3"],
        "error: example.com/gpu: the devices of this resource are a list, of which there is no other number\n",
    );
    node.refuses(
        &["health", GPU, "c", "unhealthy"],
        "error: example.com/gpu: no device \"c\": expected IDs, indexes as in 0, ranges as in 0-3, comma-separated, or all\n",
    );
    node.refuses(
        &["health", GPU, "a,2", "unhealthy"],
        "error: example.com/gpu: no device with the index 2: there are 2, counted from 0\n",
    );
    node.refuses(
        &["reset", "example.com/fpga"],
        "error: no resource example.com/fpga; there are: example.com/gpu\n",
    );
    node.reloads("{resources: [{name: example.com/gpu, devices: 2}]}");
    let (code, _, stderr) = node.does(&["scale", GPU, "99999999"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("expected at most "), "{stderr}");
    assert_eq!(node.does(&["health", GPU, "all", "sick"]).0, Some(2));
    assert!(!node.does(&["status"]).1.contains("overrid"));
}

#[tokio::test]
async fn two_hands_and_a_reload_at_once_end_as_the_last_says() {
    let node = Node::with(FOUR);
    node.shows(4, 4).await;
    std::thread::scope(|scope| {
        for hand in 0..2 {
            let dir = node.dir.path();
            scope.spawn(move || {
                for round in 0..10 {
                    let count = (round + hand) % 6;
                    does(dir, &["scale", GPU, &count.to_string()]);
                    does(dir, &["health", GPU, "all", "unhealthy"]);
                }
            });
        }
        for count in [1, 6, 2, 4] {
            let config = FOUR.replace('4', &count.to_string());
            fs::write(&node.file, config).expect("a file");
            std::thread::yield_now();
        }
    });
    node.sets(&["reset", GPU], "example.com/gpu: as configured\n");
    until("the last reload", || {
        node.does(&["status"]).1.contains("4 of 4")
    })
    .await;
    node.shows(4, 4).await;
    assert_alive(&node.kubelet);
}

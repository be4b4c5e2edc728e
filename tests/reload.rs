//! Another configuration while pods come and go: only what changed is touched, and nothing that a pod holds
//! is taken from under the kubelet.

mod support;

use simple_device_plugin::kubelet::{Happening, Kubelet, Pod, Settings, TopologyPolicy};
use support::{
    Manager, from_file, held, kubelet, plugin_dir, pod, registrations, settings, shows, sockets,
    within,
};

const A: &str = "example.com/a";
const B: &str = "example.com/b";

/// With a topology manager: one that crashes when a held device goes.
fn strict(dir: &std::path::Path) -> Kubelet {
    let settings = Settings {
        topology_policy: TopologyPolicy::SingleNumaNode,
        ..settings(dir)
    };
    Kubelet::start(settings).expect("a kubelet")
}

fn assert_alive(kubelet: &Kubelet) {
    assert_eq!(*kubelet.crashed().borrow(), None);
}

/// Devices of resource a, near NUMA node 0.
fn counted(count: usize) -> String {
    format!("resources: [{{name: {A}, devices: {count}, numaNodes: [0]}}]")
}

#[tokio::test]
async fn new_devices_health_and_outputs_go_out_on_the_open_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(2)));
    shows(&kubelet, A, 2, 2).await;
    let listed = "resources: [{name: example.com/a, devices: [{id: x, health: Unhealthy}, {id: y}], env: {Y: '{ids}'}}]";
    manager.reconfigure(from_file(&counted(5)));
    shows(&kubelet, A, 5, 5).await;
    manager.reconfigure(from_file(listed));
    // The counted ones went as soon as nobody held them.
    shows(&kubelet, A, 2, 1).await;
    let got = kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
    assert_eq!(got[0].response.envs["Y"], "y");
    manager.reconfigure(from_file(&listed.replace("Y: '{ids}'", "Z: other")));
    manager.reconfigure(from_file(
        &listed
            .replace("Y: '{ids}'", "Z: other")
            .replace("id: y", "id: z"),
    ));
    shows(&kubelet, A, 3, 1).await;
    let got = kubelet.admit(&pod("q", &[(A, 1)])).await.expect("admitted");
    assert_eq!(got[0].response.envs["Z"], "other");
    assert_eq!(registrations(&kubelet, A), 1, "never registered anew");
    manager.stop().await;
}

#[tokio::test]
async fn what_stays_the_same_does_not_notice() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let config = |more: &str| from_file(&format!("resources: [{{name: {A}}}, {more}]"));
    let manager = Manager::of(dir.path(), config("{name: example.com/b}"));
    shows(&kubelet, A, 2, 2).await;
    shows(&kubelet, B, 2, 2).await;
    let mut events = kubelet.events();

    // Read at the registration only: b registers again, and its socket moves.
    manager.reconfigure(config("{name: example.com/b, preferredAllocation: packed}"));
    registered_anew(&kubelet, B, 2).await;
    manager.reconfigure(config("{name: example.com/b, preferredAllocation: spread}"));
    manager.reconfigure(config(
        "{name: example.com/b, preferredAllocation: spread, preStart: true, pluginName: other}",
    ));
    registered_anew(&kubelet, B, 3).await;
    assert!(dir.path().join("other.sock").exists());

    // Gone, and another.
    manager.reconfigure(config("{name: example.com/c}"));
    shows(&kubelet, "example.com/c", 2, 2).await;
    shows(&kubelet, B, 2, 0).await;
    assert_eq!(sockets(dir.path()).len(), 2);
    manager.reconfigure(from_file("resources: []"));
    shows(&kubelet, "example.com/c", 2, 0).await;
    manager.reconfigure(config("{name: example.com/b}"));
    shows(&kubelet, B, 2, 2).await;

    while let Ok(event) = events.try_recv() {
        let of_a = event.resource == A && !matches!(event.what, Happening::Listed { .. });
        let after_all_went = registrations(&kubelet, A) == 2;
        assert!(!of_a || after_all_went, "{event:?}");
    }
    manager.stop().await;
}

async fn registered_anew(kubelet: &Kubelet, resource: &str, times: u64) {
    let mut counts = kubelet.registrations();
    let counted = counts.wait_for(|counts| counts.get(resource) == Some(&times));
    within("another registration", counted)
        .await
        .expect("a kubelet");
    shows(kubelet, resource, 2, 2).await;
}

#[tokio::test]
async fn a_device_that_a_pod_holds_stays_until_the_pod_is_gone() {
    let dir = plugin_dir();
    let kubelet = strict(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(3)));
    shows(&kubelet, A, 3, 3).await;
    let everything = pod("p", &[(A, 3)]);
    kubelet.admit(&everything).await.expect("admitted");
    manager.reconfigure(from_file(&counted(0)));
    shows(&kubelet, A, 3, 0).await;
    // The pod is admitted again, as in a resize, and with a new kubelet.
    assert_eq!(
        kubelet
            .admit(&everything)
            .await
            .expect("it keeps its devices")
            .len(),
        1
    );
    let kubelet = kubelet.restart().await.expect("a kubelet");
    shows(&kubelet, A, 3, 0).await;
    assert_eq!(held(&kubelet, "p").len(), 3);
    assert_alive(&kubelet);

    // One comes back, and is simply healthy; the rest goes with the pod.
    manager.reconfigure(from_file(&counted(1)));
    shows(&kubelet, A, 3, 1).await;
    kubelet.delete("p");
    shows(&kubelet, A, 1, 1).await;
    assert_alive(&kubelet);
    manager.stop().await;
}

#[tokio::test]
async fn what_pods_hold_at_the_start_is_retired() {
    let dir = plugin_dir();
    let kubelet = strict(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(3)));
    shows(&kubelet, A, 3, 3).await;
    kubelet.admit(&pod("p", &[(A, 3)])).await.expect("admitted");
    manager.stop().await;
    // An upgrade to fewer, and a restart of the kubelet meanwhile.
    let kubelet = kubelet.restart().await.expect("a kubelet");
    let manager = Manager::of(dir.path(), from_file(&counted(1)));
    shows(&kubelet, A, 3, 1).await;
    assert_alive(&kubelet);
    kubelet
        .admit(&pod("q", &[(A, 1)]))
        .await
        .expect_err("the one that is left is held");
    kubelet.delete("p");
    shows(&kubelet, A, 1, 1).await;
    kubelet.admit(&pod("q", &[(A, 1)])).await.expect("admitted");
    assert_alive(&kubelet);
    manager.stop().await;
}

#[tokio::test]
async fn without_a_checkpoint_that_can_be_read_devices_stay() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(2)));
    shows(&kubelet, A, 2, 2).await;
    let blocked = dir.path().join("kubelet_internal_checkpoint");
    support::until("the checkpoint", || blocked.exists()).await;
    std::fs::remove_file(&blocked).expect("the checkpoint");
    std::fs::create_dir(&blocked).expect("something that is no checkpoint");
    manager.reconfigure(from_file(&counted(1)));
    shows(&kubelet, A, 2, 1).await;
    // Long after the grace it is there still.
    tokio::time::sleep(from_file(&counted(1))[0].removal_grace * 6).await;
    shows(&kubelet, A, 2, 1).await;
    std::fs::remove_dir(&blocked).expect("what was made");
    kubelet
        .admit(&Pod {
            name: "p".to_owned(),
            requests: [(A.to_owned(), 1)].into(),
        })
        .await
        .expect("admitted");
    shows(&kubelet, A, 1, 1).await;
    manager.stop().await;
}

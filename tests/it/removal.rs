//! A device that is removed from the configuration stays in the list while a pod holds it.

use std::time::Duration;

use crate::support::{
    A, Manager, assert_alive, counted, from_file, happens, held, kubelet, kubelet_with, plugin_dir,
    pod, settings, strict_kubelet, until, wait_for_node,
};
use kubelet_sim::{EventKind, Kubelet, Pod, TopologyPolicy};
use simple_device_plugin::node::checkpoint_file;
use simple_device_plugin::offer::removal::Wait;
use simple_device_plugin::supervisor::Supervisor;

/// Several times the removal grace of the resources here.
const GRACES: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_device_that_a_pod_holds_stays_until_the_pod_is_deleted() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(3)));
    wait_for_node(&kubelet, A, 3, 3).await;
    let everything = pod("p", &[(A, 3)]);
    kubelet.admit(&everything).await.expect("admitted");
    manager.reconfigure(from_file(&counted(0)));
    wait_for_node(&kubelet, A, 3, 0).await;
    // The kubelet admits the pod again, as it does for a resize and after a restart.
    assert_eq!(
        kubelet
            .admit(&everything)
            .await
            .expect("the pod keeps its devices")
            .len(),
        1
    );
    let kubelet = kubelet.restart().await.expect("a kubelet");
    wait_for_node(&kubelet, A, 3, 0).await;
    assert_eq!(held(&kubelet, "p").len(), 3);
    // The devices also stay long after the grace.
    tokio::time::sleep(GRACES).await;
    kubelet
        .admit(&everything)
        .await
        .expect("the pod keeps its devices");
    wait_for_node(&kubelet, A, 3, 0).await;
    assert_alive(&kubelet);

    // One device is configured again and becomes healthy. The others leave the list when the pod is deleted.
    manager.reconfigure(from_file(&counted(1)));
    wait_for_node(&kubelet, A, 3, 1).await;
    kubelet.delete("p");
    wait_for_node(&kubelet, A, 1, 1).await;
    assert_alive(&kubelet);
    manager.stop().await;
}

/// On a busy node there is always an Allocate call in progress or one that ended within the grace.
#[tokio::test]
async fn a_free_device_is_removed_while_pods_start_and_end() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let ordered = |count: usize| {
        counted(count).replace("numaNodes", "preferredAllocation: ordered, numaNodes")
    };
    let manager = Manager::of(dir.path(), from_file(&ordered(4)));
    wait_for_node(&kubelet, A, 4, 4).await;
    let pods = async {
        loop {
            kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
            kubelet.delete("p");
        }
    };
    let removal = async {
        manager.reconfigure(from_file(&ordered(3)));
        wait_for_node(&kubelet, A, 3, 3).await;
    };
    tokio::select! {
        () = removal => {}
        () = pods => {}
    }
    assert_alive(&kubelet);
    manager.stop().await;
}

/// Without the pod-resources API, a deleted pod stays in the checkpoint until the kubelet admits another pod with
/// devices.
#[tokio::test]
async fn without_the_pod_resources_api_a_device_stays_until_the_next_admission() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let manager = Manager::run(Supervisor::new(from_file(&counted(4)), dir.path()));
    wait_for_node(&kubelet, A, 4, 4).await;
    kubelet.admit(&pod("p", &[(A, 4)])).await.expect("admitted");
    manager.reconfigure(from_file(&counted(3)));
    wait_for_node(&kubelet, A, 4, 3).await;
    kubelet.delete("p");
    let waits_for_pod = |wait| wait == Wait::Pod;
    manager.device_waits(A, "a-n-3", waits_for_pod).await;
    tokio::time::sleep(GRACES).await;
    manager.device_waits(A, "a-n-3", waits_for_pod).await;
    kubelet.admit(&pod("q", &[(A, 1)])).await.expect("admitted");
    wait_for_node(&kubelet, A, 3, 3).await;
    assert_alive(&kubelet);
    manager.stop().await;
}

fn is_list(what: &EventKind) -> bool {
    matches!(what, EventKind::Listed { .. })
}

/// Until a restarted kubelet knows its pods, its pod-resources API lists none; that must not free their devices.
#[tokio::test]
async fn a_restarted_kubelet_that_does_not_know_its_pods_yet_frees_no_device() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| {
        settings.topology_policy = TopologyPolicy::SingleNumaNode;
        settings.pods_known = false;
    });
    kubelet.set_pods_known();
    let manager = Manager::of(dir.path(), from_file(&counted(1)));
    wait_for_node(&kubelet, A, 1, 1).await;
    let everything = pod("p", &[(A, 1)]);
    kubelet.admit(&everything).await.expect("admitted");
    manager.reconfigure(from_file(&counted(0)));
    wait_for_node(&kubelet, A, 1, 0).await;
    let kubelet = kubelet.restart().await.expect("a kubelet");
    // The plugin sends the first list, then the same list again to make the kubelet write its checkpoint.
    let mut events = kubelet.events();
    for _ in 0..2 {
        happens(&mut events, A, is_list).await;
    }
    kubelet.set_pods_known();
    pod_keeps_device(&kubelet, &manager, &everything).await;
    manager.stop().await;
}

/// Checks that the only device is pending removal, and that the pod that holds it keeps it.
async fn pod_keeps_device(kubelet: &Kubelet, manager: &Manager, pod: &Pod) {
    manager
        .device_waits(A, "a-n-0", |wait| wait == Wait::Pod)
        .await;
    kubelet.admit(pod).await.expect("the pod keeps its devices");
    wait_for_node(kubelet, A, 1, 0).await;
    assert_alive(kubelet);
}

/// The pod-resources API omits devices of init containers that ended. The test uses the API of another kubelet, which
/// lists no device at all.
#[tokio::test]
async fn a_device_stays_while_only_the_checkpoint_shows_its_pod() {
    let (dir, other_dir) = (plugin_dir(), plugin_dir());
    let kubelet = strict_kubelet(dir.path());
    let _other = strict_kubelet(other_dir.path());
    let socket = settings(other_dir.path()).pod_resources_socket();
    let supervisor = Supervisor::new(from_file(&counted(1)), dir.path());
    let manager = Manager::run(supervisor.with_pod_resources_socket(Some(socket)));
    wait_for_node(&kubelet, A, 1, 1).await;
    let everything = pod("p", &[(A, 1)]);
    kubelet.admit(&everything).await.expect("admitted");
    let mut events = kubelet.events();
    manager.reconfigure(from_file(&counted(0)));
    // The plugin sends the list with the Unhealthy device, then the same list twice more.
    for _ in 0..3 {
        happens(&mut events, A, is_list).await;
    }
    pod_keeps_device(&kubelet, &manager, &everything).await;
    manager.stop().await;
}

#[tokio::test]
async fn devices_that_pods_hold_at_startup_are_listed_and_removed_later() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(3)));
    wait_for_node(&kubelet, A, 3, 3).await;
    kubelet.admit(&pod("p", &[(A, 3)])).await.expect("admitted");
    manager.stop().await;
    // The kubelet restarts while an upgrade configures fewer devices.
    let kubelet = kubelet.restart().await.expect("a kubelet");
    let manager = Manager::of(dir.path(), from_file(&counted(1)));
    wait_for_node(&kubelet, A, 3, 1).await;
    assert_alive(&kubelet);
    kubelet
        .admit(&pod("q", &[(A, 1)]))
        .await
        .expect_err("the only configured device is held");
    kubelet.delete("p");
    wait_for_node(&kubelet, A, 1, 1).await;
    kubelet.admit(&pod("q", &[(A, 1)])).await.expect("admitted");
    assert_alive(&kubelet);
    manager.stop().await;
}

/// Two managers run on one node, as with `maxSurge`. The second one takes over when the first one stops.
#[tokio::test]
async fn a_successor_lists_devices_that_pods_got_while_it_waited_for_the_socket() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let first = Manager::of(dir.path(), from_file(&counted(3)));
    wait_for_node(&kubelet, A, 3, 3).await;
    let second = Manager::of(dir.path(), from_file(&counted(1)));
    kubelet.admit(&pod("p", &[(A, 3)])).await.expect("admitted");
    first.stop().await;
    wait_for_node(&kubelet, A, 3, 1).await;
    let kubelet = kubelet.restart().await.expect("a kubelet");
    wait_for_node(&kubelet, A, 3, 1).await;
    assert_alive(&kubelet);
    second.stop().await;
}

/// The checkpoint cannot be read, and an upgrade reduced the device count. The first list must still have the devices
/// that the pod holds.
#[tokio::test]
async fn held_devices_are_listed_even_if_the_checkpoint_has_an_unknown_format() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(3)));
    wait_for_node(&kubelet, A, 3, 3).await;
    kubelet.admit(&pod("p", &[(A, 3)])).await.expect("admitted");
    manager.stop().await;
    let checkpoint = dir.path().join(checkpoint_file::FILE);
    std::fs::write(checkpoint, r#"{"data": "{}", "dataChecksum": 1}"#).expect("a file");
    let manager = Manager::of(dir.path(), from_file(&counted(1)));
    wait_for_node(&kubelet, A, 3, 1).await;
    manager
        .device_waits(A, "a-n-2", |wait| wait == Wait::Pod)
        .await;
    manager.stop().await;
}

#[tokio::test]
async fn devices_stay_while_the_checkpoint_cannot_be_read() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::run(Supervisor::new(from_file(&counted(2)), dir.path()));
    wait_for_node(&kubelet, A, 2, 2).await;
    let checkpoint = dir.path().join(checkpoint_file::FILE);
    until("the checkpoint", || checkpoint.exists()).await;
    std::fs::remove_file(&checkpoint).expect("the checkpoint");
    std::fs::create_dir(&checkpoint).expect("a directory");
    manager.reconfigure(from_file(&counted(1)));
    wait_for_node(&kubelet, A, 2, 1).await;
    // The device is still there long after the grace.
    tokio::time::sleep(GRACES).await;
    wait_for_node(&kubelet, A, 2, 1).await;
    std::fs::remove_dir(&checkpoint).expect("the directory");
    kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
    wait_for_node(&kubelet, A, 1, 1).await;
    manager.stop().await;
}

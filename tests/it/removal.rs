//! A device that the configuration no longer has stays in the list until no pod holds it.

use std::time::Duration;

use crate::support::{
    A, Manager, assert_alive, counted, from_file, happens, held, kubelet, kubelet_with, plugin_dir,
    pod, settings, shows, strict_kubelet, until,
};
use kubelet_sim::{Happening, TopologyPolicy};
use simple_device_plugin::node::checkpoint_file;
use simple_device_plugin::offer::retirement::Wait;
use simple_device_plugin::supervisor::Supervisor;

/// Several of the grace that resources have here.
const GRACES: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_device_that_a_pod_holds_stays_until_the_pod_is_gone() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
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
    // Long after the grace as well.
    tokio::time::sleep(GRACES).await;
    kubelet
        .admit(&everything)
        .await
        .expect("it keeps its devices");
    shows(&kubelet, A, 3, 0).await;
    assert_alive(&kubelet);

    // One comes back, and is simply healthy; the rest goes with the pod.
    manager.reconfigure(from_file(&counted(1)));
    shows(&kubelet, A, 3, 1).await;
    kubelet.delete("p");
    shows(&kubelet, A, 1, 1).await;
    assert_alive(&kubelet);
    manager.stop().await;
}

/// On a busy node there is always a call in flight, or one that was answered within the grace.
#[tokio::test]
async fn a_free_device_is_dropped_while_pods_come_and_go() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let ordered = |count: usize| {
        counted(count).replace("numaNodes", "preferredAllocation: ordered, numaNodes")
    };
    let manager = Manager::of(dir.path(), from_file(&ordered(4)));
    shows(&kubelet, A, 4, 4).await;
    let pods = async {
        loop {
            kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
            kubelet.delete("p");
        }
    };
    let removal = async {
        manager.reconfigure(from_file(&ordered(3)));
        shows(&kubelet, A, 3, 3).await;
    };
    tokio::select! {
        () = removal => {}
        () = pods => {}
    }
    assert_alive(&kubelet);
    manager.stop().await;
}

/// A deleted pod stays in the checkpoint until a pod with devices is admitted.
#[tokio::test]
async fn without_the_pod_resources_a_device_waits_for_the_next_admission() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let manager = Manager::run(Supervisor::new(from_file(&counted(4)), dir.path()));
    shows(&kubelet, A, 4, 4).await;
    kubelet.admit(&pod("p", &[(A, 4)])).await.expect("admitted");
    manager.reconfigure(from_file(&counted(3)));
    shows(&kubelet, A, 4, 3).await;
    kubelet.delete("p");
    let held = |wait| wait == Wait::Pod;
    manager.device_waits(A, "a-n-3", held).await;
    tokio::time::sleep(GRACES).await;
    manager.device_waits(A, "a-n-3", held).await;
    kubelet.admit(&pod("q", &[(A, 1)])).await.expect("admitted");
    shows(&kubelet, A, 3, 3).await;
    assert_alive(&kubelet);
    manager.stop().await;
}

fn is_list(what: &Happening) -> bool {
    matches!(what, Happening::Listed { .. })
}

/// The pod resources are empty then, and asking for them frees nothing.
#[tokio::test]
async fn a_kubelet_that_does_not_know_its_pods_yet_frees_nothing() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| {
        settings.topology_policy = TopologyPolicy::SingleNumaNode;
        settings.pods_known = false;
    });
    kubelet.learn_pods();
    let manager = Manager::of(dir.path(), from_file(&counted(1)));
    shows(&kubelet, A, 1, 1).await;
    let everything = pod("p", &[(A, 1)]);
    kubelet.admit(&everything).await.expect("admitted");
    manager.reconfigure(from_file(&counted(0)));
    shows(&kubelet, A, 1, 0).await;
    let kubelet = kubelet.restart().await.expect("a kubelet");
    // The first list, and the same again, by which the kubelet is to write what it forgot.
    let mut events = kubelet.events();
    for _ in 0..2 {
        happens(&mut events, A, is_list).await;
    }
    kubelet.learn_pods();
    manager
        .device_waits(A, "a-n-0", |wait| wait == Wait::Pod)
        .await;
    kubelet
        .admit(&everything)
        .await
        .expect("it keeps its devices");
    shows(&kubelet, A, 1, 0).await;
    assert_alive(&kubelet);
    manager.stop().await;
}

/// The pod resources lack what init containers hold that have ended, and all that pods of another kubelet hold.
#[tokio::test]
async fn what_the_pod_resources_lack_stays_while_the_checkpoint_has_it() {
    let (dir, other_dir) = (plugin_dir(), plugin_dir());
    let kubelet = strict_kubelet(dir.path());
    let _other = strict_kubelet(other_dir.path());
    let socket = settings(other_dir.path()).pod_resources_socket();
    let supervisor = Supervisor::new(from_file(&counted(1)), dir.path());
    let manager = Manager::run(supervisor.asking_for_pod_resources(Some(socket)));
    shows(&kubelet, A, 1, 1).await;
    let everything = pod("p", &[(A, 1)]);
    kubelet.admit(&everything).await.expect("admitted");
    let mut events = kubelet.events();
    manager.reconfigure(from_file(&counted(0)));
    // Unhealthy, and then the same again and again.
    for _ in 0..3 {
        happens(&mut events, A, is_list).await;
    }
    manager
        .device_waits(A, "a-n-0", |wait| wait == Wait::Pod)
        .await;
    kubelet
        .admit(&everything)
        .await
        .expect("it keeps its devices");
    shows(&kubelet, A, 1, 0).await;
    assert_alive(&kubelet);
    manager.stop().await;
}

#[tokio::test]
async fn what_pods_hold_at_the_start_is_retired() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
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

/// Two managers on one node, as with maxSurge: the second takes over when the first leaves.
#[tokio::test]
async fn a_successor_that_waited_knows_what_pods_got_meanwhile() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let first = Manager::of(dir.path(), from_file(&counted(3)));
    shows(&kubelet, A, 3, 3).await;
    let second = Manager::of(dir.path(), from_file(&counted(1)));
    kubelet.admit(&pod("p", &[(A, 3)])).await.expect("admitted");
    first.stop().await;
    shows(&kubelet, A, 3, 1).await;
    let kubelet = kubelet.restart().await.expect("a kubelet");
    shows(&kubelet, A, 3, 1).await;
    assert_alive(&kubelet);
    second.stop().await;
}

/// A kubelet whose checkpoint nobody here knows, and a count that became smaller with an upgrade: the first list must have
/// what the pod holds.
#[tokio::test]
async fn a_checkpoint_of_another_form_hides_no_device_that_a_pod_holds() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(3)));
    shows(&kubelet, A, 3, 3).await;
    kubelet.admit(&pod("p", &[(A, 3)])).await.expect("admitted");
    manager.stop().await;
    let checkpoint = dir.path().join(checkpoint_file::FILE);
    std::fs::write(checkpoint, r#"{"data": "{}", "dataChecksum": 1}"#).expect("a file");
    let manager = Manager::of(dir.path(), from_file(&counted(1)));
    shows(&kubelet, A, 3, 1).await;
    manager
        .device_waits(A, "a-n-2", |wait| wait == Wait::Pod)
        .await;
    manager.stop().await;
}

#[tokio::test]
async fn without_a_checkpoint_that_can_be_read_devices_stay() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::run(Supervisor::new(from_file(&counted(2)), dir.path()));
    shows(&kubelet, A, 2, 2).await;
    let blocked = dir.path().join(checkpoint_file::FILE);
    until("the checkpoint", || blocked.exists()).await;
    std::fs::remove_file(&blocked).expect("the checkpoint");
    std::fs::create_dir(&blocked).expect("something that is no checkpoint");
    manager.reconfigure(from_file(&counted(1)));
    shows(&kubelet, A, 2, 1).await;
    // Long after the grace it is there still.
    tokio::time::sleep(GRACES).await;
    shows(&kubelet, A, 2, 1).await;
    std::fs::remove_dir(&blocked).expect("what was made");
    kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
    shows(&kubelet, A, 1, 1).await;
    manager.stop().await;
}

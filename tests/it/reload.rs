//! Another configuration while pods come and go: only what changed is touched, and nothing that a pod holds
//! is taken from under the kubelet.

use std::time::Duration;

use crate::support::{
    Manager, from_file, held, kubelet, plugin_dir, pod, registrations, settings, shows, sockets,
    within,
};
use kubelet_sim::{Event, EventKind, Kubelet, KubeletSettings, Pod, TopologyPolicy};
use simple_device_plugin::offer::retirement::Wait;
use simple_device_plugin::supervisor::Supervisor;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

const A: &str = "example.com/a";
const B: &str = "example.com/b";

/// Several of the grace that resources have here.
const GRACES: Duration = Duration::from_millis(300);

/// With a topology manager: one that crashes when a held device goes.
fn strict(dir: &std::path::Path) -> Kubelet {
    let settings = KubeletSettings {
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
    // Nothing of all this was a's.
    loop {
        match events.try_recv() {
            Ok(event) => assert_ne!(event.resource, A, "{event:?}"),
            Err(TryRecvError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(registrations(&kubelet, A), 1);

    manager.reconfigure(from_file("resources: []"));
    shows(&kubelet, "example.com/c", 2, 0).await;
    manager.reconfigure(config("{name: example.com/b}"));
    shows(&kubelet, B, 2, 2).await;
    manager.stop().await;
}

#[tokio::test]
async fn what_the_kubelet_is_not_told_is_not_sent() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(2)));
    shows(&kubelet, A, 2, 2).await;
    let mut events = kubelet.events();
    manager.reconfigure(from_file(&counted(2).replace("]}", "], env: {A: b}}")));
    let env = async {
        loop {
            let pod = pod("p", &[(A, 1)]);
            let got = kubelet.admit(&pod).await.expect("admitted");
            if got[0].response.envs.contains_key("A") {
                return;
            }
            kubelet.delete("p");
            tokio::task::yield_now().await;
        }
    };
    within("the env", env).await;
    assert!(events.try_recv().is_err(), "a list went out");
    manager.stop().await;
}

/// Two managers on one node, as with maxSurge: the second takes over when the first leaves.
#[tokio::test]
async fn a_successor_that_waited_knows_what_pods_got_meanwhile() {
    let dir = plugin_dir();
    let kubelet = strict(dir.path());
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

/// Faster than any of them can be followed, and in the middle of registrations and leaves.
#[tokio::test]
async fn many_reloads_at_once_end_as_the_last_one_says() {
    let dir = plugin_dir();
    let kubelet = strict(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(3)));
    for round in 0..60_u64 {
        let options = [
            "",
            ", preStart: true",
            ", preferredAllocation: packed",
            ", pluginName: other",
        ];
        let text = match round % 5 {
            4 => "resources: []".to_owned(),
            _ => counted(usize::try_from(round % 7).expect("small")).replace(
                "]}",
                &format!("]{}}}", options[usize::try_from(round % 4).expect("small")]),
            ),
        };
        manager.reconfigure(from_file(&text));
        tokio::time::sleep(Duration::from_millis(round % 11)).await;
    }
    manager.reconfigure(from_file(&counted(5)));
    shows(&kubelet, A, 5, 5).await;
    kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
    assert_alive(&kubelet);
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
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
    let kubelet = strict(dir.path());
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
    let kubelet = strict(dir.path());
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

/// Waits until the list of resource a comes so often.
async fn listed(events: &mut broadcast::Receiver<Event>, times: usize) {
    let mut left = times;
    let lists = async {
        while left > 0 {
            let event = events.recv().await.expect("a kubelet");
            left -=
                usize::from(event.resource == A && matches!(event.kind, EventKind::Listed { .. }));
        }
    };
    within("lists", lists).await;
}

/// The pod resources are empty then, and asking for them frees nothing.
#[tokio::test]
async fn a_kubelet_that_does_not_know_its_pods_yet_frees_nothing() {
    let dir = plugin_dir();
    let kubelet = Kubelet::start(KubeletSettings {
        topology_policy: TopologyPolicy::SingleNumaNode,
        pods_known: false,
        ..settings(dir.path())
    });
    let kubelet = kubelet.expect("a kubelet");
    kubelet.set_pods_known();
    let manager = Manager::of(dir.path(), from_file(&counted(1)));
    shows(&kubelet, A, 1, 1).await;
    let everything = pod("p", &[(A, 1)]);
    kubelet.admit(&everything).await.expect("admitted");
    manager.reconfigure(from_file(&counted(0)));
    shows(&kubelet, A, 1, 0).await;
    let kubelet = kubelet.restart().await.expect("a kubelet");
    // The first list, and the same again, by which the kubelet is to write what it forgot.
    listed(&mut kubelet.events(), 2).await;
    kubelet.set_pods_known();
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
    let kubelet = strict(dir.path());
    let _other = strict(other_dir.path());
    let socket = settings(other_dir.path()).pod_resources_socket();
    let supervisor = Supervisor::new(from_file(&counted(1)), dir.path());
    let manager = Manager::run(supervisor.asking_for_pod_resources(Some(socket)));
    shows(&kubelet, A, 1, 1).await;
    let everything = pod("p", &[(A, 1)]);
    kubelet.admit(&everything).await.expect("admitted");
    let mut events = kubelet.events();
    manager.reconfigure(from_file(&counted(0)));
    // Unhealthy, and then the same again and again.
    listed(&mut events, 3).await;
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
    let checkpoint = dir.path().join("kubelet_internal_checkpoint");
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
    let blocked = dir.path().join("kubelet_internal_checkpoint");
    crate::support::until("the checkpoint", || blocked.exists()).await;
    std::fs::remove_file(&blocked).expect("the checkpoint");
    std::fs::create_dir(&blocked).expect("something that is no checkpoint");
    manager.reconfigure(from_file(&counted(1)));
    shows(&kubelet, A, 2, 1).await;
    // Long after the grace it is there still.
    tokio::time::sleep(GRACES).await;
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

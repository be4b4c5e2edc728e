//! The traps of a real kubelet, as the embedded one has them.

use std::path::Path;
use std::time::Duration;

use crate::support::fakes::{FakePlugin, register};
use crate::support::{kubelet, plugin_dir, pod, settings, shows, sockets, within};
use kubelet_sim::{
    AdmissionError, Behavior, Crash, EventKind, Kubelet, KubeletSettings, TopologyPolicy,
};
use simple_device_plugin::api::v1beta1::DevicePluginOptions;
use simple_device_plugin::node::checkpoint_file::CheckpointFile;
use simple_device_plugin::node::pod_resources::PodResources;

const RESOURCE: &str = "example.com/thing";

#[tokio::test]
async fn removes_sockets_at_start_and_leaves_its_own_at_the_end() {
    let dir = plugin_dir();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("old.sock")).expect("a socket"));
    std::fs::write(dir.path().join("file"), "stays").expect("a file");
    std::fs::create_dir(dir.path().join("folder")).expect("a folder");
    let kubelet = kubelet(dir.path());
    assert!(sockets(dir.path()).is_empty());
    kubelet.stop().await;
    for stays in ["kubelet.sock", "file", "folder"] {
        assert!(dir.path().join(stays).exists(), "{stays}");
    }
}

#[tokio::test]
async fn refuses_names_that_a_kubelet_refuses() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let _plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    for name in [
        "thing",
        "kubernetes.io/thing",
        "requests.example.com/thing",
        "Upper.com/thing",
    ] {
        let refused = register(dir.path(), name, "a.sock").await.expect_err(name);
        assert_eq!(refused.code(), tonic::Code::Unknown);
    }
    assert!(kubelet.node().borrow().is_empty());
}

#[tokio::test]
async fn dials_for_its_time_and_then_refuses() {
    let dir = plugin_dir();
    let _kubelet = kubelet(dir.path());
    let refused = register(dir.path(), RESOURCE, "nobody.sock")
        .await
        .expect_err("registered");
    assert!(refused.message().contains("failed to dial"), "{refused}");
}

#[tokio::test]
async fn an_old_streams_end_disconnects_the_successor() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut old = FakePlugin::serve(dir.path(), "old.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "old.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 2, 2).await;
    let _new = FakePlugin::serve(dir.path(), "new.sock", &["a", "b", "c"]);
    register(dir.path(), RESOURCE, "new.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 3, 3).await;
    old.end_stream().await;
    shows(&kubelet, RESOURCE, 3, 0).await;
}

#[tokio::test]
async fn a_registration_before_the_late_leave_is_stopped_while_all_looks_well() {
    let dir = plugin_dir();
    let kubelet = Kubelet::start(KubeletSettings {
        disconnect_delay: Duration::from_millis(300),
        ..settings(dir.path())
    });
    let kubelet = kubelet.expect("a kubelet");
    let mut old = FakePlugin::serve(dir.path(), "old.sock", &["a"]);
    register(dir.path(), RESOURCE, "old.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 1, 1).await;
    let new = FakePlugin::serve(dir.path(), "new.sock", &["a", "b"]);
    old.end_stream().await;
    // The successor registers before the kubelet has taken leave: too early.
    register(dir.path(), RESOURCE, "new.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 2, 2).await;
    shows(&kubelet, RESOURCE, 2, 0).await;
    new.list
        .send_replace(Some(Ok(vec!["a".to_owned(), "c".to_owned()])));
    shows(&kubelet, RESOURCE, 2, 2).await;
    let refused = kubelet.admit(&pod("p", &[(RESOURCE, 1)])).await;
    assert_eq!(
        refused.err(),
        Some(AdmissionError::Stopped(RESOURCE.to_owned()))
    );
}

/// Another plugin comes and goes: whatever the kubelet had to do before, it has done.
async fn another_comes_and_goes(kubelet: &Kubelet, dir: &Path) {
    let mut other = FakePlugin::serve(dir, "other.sock", &["x"]);
    register(dir, "example.com/other", "other.sock")
        .await
        .expect("registered");
    shows(kubelet, "example.com/other", 1, 1).await;
    other.end_stream().await;
    shows(kubelet, "example.com/other", 1, 0).await;
}

#[tokio::test]
async fn a_failed_second_registration_makes_it_blind() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut plugin = FakePlugin::serve(dir.path(), "a.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 2, 2).await;
    register(dir.path(), RESOURCE, "nobody.sock")
        .await
        .expect_err("registered");
    plugin.end_stream().await;
    another_comes_and_goes(&kubelet, dir.path()).await;
    // It goes on to show what is gone.
    let shown = kubelet.node().borrow()[RESOURCE];
    assert_eq!((shown.capacity, shown.allocatable), (2, 2));
}

#[tokio::test]
async fn a_newer_one_ignores_the_same_socket_again() {
    let dir = plugin_dir();
    let kubelet = Kubelet::start(KubeletSettings {
        behavior: Behavior::Newer,
        ..settings(dir.path())
    });
    let kubelet = kubelet.expect("a kubelet");
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 1, 1).await;
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("ignored");
    another_comes_and_goes(&kubelet, dir.path()).await;
    assert_eq!(*plugin.streams.borrow(), 1);
}

#[tokio::test]
async fn a_list_over_4_mib_breaks_the_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 1, 1).await;
    let ids = (0..70_000).map(|i| format!("{i:060}")).collect();
    plugin.list.send_replace(Some(Ok(ids)));
    shows(&kubelet, RESOURCE, 1, 0).await;
}

#[tokio::test]
async fn a_resource_that_was_never_offered_is_not_missed() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let admitted = kubelet
        .admit(&pod("p", &[("example.com/unheard-of", 1)]))
        .await;
    assert_eq!(admitted, Ok(Vec::new()));
}

#[tokio::test]
async fn a_plugin_that_asks_for_it_is_told_before_its_container_starts() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let options = DevicePluginOptions {
        pre_start_required: true,
        get_preferred_allocation_available: false,
    };
    let plugin = FakePlugin::with_options(dir.path(), "a.sock", &["a"], Ok(options));
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 1, 1).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    assert!(plugin.started.borrow().is_empty());
    kubelet.start_container("p").await.expect("started");
    assert_eq!(*plugin.started.borrow(), [["a"]]);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_is_no_reason_not_to_start() {
    let dir = plugin_dir();
    std::fs::write(dir.path().join("kubelet_internal_checkpoint"), "{").expect("a file");
    let kubelet = kubelet(dir.path());
    assert!(kubelet.node().borrow().is_empty());
}

#[tokio::test]
async fn its_checkpoint_is_that_of_a_real_one() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let _plugin = FakePlugin::serve(dir.path(), "a.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 2, 2).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 2)]))
        .await
        .expect("admitted");
    let text = std::fs::read_to_string(dir.path().join("kubelet_internal_checkpoint"));
    let file: serde_json::Value = serde_json::from_str(&text.expect("a file")).expect("JSON");
    let entry = &file["Data"]["PodDeviceEntries"][0];
    assert_eq!(entry["PodUID"], "p");
    assert_eq!(entry["ResourceName"], RESOURCE);
    assert_eq!(entry["DeviceIDs"], serde_json::json!({"-1": ["a", "b"]}));
    assert_eq!(
        file["Data"]["RegisteredDevices"],
        serde_json::json!({RESOURCE: ["a", "b"]})
    );
    assert!(file["Checksum"].is_u64());
}

/// Sends another list, and waits until the kubelet has it.
async fn list(kubelet: &Kubelet, plugin: &FakePlugin, ids: &[&str]) {
    let mut events = kubelet.events();
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    plugin.list.send_replace(Some(Ok(ids)));
    let listed = async {
        while !matches!(
            events.recv().await.expect("a kubelet").kind,
            EventKind::Listed { .. }
        ) {}
    };
    crate::support::within("the list", listed).await;
}

#[tokio::test]
async fn crashes_when_a_device_goes_while_an_allocation_that_picked_it_is_in_flight() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut plugin = FakePlugin::serve(dir.path(), "p.sock", &["a"]);
    register(dir.path(), RESOURCE, "p.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 1, 1).await;
    plugin.answers.send_replace(false);
    let pod = pod("p", &[(RESOURCE, 1)]);
    let going = async {
        let asked = plugin.allocates.wait_for(|count| *count == 1);
        crate::support::within("Allocate", asked)
            .await
            .expect("a plugin");
        list(&kubelet, &plugin, &["b"]).await;
        plugin.answers.send_replace(true);
    };
    let (refused, ()) = tokio::join!(kubelet.admit(&pod), going);
    let crash = Crash::RemovedDuringAllocation {
        resource: RESOURCE.to_owned(),
        id: "a".to_owned(),
    };
    assert_eq!(refused, Err(AdmissionError::Crashed(crash.clone())));
    assert_eq!(*kubelet.crashed().borrow(), Some(crash));
    // Like a process: its connections are closed.
    let closed = plugin.open.wait_for(|open| *open == 0);
    crate::support::within("the end of the stream", closed)
        .await
        .expect("a plugin");
}

/// With a topology manager: a pod that holds a device is admitted again at the restart.
#[tokio::test]
async fn crashes_when_a_pod_that_is_admitted_again_holds_a_device_that_went() {
    let dir = plugin_dir();
    for (policy, crashes) in [
        (TopologyPolicy::None, false),
        (TopologyPolicy::SingleNumaNode, true),
    ] {
        let settings = KubeletSettings {
            topology_policy: policy,
            ..settings(dir.path())
        };
        let kubelet = Kubelet::start(settings).expect("a kubelet");
        let plugin = FakePlugin::serve(dir.path(), "p.sock", &["a@0"]);
        register(dir.path(), RESOURCE, "p.sock")
            .await
            .expect("registered");
        shows(&kubelet, RESOURCE, 1, 1).await;
        let pod = pod("p", &[(RESOURCE, 1)]);
        kubelet.admit(&pod).await.expect("admitted");
        list(&kubelet, &plugin, &["b@0"]).await;
        assert_eq!(
            *kubelet.crashed().borrow(),
            None,
            "not before the pod is admitted again"
        );
        let again = kubelet.admit(&pod).await;
        assert_eq!(again.is_err(), crashes, "{again:?}");
        drop(plugin);

        let kubelet = kubelet.restart().await.expect("a kubelet");
        let _plugin = FakePlugin::serve(dir.path(), "p.sock", &["b@0"]);
        let registered = register(dir.path(), RESOURCE, "p.sock").await;
        if crashes {
            let mut crashed = kubelet.crashed();
            let crash = crashed.wait_for(Option::is_some);
            let crash = crate::support::within("the crash", crash)
                .await
                .expect("a kubelet")
                .clone();
            assert!(
                crash
                    .expect("a crash")
                    .to_string()
                    .contains("device a went from the list while pod p holds it")
            );
        } else {
            registered.expect("registered");
            shows(&kubelet, RESOURCE, 1, 1).await;
            assert_eq!(*kubelet.crashed().borrow(), None);
            kubelet.delete("p");
        }
        kubelet.stop().await;
    }
}

#[tokio::test]
async fn a_pod_whose_devices_are_on_two_nodes_gets_topology_affinity_error() {
    let dir = plugin_dir();
    let settings = KubeletSettings {
        topology_policy: TopologyPolicy::SingleNumaNode,
        ..settings(dir.path())
    };
    let kubelet = Kubelet::start(settings).expect("a kubelet");
    let _a = FakePlugin::serve(dir.path(), "a.sock", &["a0@0", "a1@1"]);
    let _b = FakePlugin::serve(dir.path(), "b.sock", &["b1@1"]);
    let _c = FakePlugin::serve(dir.path(), "c.sock", &["c"]);
    for name in ["a", "b", "c"] {
        let resource = format!("example.com/{name}");
        register(dir.path(), &resource, &format!("{name}.sock"))
            .await
            .expect("registered");
    }
    shows(&kubelet, "example.com/a", 2, 2).await;
    shows(&kubelet, "example.com/b", 1, 1).await;
    shows(&kubelet, "example.com/c", 1, 1).await;
    let refused = kubelet.admit(&pod("two", &[("example.com/a", 2)])).await;
    let error = refused.expect_err("two nodes");
    assert_eq!(error.reason(), "TopologyAffinityError");
    let all = pod(
        "all",
        &[
            ("example.com/a", 1),
            ("example.com/b", 1),
            ("example.com/c", 1),
        ],
    );
    kubelet
        .admit(&all)
        .await
        .expect("node 1 has both, and the third has no topology");
    assert_eq!(crate::support::held(&kubelet, "all"), ["a1", "b1", "c"]);
    let refused = kubelet
        .admit(&pod("more", &[("example.com/a", 1), ("example.com/b", 1)]))
        .await;
    assert_eq!(
        refused.expect_err("b1 is taken").reason(),
        "TopologyAffinityError"
    );
}

/// The IDs that pods hold, as the checkpoint has them.
async fn in_checkpoint(dir: &Path) -> Vec<String> {
    let written = CheckpointFile::new(dir).read().await.expect("a checkpoint");
    let held = written.checkpoint.held(RESOURCE).into_iter();
    held.map(|device| device.id.into()).collect()
}

/// A kubelet forgets a deleted pod when it admits the next one, or is asked for the pod resources; a list then
/// brings that into the checkpoint.
#[tokio::test]
async fn a_deleted_pod_is_forgotten_late_and_stays_in_the_checkpoint() {
    let dir = plugin_dir();
    let settings = settings(dir.path());
    let pod_resources = PodResources::new(settings.pod_resources_socket());
    pod_resources.list().await.expect_err("no kubelet yet");
    let kubelet = Kubelet::start(settings).expect("a kubelet");
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["x"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 1, 1).await;
    let pod_of = |name| pod(name, &[(RESOURCE, 1)]);
    kubelet.admit(&pod_of("first")).await.expect("admitted");
    kubelet.delete("first");
    kubelet.admit(&pod_of("second")).await.expect("free again");
    assert!(
        pod_resources
            .list()
            .await
            .expect("pods")
            .holds(RESOURCE, "x")
    );
    kubelet.delete("second");
    assert_eq!(in_checkpoint(dir.path()).await, ["x"]);
    let freed = async {
        while pod_resources
            .list()
            .await
            .expect("pods")
            .holds(RESOURCE, "x")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("an answer without the deleted pod", freed).await;
    assert_eq!(
        in_checkpoint(dir.path()).await,
        ["x"],
        "a list writes nothing"
    );
    let ids = |ids: &[&str]| Some(Ok(ids.iter().map(|id| (*id).to_owned()).collect()));
    plugin.list.send_replace(ids(&["x", "y"]));
    shows(&kubelet, RESOURCE, 2, 2).await;
    let written = async {
        while !in_checkpoint(dir.path()).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("a checkpoint without the deleted pod", written).await;
}

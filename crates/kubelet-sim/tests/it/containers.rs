//! Tests of pods with several containers: which devices later containers reuse.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::{
    container, happens, kubelet, kubelet_with, plugin_dir, pod, pod_of, wait_for_node,
};
use kubelet_sim::ContainerKind::{App, Init, Sidecar};
use kubelet_sim::{EventKind, Kubelet, Pod};
use tempfile::TempDir;

const RESOURCE: &str = "example.com/thing";

/// Starts a kubelet and a plugin with six devices, and admits the pod.
async fn admitted(pod: &Pod) -> (TempDir, Kubelet, FakePlugin) {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["a", "b", "c", "d", "e", "f"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 6, 6).await;
    kubelet.admit(pod).await.expect("admitted");
    (dir, kubelet, plugin)
}

/// Returns the devices that each container of the pod holds, sorted.
fn held_by_container(kubelet: &Kubelet) -> BTreeMap<String, Vec<String>> {
    let assignments = kubelet.assignments("p").into_iter();
    let held = assignments.map(|held| {
        let ids = held.ids().into_iter().map(str::to_owned).collect();
        (held.container.clone(), ids)
    });
    held.collect()
}

#[tokio::test]
async fn later_containers_reuse_an_init_containers_devices_and_a_sidecar_keeps_its_own() {
    let pod = pod_of([
        container(App, "main", &[(RESOURCE, 3)]),
        container(Init, "setup", &[(RESOURCE, 2)]),
        container(Sidecar, "log", &[(RESOURCE, 1)]),
        container(Init, "check", &[(RESOURCE, 1)]),
    ]);
    let (_dir, kubelet, plugin) = admitted(&pod).await;
    let called = plugin.allocated.borrow().clone();
    let [setup, log, check, main] = &called[..] else {
        panic!("one call for each container: {called:?}");
    };
    assert_eq!(setup.len(), 2);
    assert!(setup.contains(&log[0]), "{called:?}");
    assert_ne!(check, log, "the sidecar's device is not reused");
    assert!(setup.contains(&check[0]), "{called:?}");
    assert_eq!(main.len(), 3);
    assert!(main.contains(&check[0]), "{called:?}");
    assert!(!main.contains(&log[0]), "{called:?}");
    let held = held_by_container(&kubelet);
    let named = [
        ("setup", setup),
        ("log", log),
        ("check", check),
        ("main", main),
    ];
    for (container, ids) in named {
        assert_eq!(&held[container], ids, "{container}");
    }
    let kubelet = kubelet.restart().await.expect("a kubelet");
    assert_eq!(held_by_container(&kubelet), held);
}

#[tokio::test]
async fn a_restarted_kubelet_kills_a_pod_with_an_init_container_whose_plugin_is_not_back() {
    const LATE: &str = "example.com/late";
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| {
        settings.pods_known = false;
        settings.readmission_delay = Duration::ZERO;
    });
    let register = async |resource, endpoint| {
        let plugin = FakePlugin::serve(dir.path(), endpoint, &["a", "b"]);
        let registered = register(dir.path(), resource, endpoint).await;
        registered.expect("registered");
        plugin
    };
    let _plugins = [
        register(RESOURCE, "a.sock").await,
        register(LATE, "b.sock").await,
    ];
    for resource in [RESOURCE, LATE] {
        wait_for_node(&kubelet, resource, 2, 2).await;
    }
    let with_init = |name: &str, resource| Pod {
        name: name.to_owned(),
        ..pod_of([
            container(Init, "setup", &[(resource, 1)]),
            container(App, "main", &[]),
        ])
    };
    // The kubelet admits them again in the order of their names.
    let pods = [
        with_init("1", RESOURCE),
        pod("2", &[(LATE, 1)]),
        with_init("3", LATE),
    ];
    for pod in &pods {
        kubelet.admit(pod).await.expect("admitted");
    }
    let kubelet = kubelet.restart().await.expect("a kubelet");
    let _plugin = register(RESOURCE, "a.sock").await;
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let mut events = kubelet.events();
    kubelet.set_pods_known();
    happens(&mut events, LATE, |what| {
        matches!(what, EventKind::PodKilled { .. })
    })
    .await;
    let running = pods.map(|pod| kubelet.has_pod(&pod.name));
    assert_eq!(running, [true, true, false]);
}

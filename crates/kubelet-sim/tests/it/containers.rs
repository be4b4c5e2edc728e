//! Tests of pods with several containers: which devices later containers reuse.

use std::collections::BTreeMap;

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::{container, kubelet, plugin_dir, pod_of, wait_for_node};
use kubelet_sim::ContainerKind::{App, Init, Sidecar};
use kubelet_sim::{Kubelet, Pod};
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

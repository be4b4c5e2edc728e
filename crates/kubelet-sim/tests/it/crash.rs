//! Tests that the kubelet crashes, as a real one does, when a plugin removes a device that is in use.

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::{
    assert_alive, container, happens, kubelet, kubelet_with, plugin_dir, pod, pod_of,
    wait_for_node, within,
};
use kubelet_sim::ContainerKind::{App, Init};
use kubelet_sim::{AdmissionError, Crash, EventKind, Kubelet, TopologyPolicy};

const RESOURCE: &str = "example.com/thing";
const OTHER: &str = "example.com/other";

/// Makes the plugin send this list, and waits until the kubelet received it.
async fn send_list(kubelet: &Kubelet, plugin: &FakePlugin, ids: &[&str]) {
    let mut events = kubelet.events();
    let ids = ids.iter().map(|id| (*id).to_owned()).collect();
    plugin.list.send_replace(Some(Ok(ids)));
    happens(&mut events, RESOURCE, |what| {
        matches!(what, EventKind::Listed { .. })
    })
    .await;
}

#[tokio::test]
async fn crashes_when_a_device_is_removed_during_an_allocation_that_chose_it() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut plugin = FakePlugin::serve(dir.path(), "p.sock", &["a"]);
    register(dir.path(), RESOURCE, "p.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    plugin.answers.send_replace(false);
    let pod = pod("p", &[(RESOURCE, 1)]);
    let remove_device = async {
        let called = plugin.allocates.wait_for(|count| *count == 1);
        within("Allocate", called).await.expect("a plugin");
        send_list(&kubelet, &plugin, &["b"]).await;
        plugin.answers.send_replace(true);
    };
    let (refused, ()) = tokio::join!(kubelet.admit(&pod), remove_device);
    let crash = Crash::RemovedDuringAllocation {
        resource: RESOURCE.to_owned(),
        id: "a".to_owned(),
    };
    assert_eq!(refused, Err(AdmissionError::Crashed(crash.clone())));
    assert_eq!(*kubelet.crashed().borrow(), Some(crash));
    // The crash closes all connections, as the exit of a process does.
    let closed = plugin.open.wait_for(|open| *open == 0);
    within("the end of the stream", closed)
        .await
        .expect("a plugin");
}

/// While the second init container waits for another plugin, the device of the first one disappears.
#[tokio::test]
async fn crashes_when_an_init_containers_device_is_removed_before_the_app_container_reuses_it() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let plugin = FakePlugin::serve(dir.path(), "p.sock", &["a"]);
    let mut other = FakePlugin::serve(dir.path(), "other.sock", &["x"]);
    for (resource, socket) in [(RESOURCE, "p.sock"), (OTHER, "other.sock")] {
        let registered = register(dir.path(), resource, socket).await;
        registered.expect("registered");
        wait_for_node(&kubelet, resource, 1, 1).await;
    }
    other.answers.send_replace(false);
    let pod = pod_of([
        container(Init, "setup", &[(RESOURCE, 1)]),
        container(Init, "wait", &[(OTHER, 1)]),
        container(App, "main", &[(RESOURCE, 1)]),
    ]);
    let remove_device = async {
        let called = other.allocates.wait_for(|count| *count == 1);
        within("Allocate", called).await.expect("a plugin");
        send_list(&kubelet, &plugin, &["b"]).await;
        other.answers.send_replace(true);
    };
    let (refused, ()) = tokio::join!(kubelet.admit(&pod), remove_device);
    let crash = Crash::RemovedBeforeReuse {
        resource: RESOURCE.to_owned(),
        id: "a".to_owned(),
        pod: "p".to_owned(),
        container: "main".to_owned(),
    };
    assert_eq!(refused, Err(AdmissionError::Crashed(crash)));
    // The kubelet called Allocate for the device once more before it crashed.
    assert_eq!(*plugin.allocated.borrow(), [["a"], ["a"]]);
}

/// With a topology policy, the kubelet looks up the pod's devices in the list when it admits the pod again.
#[tokio::test]
async fn crashes_when_it_admits_a_pod_again_that_holds_a_removed_device() {
    for (policy, crashes) in [
        (TopologyPolicy::None, false),
        (TopologyPolicy::SingleNumaNode, true),
    ] {
        let dir = plugin_dir();
        let kubelet = kubelet_with(dir.path(), |settings| settings.topology_policy = policy);
        let plugin = FakePlugin::serve(dir.path(), "p.sock", &["a@0"]);
        register(dir.path(), RESOURCE, "p.sock")
            .await
            .expect("registered");
        wait_for_node(&kubelet, RESOURCE, 1, 1).await;
        let [p, q] = ["p", "q"].map(|name| pod(name, &[(RESOURCE, 1)]));
        kubelet.admit(&p).await.expect("admitted");
        send_list(&kubelet, &plugin, &["b@0"]).await;
        for _ in 0..2 {
            // Only the pod's own devices are looked up.
            kubelet.admit(&q).await.expect("admitted");
        }
        assert_eq!(
            *kubelet.crashed().borrow(),
            None,
            "the kubelet must not crash before it admits the pod again"
        );
        let again = kubelet.admit(&p).await;
        assert_eq!(again.is_err(), crashes, "{again:?}");
        drop(plugin);

        let kubelet = kubelet.restart().await.expect("a kubelet");
        let _plugin = FakePlugin::serve(dir.path(), "p.sock", &["b@0"]);
        let registered = register(dir.path(), RESOURCE, "p.sock").await;
        if crashes {
            let mut crashed = kubelet.crashed();
            let crash = crashed.wait_for(Option::is_some);
            let crash = within("the crash", crash).await.expect("a kubelet").clone();
            assert!(
                crash
                    .expect("a crash")
                    .to_string()
                    .contains("removed device a from its list while pod p held it")
            );
        } else {
            registered.expect("registered");
            wait_for_node(&kubelet, RESOURCE, 1, 1).await;
            assert_alive(&kubelet);
            kubelet.delete("p");
        }
        kubelet.stop().await;
    }
}

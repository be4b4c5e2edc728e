//! Tests of pod admission, rejection and PreStartContainer.

use std::time::Duration;

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::{
    held, kubelet, newer_kubelet, plugin_dir, pod, strict_kubelet, wait_for_node, within,
};
use kubelet_sim::AdmissionError;
use simple_device_plugin::api::v1beta1::DevicePluginOptions;

const RESOURCE: &str = "example.com/thing";

#[tokio::test]
async fn admits_a_pod_without_devices_of_a_resource_that_was_never_registered() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let admitted = kubelet
        .admit(&pod("p", &[("example.com/unregistered", 1)]))
        .await;
    assert_eq!(admitted, Ok(Vec::new()));
}

#[tokio::test]
async fn calls_pre_start_container_if_the_plugin_requires_it() {
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
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    assert!(plugin.started.borrow().is_empty());
    kubelet.start_containers("p").await.expect("started");
    assert_eq!(*plugin.started.borrow(), [["a"]]);
}

#[tokio::test]
async fn rejects_a_pod_whose_devices_are_on_two_numa_nodes_with_topology_affinity_error() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let _a = FakePlugin::serve(dir.path(), "a.sock", &["a0@0", "a1@1"]);
    let _b = FakePlugin::serve(dir.path(), "b.sock", &["b1@1"]);
    let _c = FakePlugin::serve(dir.path(), "c.sock", &["c"]);
    for name in ["a", "b", "c"] {
        let resource = format!("example.com/{name}");
        register(dir.path(), &resource, &format!("{name}.sock"))
            .await
            .expect("registered");
    }
    wait_for_node(&kubelet, "example.com/a", 2, 2).await;
    wait_for_node(&kubelet, "example.com/b", 1, 1).await;
    wait_for_node(&kubelet, "example.com/c", 1, 1).await;
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
        .expect("NUMA node 1 has a1 and b1, and c has no topology");
    assert_eq!(held(&kubelet, "all"), ["a1", "b1", "c"]);
    let refused = kubelet
        .admit(&pod("more", &[("example.com/a", 1), ("example.com/b", 1)]))
        .await;
    assert_eq!(
        refused.expect_err("b1 is in use").reason(),
        "TopologyAffinityError"
    );
}

/// The clock is paused while the kubelet waits for the plugin, so that it skips to the next timer.
#[tokio::test]
async fn a_newer_kubelet_cancels_allocate_after_the_admission_timeout() {
    let dir = plugin_dir();
    let kubelet = newer_kubelet(dir.path());
    let mut plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    plugin.answers.send_replace(false);
    let p = pod("p", &[(RESOURCE, 1)]);
    let skip_time = async {
        let called = plugin.allocates.wait_for(|count| *count == 1);
        within("Allocate", called).await.expect("a plugin");
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(31)).await;
        tokio::time::resume();
        let canceled = plugin.canceled.wait_for(|count| *count == 1);
        within("the cancellation", canceled)
            .await
            .expect("a plugin");
        plugin.answers.send_replace(true);
    };
    let (refused, ()) = tokio::join!(kubelet.admit(&p), skip_time);
    let error = refused.expect_err("a timeout");
    let expected = AdmissionError::TimedOut {
        resource: RESOURCE.to_owned(),
        rpc: "Allocate",
    };
    assert_eq!(
        (error.reason(), error),
        ("UnexpectedAdmissionError", expected)
    );
    kubelet.admit(&p).await.expect("the device is free");
}

#[tokio::test]
async fn the_admission_timeout_is_that_of_all_calls_together() {
    let dir = plugin_dir();
    let kubelet = newer_kubelet(dir.path());
    let plugin = async |resource, endpoint| {
        let plugin = FakePlugin::serve(dir.path(), endpoint, &["a"]);
        let registered = register(dir.path(), resource, endpoint).await;
        registered.expect("registered");
        wait_for_node(&kubelet, resource, 1, 1).await;
        plugin.answers.send_replace(false);
        plugin
    };
    let (first, second) = ("example.com/a", "example.com/b");
    let mut plugins = [
        plugin(first, "a.sock").await,
        plugin(second, "b.sock").await,
    ];
    let p = pod("p", &[(first, 1), (second, 1)]);
    let skip_time = async {
        for plugin in &mut plugins {
            let called = plugin.allocates.wait_for(|count| *count == 1);
            within("Allocate", called).await.expect("a plugin");
            tokio::time::pause();
            tokio::time::sleep(Duration::from_secs(20)).await;
            tokio::time::resume();
            plugin.answers.send_replace(true);
        }
    };
    let (refused, ()) = tokio::join!(kubelet.admit(&p), skip_time);
    let expected = AdmissionError::TimedOut {
        resource: second.to_owned(),
        rpc: "Allocate",
    };
    assert_eq!(refused.expect_err("a timeout"), expected);
}

#[tokio::test]
async fn a_kubelet_1_36_waits_for_allocate_without_a_timeout() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    plugin.answers.send_replace(false);
    let p = pod("p", &[(RESOURCE, 1)]);
    let skip_time = async {
        let called = plugin.allocates.wait_for(|count| *count == 1);
        within("Allocate", called).await.expect("a plugin");
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        tokio::time::resume();
        plugin.answers.send_replace(true);
    };
    let (admitted, ()) = tokio::join!(kubelet.admit(&p), skip_time);
    admitted.expect("admitted");
}

//! The assertions about device plugins in the node e2e tests of Kubernetes, replayed on the simulated kubelet. The
//! numbers are ours; a missing number is an assertion that needs a real kubelet.

use std::time::Duration;

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::process::{Running, running_manager};
use crate::support::{
    Manager, RESOURCE, SOCKET, held, kubelet, kubelet_with, plugin_dir, pod, registrations,
    wait_for_node,
};
use simple_device_plugin::model::device::Health;
use tonic::Status;

#[tokio::test]
async fn t01_capacity_and_allocatable_are_the_number_of_devices() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[("NUMBER_DEVICES", "5")]);
    wait_for_node(&kubelet, RESOURCE, 5, 5).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn t02_a_pod_gets_exactly_its_device() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(
        dir.path(),
        &[("PREFERRED_ALLOCATION", "ordered"), ("ENV_PREFIX", "D")],
    );
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let got = kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    assert_eq!(held(&kubelet, "p"), ["simple-device-n-0"]);
    assert_eq!(got[0].response.envs["D_0"], "/dev/0");
    manager.stop().await;
}

#[tokio::test]
async fn t05_the_plugin_registers_again_after_a_kubelet_restart() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    let before = held(&kubelet, "p");
    let kubelet = kubelet.restart().await.expect("a kubelet");
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    assert_eq!(held(&kubelet, "p"), before);
    manager.stop().await;
}

/// The killed plugin cannot remove its socket.
#[tokio::test]
async fn t07_assignments_are_kept_when_a_killed_plugin_is_started_again() {
    let (dir, kubelet, running) = running_manager(&[]).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    let before = held(&kubelet, "p");
    drop(running);
    wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    assert!(
        dir.path().join(SOCKET).exists(),
        "a killed plugin leaves its socket"
    );
    let _again = Running::manager(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(held(&kubelet, "p"), before);
    kubelet
        .admit(&pod("q", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
}

#[tokio::test]
async fn t08_devices_of_a_stopped_plugin_are_unhealthy_and_gone_after_a_kubelet_restart() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
    wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    let kubelet = kubelet.restart().await.expect("a kubelet");
    let node = kubelet.node().borrow().clone();
    assert_eq!(node[RESOURCE], kubelet_sim::Quantities::default());
}

#[tokio::test]
async fn t10_a_second_pod_gets_another_device_and_devices_of_deleted_pods_are_freed() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    kubelet
        .admit(&pod("one", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    kubelet
        .admit(&pod("two", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    assert_ne!(held(&kubelet, "one"), held(&kubelet, "two"));
    kubelet
        .admit(&pod("three", &[(RESOURCE, 1)]))
        .await
        .expect_err("no device is left");
    let freed = held(&kubelet, "one");
    kubelet.delete("one");
    kubelet
        .admit(&pod("three", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    assert_eq!(held(&kubelet, "three"), freed);
    manager.stop().await;
}

#[tokio::test]
async fn t12_an_options_error_fails_register_and_opens_no_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let refused = Err(Status::internal("no options"));
    let plugin = FakePlugin::with_options(dir.path(), "faulty.sock", &["a"], refused);
    register(dir.path(), RESOURCE, "faulty.sock")
        .await
        .expect_err("a refusal");
    assert!(kubelet.node().borrow().is_empty());
    assert_eq!(*plugin.streams.borrow(), 0);
}

#[tokio::test]
async fn t13_an_unhealthy_device_leaves_allocatable_until_it_is_healthy() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 2)]))
        .await
        .expect("admitted");
    for (health, allocatable) in [(Health::Unhealthy, 1), (Health::Healthy, 2)] {
        let plugin = manager.plugin(RESOURCE);
        plugin
            .set_health("simple-device-n-1", health)
            .expect("this device");
        wait_for_node(&kubelet, RESOURCE, 2, allocatable).await;
        assert_eq!(held(&kubelet, "p").len(), 2);
    }
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn t14_the_kubelet_does_not_reopen_a_failed_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| {
        settings.endpoint_stop_grace_period = Duration::from_secs(1);
    });
    let plugin = FakePlugin::serve(dir.path(), "faulty.sock", &[]);
    plugin
        .list
        .send_replace(Some(Err(Status::internal("no list"))));
    register(dir.path(), RESOURCE, "faulty.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 0, 0).await;
    assert_eq!(*plugin.streams.borrow(), 1);

    let plugin = FakePlugin::serve(dir.path(), "later.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "later.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    plugin
        .list
        .send_replace(Some(Err(Status::internal("no more"))));
    wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    wait_for_node(&kubelet, RESOURCE, 0, 0).await;
    assert_eq!(*plugin.streams.borrow(), 1);
}

#[tokio::test]
async fn t15_capacity_of_a_stopped_plugin_is_kept_for_the_grace_period() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| {
        settings.endpoint_stop_grace_period = Duration::from_secs(1);
    });
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let unhealthy_then_gone = async {
        wait_for_node(&kubelet, RESOURCE, 2, 0).await;
        wait_for_node(&kubelet, RESOURCE, 0, 0).await;
    };
    tokio::join!(manager.stop(), unhealthy_then_gone);
}

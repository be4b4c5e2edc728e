//! What Kubernetes' own node tests assert of a device plugin, by their numbers, on the embedded kubelet.

mod support;

use std::time::Duration;

use simple_device_plugin::kubelet::{Kubelet, Settings};
use support::{Manager, held, kubelet, plugin_dir, pod, registrations, settings, shows};

const RESOURCE: &str = "example.com/simple-device";

#[tokio::test]
async fn t01_capacity_and_allocatable_are_the_number_of_devices() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[("NUMBER_DEVICES", "5")]);
    shows(&kubelet, RESOURCE, 5, 5).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn t05_a_restarted_kubelet_gets_the_resource_again() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    let before = held(&kubelet, "p");
    let kubelet = kubelet.restart().await.expect("a new life");
    shows(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    assert_eq!(held(&kubelet, "p"), before);
    manager.stop().await;
}

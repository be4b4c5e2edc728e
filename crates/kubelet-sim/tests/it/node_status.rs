//! Tests of a kubelet that updates the Node object periodically.

use std::time::Duration;

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::{happens, kubelet_with, plugin_dir, pod, wait_for_node};
use kubelet_sim::{AdmissionError, Event, EventKind, Kubelet, Quantities};
use tokio::sync::broadcast;

const RESOURCE: &str = "example.com/thing";

/// Longer than any test runs, so an update happens only when a test advances the clock.
const PERIOD: Duration = Duration::from_secs(3600);

/// Skips the time until the next update of the Node object.
async fn skip_period() {
    tokio::time::pause();
    tokio::time::sleep(PERIOD).await;
    tokio::time::resume();
}

async fn wait_for_list(events: &mut broadcast::Receiver<Event>) {
    happens(events, RESOURCE, |what| {
        matches!(what, EventKind::Listed { .. })
    })
    .await;
}

async fn wait_for_disconnect(events: &mut broadcast::Receiver<Event>) {
    happens(events, RESOURCE, |what| {
        matches!(what, EventKind::Disconnected { .. })
    })
    .await;
}

fn shown(kubelet: &Kubelet) -> Option<(usize, usize)> {
    let shown: Option<Quantities> = kubelet.node().borrow().get(RESOURCE).copied();
    shown.map(|shown| (shown.capacity, shown.allocatable))
}

#[tokio::test]
async fn a_gap_between_two_updates_of_the_node_is_not_visible() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| settings.node_status_period = PERIOD);
    let mut events = kubelet.events();
    let mut plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_list(&mut events).await;
    assert_eq!(shown(&kubelet), None);
    skip_period().await;
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;

    plugin.end_stream().await;
    wait_for_disconnect(&mut events).await;
    assert_eq!(shown(&kubelet), Some((1, 1)));
    let refused = kubelet.admit(&pod("p", &[(RESOURCE, 1)])).await;
    let unhealthy = AdmissionError::NoHealthyDevice(RESOURCE.to_owned());
    assert_eq!(refused, Err(unhealthy), "the gap affects pods");
    let _successor = FakePlugin::serve(dir.path(), "b.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "b.sock")
        .await
        .expect("registered");
    wait_for_list(&mut events).await;
    assert_eq!(shown(&kubelet), Some((1, 1)));
    skip_period().await;
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
}

#[tokio::test]
async fn the_node_keeps_its_quantities_over_a_kubelet_restart_until_the_next_update() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| settings.node_status_period = PERIOD);
    let mut events = kubelet.events();
    let _plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_list(&mut events).await;
    skip_period().await;
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    let kubelet = kubelet.restart().await.expect("a kubelet");
    assert_eq!(shown(&kubelet), Some((1, 1)));
    skip_period().await;
    wait_for_node(&kubelet, RESOURCE, 0, 0).await;
}

#[tokio::test]
async fn a_resource_without_a_plugin_is_forgotten_when_the_node_is_updated() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| {
        settings.node_status_period = PERIOD;
        settings.endpoint_stop_grace_period = Duration::ZERO;
    });
    let mut events = kubelet.events();
    let mut plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_list(&mut events).await;
    skip_period().await;
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    plugin.end_stream().await;
    wait_for_disconnect(&mut events).await;
    let pod = pod("p", &[(RESOURCE, 1)]);
    let unhealthy = AdmissionError::NoHealthyDevice(RESOURCE.to_owned());
    assert_eq!(kubelet.admit(&pod).await, Err(unhealthy));
    skip_period().await;
    wait_for_node(&kubelet, RESOURCE, 0, 0).await;
    let admitted = kubelet.admit(&pod).await;
    assert_eq!(admitted, Ok(Vec::new()), "the kubelet forgot the resource");
}

//! Two plugins of one resource on a node: the second takes the resource over, the first one says so, and takes the
//! resource back when the second one stops. They never register in turn.

use std::path::Path;
use std::time::Duration;

use crate::support::client::register;
use crate::support::control::{control, run};
use crate::support::fake_plugin::FakePlugin;
use crate::support::process::Running;
use crate::support::running_node::{FOUR, Node};
use crate::support::{
    A, GPU, Manager, ONE, RESOURCE, allocates, kubelet, kubelet_with, newer_kubelet,
    on_another_thread, plugin_dir, pod, registrations, resources, text, until, wait_for_node,
};
use kubelet_sim::{Kubelet, KubeletSettings};
use rustix::process::Signal;
use serde_json::Value;
use simple_device_plugin::plugin::record::Record;
use simple_device_plugin::supervisor::Supervisor;

/// Returns what the first resource of the daemon with the control socket in this directory waits for.
fn waits_for(dir: &Path) -> String {
    let (_, json, _) = run(dir, &["status", "--json"]);
    let status: Value = serde_json::from_str(&json).expect("JSON");
    let waits_for = status["resources"][0]["waitsFor"].as_str();
    waits_for.unwrap_or_default().to_owned()
}

/// Starts a daemon whose device IDs begin with `name`.
fn daemon(dir: &Path, name: &str, devices: &str, control: &str) -> Running {
    let variables = [
        ("PLUGIN_NAME", name),
        ("DEVICE_ID_PREFIX", name),
        ("NUMBER_DEVICES", devices),
        ("CONTROL_SOCKET", control),
    ];
    Running::manager(dir, &variables)
}

async fn takes_back(dir: &Path, kubelet: Kubelet) {
    let control = control(dir);
    let first = daemon(dir, "first", "2", text(&control));
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let second = daemon(dir, "second", "3", "");
    wait_for_node(&kubelet, RESOURCE, 3, 3).await;
    let warning = first.wait_for_log("another plugin has registered the resource");
    assert!(warning.contains("device=\"second-n-"), "{warning}");
    let reason = "waits for another plugin of the resource to stop: the kubelet has its devices, for example second-n-";
    until("the reason in the status", || {
        waits_for(dir).starts_with(reason)
    })
    .await;
    // Neither of them registers again. The first one asks the kubelet several times in this time.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 2);
    wait_for_node(&kubelet, RESOURCE, 3, 3).await;
    second.signal(Signal::TERM);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    until("a ready resource", || waits_for(dir).is_empty()).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 3);
    let warnings = first.stderr.try_iter();
    let repeated = warnings.filter(|line| line.contains("another plugin has registered"));
    assert_eq!(repeated.count(), 0);
}

#[tokio::test]
async fn takes_the_resource_back_when_the_second_daemon_stops() {
    let dir = plugin_dir();
    let kubelet = on_another_thread(|| kubelet(dir.path()));
    takes_back(dir.path(), kubelet).await;
}

#[tokio::test]
async fn takes_the_resource_back_with_a_newer_kubelet() {
    let dir = plugin_dir();
    let kubelet = on_another_thread(|| newer_kubelet(dir.path()));
    takes_back(dir.path(), kubelet).await;
}

/// Without the pod-resources API, the next checkpoint shows it: here, when the grace period of the other plugin ends.
#[tokio::test]
async fn without_the_api_takes_the_resource_back_when_the_checkpoint_lacks_it() {
    let dir = plugin_dir();
    let kubelet = kubelet_with(dir.path(), |settings| {
        settings.endpoint_stop_grace_period = Duration::from_secs(1);
    });
    let manager = Manager::run(Supervisor::new(resources(ONE), dir.path()));
    wait_for_node(&kubelet, A, 2, 2).await;
    let mut other = FakePlugin::serve(dir.path(), "other.sock", &["x"]);
    register(dir.path(), A, "other.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, A, 1, 1).await;
    manager
        .record(A, "the other plugin", Record::is_taken_over)
        .await;
    other.end_stream().await;
    drop(other);
    wait_for_node(&kubelet, A, 2, 2).await;
    manager.stop().await;
}

/// The other plugin registers while a fault suspends the daemon's registration.
#[tokio::test]
async fn does_not_register_again_while_another_plugin_serves_the_resource() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    // After this time the kubelet has certainly received the list.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (code, _, stderr) = node.run(&["fault", "registration", GPU]);
    assert_eq!(code, Some(0), "{stderr}");
    node.wait_for_node(4, 0).await;
    let dir = node.dir.path();
    let mut other = FakePlugin::serve(dir, "other.sock", &["x"]);
    register(dir, GPU, "other.sock").await.expect("registered");
    node.wait_for_node(1, 1).await;
    assert_eq!(node.run(&["fault", "clear", GPU]).0, Some(0));
    let reason = "waits for another plugin of the resource to stop: another plugin serves the resource now, for example device x; stop it, or set a different RESOURCE_NAME";
    until("the reason in the status", || waits_for(dir) == reason).await;
    assert_eq!(registrations(&node.kubelet, GPU), 2);
    other.end_stream().await;
    node.wait_for_node(4, 4).await;
    node.admits("p").await.expect("admitted");
    assert_eq!(registrations(&node.kubelet, GPU), 3);
}

/// A list of the first plugin would replace the list of the second one, which the kubelet still calls.
#[tokio::test]
async fn sends_no_list_while_another_plugin_serves_the_resource() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    let mut other = FakePlugin::serve(node.dir.path(), "other.sock", &["x"]);
    register(node.dir.path(), GPU, "other.sock")
        .await
        .expect("registered");
    node.wait_for_node(1, 1).await;
    node.manager
        .wait_for_log("another plugin has registered the resource");
    assert_eq!(node.run(&["health", GPU, "0", "unhealthy"]).0, Some(0));
    assert_eq!(node.run(&["scale", GPU, "6"]).0, Some(0));
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.wait_for_node(1, 1).await;
    node.admits("p").await.expect("admitted");
    assert_eq!(*other.allocates.borrow(), 1);
    other.end_stream().await;
    // The pod still holds x, so the list has it, too.
    node.wait_for_node(7, 5).await;
}

/// The kubelet calls the plugin that registered last, but has the list that it received last.
#[tokio::test]
async fn sends_its_list_again_when_the_kubelet_asks_for_a_device_of_another_plugin() {
    let dir = plugin_dir();
    let kubelet = on_another_thread(|| kubelet(dir.path()));
    let other = FakePlugin::serve(dir.path(), "other.sock", &["x"]);
    register(dir.path(), RESOURCE, "other.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    let control = control(dir.path());
    let manager = daemon(dir.path(), "gpu", "4", text(&control));
    wait_for_node(&kubelet, RESOURCE, 4, 4).await;
    other.list.send_replace(Some(Ok(vec!["y".to_owned()])));
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    manager.wait_for_log("another plugin has registered the resource");
    let error = kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("unknown device y"), "{error}");
    wait_for_node(&kubelet, RESOURCE, 4, 4).await;
    until("a ready resource", || waits_for(dir.path()).is_empty()).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 2);
}

/// Otherwise a takeover that was detected wrongly, for example in a checkpoint that the kubelet could not replace, would
/// never end.
#[tokio::test]
async fn sends_its_list_again_when_the_kubelet_lists_only_its_devices() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    let other = FakePlugin::serve(node.dir.path(), "other.sock", &["x"]);
    register(node.dir.path(), GPU, "other.sock")
        .await
        .expect("registered");
    node.manager
        .wait_for_log("another plugin has registered the resource");
    let own = "gpu-n-0".to_owned();
    other.list.send_replace(Some(Ok(vec![own])));
    node.wait_for_node(4, 4).await;
    node.manager
        .wait_for_log("the kubelet lists this plugin's devices again");
}

#[tokio::test]
async fn takes_the_resource_back_without_a_healthy_device_of_its_own() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    let mut other = FakePlugin::serve(node.dir.path(), "other.sock", &["x"]);
    register(node.dir.path(), GPU, "other.sock")
        .await
        .expect("registered");
    node.manager
        .wait_for_log("another plugin has registered the resource");
    assert_eq!(node.run(&["health", GPU, "all", "unhealthy"]).0, Some(0));
    // The pod-resources API lists the other plugin's device meanwhile.
    tokio::time::sleep(Duration::from_secs(3)).await;
    other.end_stream().await;
    node.wait_for_node(4, 0).await;
    assert_eq!(node.run(&["reset", GPU]).0, Some(0));
    node.wait_for_node(4, 4).await;
    node.admits("p").await.expect("admitted");
}

/// The kubelet does not write its checkpoint when it disconnects a plugin, so the checkpoint still lists the daemon's
/// devices.
#[tokio::test]
async fn registers_again_after_another_plugin_stopped_before_its_first_list() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let supervisor = Supervisor::new(resources(ONE), dir.path())
        .with_pod_resources_socket(Some(
            KubeletSettings::new(dir.path()).pod_resources_socket(),
        ))
        .with_probe_interval(Duration::from_secs(1));
    let manager = Manager::run(supervisor);
    wait_for_node(&kubelet, A, 2, 2).await;
    let other = FakePlugin::serve(dir.path(), "other.sock", &["x"]);
    other.list.send_replace(None);
    register(dir.path(), A, "other.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, A, 2, 0).await;
    wait_for_node(&kubelet, A, 2, 2).await;
    kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
    manager.stop().await;
}

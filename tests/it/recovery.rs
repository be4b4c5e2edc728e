//! A plugin registers again after a kubelet restart, a lost stream, or a restart of the daemon.

use crate::support::process::Running;
use crate::support::{
    Manager, RESOURCE, SOCKET, allocates, kubelet, late_kubelet, new_socket, newer_kubelet,
    plugin_dir, pod, registrations, until, wait_for_node,
};
use simple_device_plugin::node::checkpoint_file;

#[tokio::test]
async fn registers_again_after_two_kubelet_restarts_in_a_row() {
    let dir = plugin_dir();
    let first = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&first, RESOURCE, 2, 2).await;
    let second = first.restart().await.expect("the first restart");
    let third = second.restart().await.expect("the second restart");
    wait_for_node(&third, RESOURCE, 2, 2).await;
    allocates(&third).await;
    assert_eq!(registrations(&third, RESOURCE), 1);
    manager.stop().await;
}

/// This kubelet marks the resource as stopped 300 ms after it closed the connection, even if the plugin has registered
/// again by then. So the plugin settles for longer than that.
#[tokio::test]
async fn registers_again_after_a_lost_stream_and_the_late_disconnect() {
    let dir = plugin_dir();
    let kubelet = late_kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    for count in 2..4 {
        kubelet.disconnect_plugin(RESOURCE);
        wait_for_node(&kubelet, RESOURCE, 2, 0).await;
        wait_for_node(&kubelet, RESOURCE, 2, 2).await;
        allocates(&kubelet).await;
        assert_eq!(registrations(&kubelet, RESOURCE), count);
    }
    manager.stop().await;
}

/// The first manager removes its socket, so the second manager learns of its predecessor only from the kubelet's
/// checkpoint.
#[tokio::test]
async fn a_new_manager_is_not_affected_by_the_late_disconnect_of_its_predecessor() {
    let dir = plugin_dir();
    let kubelet = late_kubelet(dir.path());
    let first = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let checkpoint = dir.path().join(checkpoint_file::FILE);
    until("the checkpoint", || checkpoint.exists()).await;
    first.stop().await;
    let second = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 2);
    second.stop().await;
}

/// A stale socket means that the kubelet may not yet have marked the resource as stopped.
#[tokio::test]
async fn a_plugin_started_after_a_kill_waits_for_the_late_disconnect() {
    let dir = plugin_dir();
    let kubelet = late_kubelet(dir.path());
    let first = Running::manager(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    drop(first);
    let _second = Running::manager(dir.path(), &[("NUMBER_DEVICES", "3")]);
    wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    wait_for_node(&kubelet, RESOURCE, 3, 3).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
}

#[tokio::test]
async fn registers_again_with_a_newer_kubelet() {
    let dir = plugin_dir();
    let kubelet = newer_kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    kubelet.disconnect_plugin(RESOURCE);
    wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    let kubelet = kubelet.restart().await.expect("a kubelet restart");
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_metadata_change_of_kubelet_sock_does_not_end_the_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.path().join("kubelet.sock"), private).expect("a chmod");
    // inotify events are ordered: once the plugin's socket is back, the plugin has also seen the chmod.
    let socket = dir.path().join(SOCKET);
    std::fs::remove_file(&socket).expect("our socket");
    new_socket(&socket, None).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

//! A plugin registers again after the kubelet restarted, the stream ended or its process was killed.

use crate::support::process::Running;
use crate::support::{
    Manager, RESOURCE, SOCKET, allocates, kubelet, late_kubelet, new_socket, newer_kubelet,
    plugin_dir, pod, registrations, shows, until,
};
use simple_device_plugin::node::checkpoint_file;

#[tokio::test]
async fn two_restarts_in_a_row() {
    let dir = plugin_dir();
    let first = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&first, RESOURCE, 2, 2).await;
    let second = first.restart().await.expect("a second life");
    let third = second.restart().await.expect("a third life");
    shows(&third, RESOURCE, 2, 2).await;
    allocates(&third).await;
    assert_eq!(registrations(&third, RESOURCE), 1);
    manager.stop().await;
}

/// This kubelet marks the resource as stopped 300 ms after it closed the connection, even if the plugin registered
/// again before then. So the plugin waits longer than that.
#[tokio::test]
async fn a_lost_stream_is_replaced_after_the_kubelets_late_leave() {
    let dir = plugin_dir();
    let kubelet = late_kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    for lives in 2..4 {
        kubelet.disconnect_plugin(RESOURCE);
        shows(&kubelet, RESOURCE, 2, 0).await;
        shows(&kubelet, RESOURCE, 2, 2).await;
        allocates(&kubelet).await;
        assert_eq!(registrations(&kubelet, RESOURCE), lives);
    }
    manager.stop().await;
}

/// The first manager removed its socket, so only the kubelet's checkpoint tells the second one that it had a
/// predecessor.
#[tokio::test]
async fn a_successor_is_not_hit_by_the_late_leave_of_its_predecessor() {
    let dir = plugin_dir();
    let kubelet = late_kubelet(dir.path());
    let first = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let checkpoint = dir.path().join(checkpoint_file::FILE);
    until("the checkpoint", || checkpoint.exists()).await;
    first.stop().await;
    let second = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 0).await;
    shows(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 2);
    second.stop().await;
}

/// A plugin that was killed finds its stale socket: the kubelet may not have marked the resource as stopped yet.
#[tokio::test]
async fn a_killed_plugin_waits_for_the_kubelets_late_leave() {
    let dir = plugin_dir();
    let kubelet = late_kubelet(dir.path());
    let first = Running::manager(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    drop(first);
    let _again = Running::manager(dir.path(), &[("NUMBER_DEVICES", "3")]);
    shows(&kubelet, RESOURCE, 2, 0).await;
    shows(&kubelet, RESOURCE, 3, 3).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
}

#[tokio::test]
async fn a_newer_kubelet_gets_the_resource_back_as_well() {
    let dir = plugin_dir();
    let kubelet = newer_kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    kubelet.disconnect_plugin(RESOURCE);
    shows(&kubelet, RESOURCE, 2, 0).await;
    shows(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    let kubelet = kubelet.restart().await.expect("a new life");
    shows(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
}

/// A change of the metadata of kubelet.sock, such as its SELinux label, ends no stream.
#[tokio::test]
async fn a_relabelled_kubelet_sock_ends_no_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.path().join("kubelet.sock"), private).expect("a chmod");
    // inotify events come in order: when the socket is back, the plugin has seen the chmod too.
    let socket = dir.path().join(SOCKET);
    std::fs::remove_file(&socket).expect("our socket");
    new_socket(&socket, None).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

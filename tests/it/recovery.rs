//! A plugin that lost its kubelet, its stream or its process is registered again.

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

/// The kubelet takes leave of the resource 300 ms after it closed the connection; a plugin that
/// registers before then is taken for stopped for ever.
#[tokio::test]
async fn a_lost_stream_is_replaced_after_the_kubelets_late_leave() {
    let dir = plugin_dir();
    let kubelet = late_kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    for lives in 2..4 {
        kubelet.lose_stream(RESOURCE);
        shows(&kubelet, RESOURCE, 2, 0).await;
        shows(&kubelet, RESOURCE, 2, 2).await;
        allocates(&kubelet).await;
        assert_eq!(registrations(&kubelet, RESOURCE), lives);
    }
    manager.stop().await;
}

/// Its predecessor left in order, so there is no stale socket to tell of it; but the kubelet's checkpoint does.
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

/// Killed and started at once, it finds its socket stale: the kubelet may be taking leave of it still.
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
    kubelet.lose_stream(RESOURCE);
    shows(&kubelet, RESOURCE, 2, 0).await;
    shows(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    let kubelet = kubelet.restart().await.expect("a new life");
    shows(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
}

/// A change of kubelet.sock is only noted: whoever relabels it ends no stream.
#[tokio::test]
async fn a_relabelled_kubelet_sock_ends_no_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.path().join("kubelet.sock"), private).expect("a chmod");
    // Events come in order: when the socket is back, the change was seen as well.
    let socket = dir.path().join(SOCKET);
    std::fs::remove_file(&socket).expect("our socket");
    new_socket(&socket, None).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

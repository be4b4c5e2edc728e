//! A plugin's socket that is deleted, stale, in use by another process, or blocked by a directory.

use std::os::unix::net::UnixListener as StdListener;

use crate::support::client::plugin_client;
use crate::support::process::{Running, running_manager};
use crate::support::{
    Manager, RESOURCE, SOCKET, allocates, held, kubelet, new_socket, plugin_dir, pod,
    registrations, sockets, wait_for_node,
};
use simple_device_plugin::api::v1beta1;

#[tokio::test]
async fn a_deleted_socket_is_bound_again_while_the_stream_stays_open() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let socket = dir.path().join(SOCKET);
    for _ in 0..3 {
        std::fs::remove_file(&socket).expect("our socket");
        new_socket(&socket, None).await;
    }
    let mut client = plugin_client(&socket).await;
    client
        .get_device_plugin_options(v1beta1::Empty {})
        .await
        .expect("an answer");
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn a_second_manager_waits_until_the_first_releases_the_socket() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let first = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let second = Manager::start(dir.path(), &[("NUMBER_DEVICES", "3")]);
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    first.stop().await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    wait_for_node(&kubelet, RESOURCE, 3, 3).await;
    allocates(&kubelet).await;
    assert_eq!(held(&kubelet, "p").len(), 1);
    second.stop().await;
}

#[tokio::test]
async fn only_one_of_two_managers_that_start_together_registers() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let managers = [
        Manager::start(dir.path(), &[]),
        Manager::start(dir.path(), &[]),
    ];
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    for manager in managers {
        manager.stop().await;
    }
}

#[tokio::test]
async fn a_second_process_logs_the_conflict_and_registers_after_the_first_ends() {
    let (dir, kubelet, first) = running_manager(&[]).await;
    let second = Running::manager(dir.path(), &[]);
    let logged = tokio::task::spawn_blocking(move || {
        let line = second.wait_for_log("set a different PLUGIN_NAME");
        (line, second)
    });
    let (line, _second) = logged.await.expect("the log line");
    assert!(line.contains(RESOURCE), "{line}");
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    drop(first);
    wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
}

#[tokio::test]
async fn a_stale_socket_is_removed() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    drop(StdListener::bind(dir.path().join(SOCKET)).expect("a socket"));
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
}

#[tokio::test]
async fn a_resource_that_cannot_bind_does_not_affect_the_others() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    // A directory has the name of the second resource's socket, so the plugin cannot bind the socket.
    std::fs::create_dir(dir.path().join("b.sock")).expect("a directory");
    let variables = [
        ("RESOURCE_NAME", "x.io/a,x.io/b,x.io/c"),
        ("PLUGIN_NAME", "a,b,c"),
    ];
    let manager = Manager::start(dir.path(), &variables);
    wait_for_node(&kubelet, "x.io/a", 2, 2).await;
    wait_for_node(&kubelet, "x.io/c", 2, 2).await;
    assert_eq!(registrations(&kubelet, "x.io/b"), 0);
    std::fs::remove_dir(dir.path().join("b.sock")).expect("still there");
    wait_for_node(&kubelet, "x.io/b", 2, 2).await;
    assert_eq!(registrations(&kubelet, "x.io/a"), 1);
    manager.stop().await;
}

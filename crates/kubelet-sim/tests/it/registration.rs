//! Tests of Register and ListAndWatch: rejected registrations, and the effects of a stream that ends late.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::{
    kubelet, late_kubelet, newer_kubelet, plugin_dir, pod, sockets, wait_for_node,
};
use kubelet_sim::{AdmissionError, Kubelet};
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;

const RESOURCE: &str = "example.com/thing";

#[tokio::test]
async fn removes_sockets_when_it_starts_and_keeps_its_own_when_it_stops() {
    let dir = plugin_dir();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("old.sock")).expect("a socket"));
    std::fs::write(dir.path().join("file"), "kept").expect("a file");
    std::fs::create_dir(dir.path().join("folder")).expect("a folder");
    let kubelet = kubelet(dir.path());
    assert!(sockets(dir.path()).is_empty());
    kubelet.stop().await;
    for kept in ["kubelet.sock", "file", "folder"] {
        assert!(dir.path().join(kept).exists(), "{kept}");
    }
}

/// Returns the answer to Register from a thread of the user `nobody`, which opens the socket like any other file.
fn register_as_nobody(dir: &Path) -> Result<(), tonic::Status> {
    let dir = dir.to_owned();
    let thread = std::thread::spawn(move || {
        let nobody = Uid::from_raw(65534);
        set_thread_res_uid(nobody, nobody, nobody).expect("root may change the user");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(register(&dir, RESOURCE, "a.sock"))
    });
    thread.join().expect("no panic")
}

/// Only root can change the user, so another user cannot run this test.
#[tokio::test]
async fn a_plugin_of_another_user_that_can_open_the_socket_may_register() {
    if !geteuid().is_root() {
        return;
    }
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let _plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    for path in [dir.path().to_owned(), dir.path().join("kubelet.sock")] {
        std::fs::set_permissions(path, Permissions::from_mode(0o777)).expect("the owner");
    }
    let dir = dir.path().to_owned();
    let registered = tokio::task::spawn_blocking(move || register_as_nobody(&dir)).await;
    registered.expect("no panic").expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
}

#[tokio::test]
async fn rejects_invalid_resource_names() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let _plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    for name in [
        "thing",
        "kubernetes.io/thing",
        "requests.example.com/thing",
        "Upper.com/thing",
    ] {
        let refused = register(dir.path(), name, "a.sock").await.expect_err(name);
        assert_eq!(refused.code(), tonic::Code::Unknown);
    }
    assert!(kubelet.node().borrow().is_empty());
}

#[tokio::test]
async fn rejects_a_plugin_that_it_cannot_dial() {
    let dir = plugin_dir();
    let _kubelet = kubelet(dir.path());
    let refused = register(dir.path(), RESOURCE, "missing.sock")
        .await
        .expect_err("registered");
    assert!(refused.message().contains("failed to dial"), "{refused}");
}

#[tokio::test]
async fn the_end_of_an_old_stream_disconnects_the_successor() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut old = FakePlugin::serve(dir.path(), "old.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "old.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let _new = FakePlugin::serve(dir.path(), "new.sock", &["a", "b", "c"]);
    register(dir.path(), RESOURCE, "new.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 3, 3).await;
    old.end_stream().await;
    wait_for_node(&kubelet, RESOURCE, 3, 0).await;
}

#[tokio::test]
async fn a_registration_before_the_late_disconnect_is_stopped_although_its_devices_are_healthy() {
    let dir = plugin_dir();
    let kubelet = late_kubelet(dir.path());
    let mut old = FakePlugin::serve(dir.path(), "old.sock", &["a"]);
    register(dir.path(), RESOURCE, "old.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    let new = FakePlugin::serve(dir.path(), "new.sock", &["a", "b"]);
    old.end_stream().await;
    // The successor registers too early: the kubelet has not marked the endpoint as stopped yet.
    register(dir.path(), RESOURCE, "new.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    new.list
        .send_replace(Some(Ok(vec!["a".to_owned(), "c".to_owned()])));
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let refused = kubelet.admit(&pod("p", &[(RESOURCE, 1)])).await;
    assert_eq!(
        refused.err(),
        Some(AdmissionError::Stopped(RESOURCE.to_owned()))
    );
}

/// Connects and disconnects another plugin. When that is done, the kubelet has also processed all earlier events.
async fn connect_and_disconnect_another(kubelet: &Kubelet, dir: &Path) {
    let mut other = FakePlugin::serve(dir, "other.sock", &["x"]);
    register(dir, "example.com/other", "other.sock")
        .await
        .expect("registered");
    wait_for_node(kubelet, "example.com/other", 1, 1).await;
    other.end_stream().await;
    wait_for_node(kubelet, "example.com/other", 1, 0).await;
}

#[tokio::test]
async fn after_a_failed_second_registration_the_end_of_the_stream_is_not_noticed() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut plugin = FakePlugin::serve(dir.path(), "a.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    register(dir.path(), RESOURCE, "missing.sock")
        .await
        .expect_err("registered");
    plugin.end_stream().await;
    connect_and_disconnect_another(&kubelet, dir.path()).await;
    // The kubelet still shows the devices as healthy, although the plugin disconnected.
    let shown = kubelet.node().borrow()[RESOURCE];
    assert_eq!((shown.capacity, shown.allocatable), (2, 2));
}

#[tokio::test]
async fn a_newer_kubelet_ignores_a_second_registration_of_the_same_socket() {
    let dir = plugin_dir();
    let kubelet = newer_kubelet(dir.path());
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("ignored");
    connect_and_disconnect_another(&kubelet, dir.path()).await;
    assert_eq!(*plugin.streams.borrow(), 1);
}

#[tokio::test]
async fn a_list_above_4_mib_ends_the_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    let ids = (0..70_000).map(|i| format!("{i:060}")).collect();
    plugin.list.send_replace(Some(Ok(ids)));
    wait_for_node(&kubelet, RESOURCE, 1, 0).await;
}

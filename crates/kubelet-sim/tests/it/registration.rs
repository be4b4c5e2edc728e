//! Register and ListAndWatch as in a real kubelet: what it rejects, and what the late end of a stream does.

use std::path::Path;

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::{kubelet, late_kubelet, newer_kubelet, plugin_dir, pod, shows, sockets};
use kubelet_sim::{AdmissionError, Kubelet};

const RESOURCE: &str = "example.com/thing";

#[tokio::test]
async fn removes_sockets_at_start_and_leaves_its_own_at_the_end() {
    let dir = plugin_dir();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("old.sock")).expect("a socket"));
    std::fs::write(dir.path().join("file"), "stays").expect("a file");
    std::fs::create_dir(dir.path().join("folder")).expect("a folder");
    let kubelet = kubelet(dir.path());
    assert!(sockets(dir.path()).is_empty());
    kubelet.stop().await;
    for stays in ["kubelet.sock", "file", "folder"] {
        assert!(dir.path().join(stays).exists(), "{stays}");
    }
}

#[tokio::test]
async fn refuses_names_that_a_kubelet_refuses() {
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
async fn dials_for_its_time_and_then_refuses() {
    let dir = plugin_dir();
    let _kubelet = kubelet(dir.path());
    let refused = register(dir.path(), RESOURCE, "nobody.sock")
        .await
        .expect_err("registered");
    assert!(refused.message().contains("failed to dial"), "{refused}");
}

#[tokio::test]
async fn an_old_streams_end_disconnects_the_successor() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut old = FakePlugin::serve(dir.path(), "old.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "old.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 2, 2).await;
    let _new = FakePlugin::serve(dir.path(), "new.sock", &["a", "b", "c"]);
    register(dir.path(), RESOURCE, "new.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 3, 3).await;
    old.end_stream().await;
    shows(&kubelet, RESOURCE, 3, 0).await;
}

#[tokio::test]
async fn a_registration_before_the_late_leave_is_stopped_while_all_looks_well() {
    let dir = plugin_dir();
    let kubelet = late_kubelet(dir.path());
    let mut old = FakePlugin::serve(dir.path(), "old.sock", &["a"]);
    register(dir.path(), RESOURCE, "old.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 1, 1).await;
    let new = FakePlugin::serve(dir.path(), "new.sock", &["a", "b"]);
    old.end_stream().await;
    // The successor registers too early: the kubelet has not marked the resource as stopped yet.
    register(dir.path(), RESOURCE, "new.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 2, 2).await;
    shows(&kubelet, RESOURCE, 2, 0).await;
    new.list
        .send_replace(Some(Ok(vec!["a".to_owned(), "c".to_owned()])));
    shows(&kubelet, RESOURCE, 2, 2).await;
    let refused = kubelet.admit(&pod("p", &[(RESOURCE, 1)])).await;
    assert_eq!(
        refused.err(),
        Some(AdmissionError::Stopped(RESOURCE.to_owned()))
    );
}

/// Another plugin comes and goes, after which the kubelet has done everything that it had to do before.
async fn another_comes_and_goes(kubelet: &Kubelet, dir: &Path) {
    let mut other = FakePlugin::serve(dir, "other.sock", &["x"]);
    register(dir, "example.com/other", "other.sock")
        .await
        .expect("registered");
    shows(kubelet, "example.com/other", 1, 1).await;
    other.end_stream().await;
    shows(kubelet, "example.com/other", 1, 0).await;
}

#[tokio::test]
async fn a_failed_second_registration_makes_it_blind() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let mut plugin = FakePlugin::serve(dir.path(), "a.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 2, 2).await;
    register(dir.path(), RESOURCE, "nobody.sock")
        .await
        .expect_err("registered");
    plugin.end_stream().await;
    another_comes_and_goes(&kubelet, dir.path()).await;
    // The kubelet still shows the devices, although the plugin is gone.
    let shown = kubelet.node().borrow()[RESOURCE];
    assert_eq!((shown.capacity, shown.allocatable), (2, 2));
}

#[tokio::test]
async fn a_newer_one_ignores_the_same_socket_again() {
    let dir = plugin_dir();
    let kubelet = newer_kubelet(dir.path());
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 1, 1).await;
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("ignored");
    another_comes_and_goes(&kubelet, dir.path()).await;
    assert_eq!(*plugin.streams.borrow(), 1);
}

#[tokio::test]
async fn a_list_over_4_mib_breaks_the_stream() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["a"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    shows(&kubelet, RESOURCE, 1, 1).await;
    let ids = (0..70_000).map(|i| format!("{i:060}")).collect();
    plugin.list.send_replace(Some(Ok(ids)));
    shows(&kubelet, RESOURCE, 1, 0).await;
}

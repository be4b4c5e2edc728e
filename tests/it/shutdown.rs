//! The daemon shuts down on a signal and when the device plugin directory is replaced.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use crate::support::client::plugin_client;
use crate::support::fake_kubelet::{Answer, FakeKubelet};
use crate::support::process::{Running, running_manager};
use crate::support::{
    Manager, RESOURCE, SOCKET, kubelet, plugin_dir, sockets, wait_for_node, within,
};
use simple_device_plugin::api::{allocate_request, v1beta1};
use simple_device_plugin::node::watcher::DirReplaced;

#[tokio::test]
async fn a_stopping_plugin_ends_the_stream_with_ok_and_still_allocates() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let mut client = plugin_client(&dir.path().join(SOCKET)).await;
    let stream = client
        .list_and_watch(v1beta1::Empty {})
        .await
        .expect("a stream");
    let mut stream = stream.into_inner();
    let list = stream.message().await.expect("no error").expect("a list");
    assert_eq!(list.devices.len(), 2);
    let allocate_while_stopping = async {
        let end = within("the end of the stream", stream.message()).await;
        assert!(matches!(end, Ok(None)), "{end:?}");
        let request = allocate_request(vec!["simple-device-n-1".to_owned()]);
        client
            .allocate(request)
            .await
            .expect("an answer while stopping");
        drop(client);
    };
    tokio::join!(manager.stop(), allocate_while_stopping);
}

#[tokio::test]
async fn stops_while_the_kubelet_restarts() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let (kubelet, ()) = tokio::join!(kubelet.restart(), manager.stop());
    kubelet.expect("a kubelet");
    assert!(sockets(dir.path()).is_empty());
}

#[tokio::test]
async fn sigterm_stops_the_daemon_gracefully_and_sighup_does_not() {
    let (dir, kubelet, running) = running_manager(&[]).await;
    running.signal(rustix::process::Signal::HUP);
    running.wait_for_log("SIGHUP");
    running.signal(rustix::process::Signal::TERM);
    wait_for_node(&kubelet, RESOURCE, 2, 0).await;
    let code = tokio::task::spawn_blocking(|| running.wait().code())
        .await
        .expect("no panic");
    assert_eq!(code, Some(0));
    assert!(sockets(dir.path()).is_empty());
}

#[tokio::test]
async fn a_second_signal_aborts() {
    use std::os::unix::process::ExitStatusExt;
    let dir = plugin_dir();
    let kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let running = Running::manager(dir.path(), &[]);
    let mut streaming = kubelet.streaming.clone();
    let streams = streaming.wait_for(|streams| !streams.is_empty());
    drop(within("a stream", streams).await.expect("a kubelet"));
    // This kubelet keeps its connection open, so a graceful stop takes 2 s.
    let ended = tokio::task::spawn_blocking(move || {
        running.signal(rustix::process::Signal::TERM);
        running.wait_for_log("SIGTERM: stopping");
        running.signal(rustix::process::Signal::INT);
        running.wait()
    });
    let status = ended.await.expect("no panic");
    assert_eq!(status.signal(), Some(2), "{status}");
}

/// In a container, the mount still shows the removed directory. Here, a file descriptor does.
#[tokio::test]
async fn a_replaced_plugin_directory_stops_the_supervisor() {
    let parent = plugin_dir();
    let dir = parent.path().join("device-plugins");
    let kubelet = kubelet(&dir);
    let open = File::open(&dir).expect("the directory");
    let mounted = format!("/proc/self/fd/{}", open.as_raw_fd());
    let manager = Manager::start(Path::new(&mounted), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    std::fs::remove_dir_all(&dir).expect("the directory");
    assert_eq!(manager.ended().await, Err(DirReplaced));
}

#[tokio::test]
async fn a_replaced_plugin_directory_ends_the_daemon_with_exit_code_75() {
    let parent = plugin_dir();
    let dir = parent.path().join("device-plugins");
    let kubelet = kubelet(&dir);
    let open = File::open(&dir).expect("the directory");
    // In a container, the mount still shows the removed directory. Here, a file descriptor does.
    let mounted = format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd());
    let running = Running::manager(Path::new(&mounted), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    std::fs::remove_dir_all(&dir).expect("the directory");
    let status = tokio::task::spawn_blocking(|| {
        running.wait_for_log("ERROR the device plugin directory was replaced");
        running.wait()
    });
    assert_eq!(status.await.expect("no panic").code(), Some(75));
}

//! A plugin waits for the kubelet, registers, and retries failed registrations.

use std::os::unix::net::UnixListener as StdListener;

use crate::support::client::plugin_client;
use crate::support::fake_kubelet::{Answer, FakeKubelet};
use crate::support::{
    DEADLINE, Manager, RESOURCE, SOCKET, kubelet, new_socket, plugin_dir, registrations, resources,
    sockets, wait_for_node, within,
};
use simple_device_plugin::api::v1beta1;
use simple_device_plugin::supervisor::Supervisor;
use simple_device_plugin::util::file_id::FileVersion;
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn serves_before_it_registers() {
    let dir = plugin_dir();
    let mut kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let manager = Manager::start(dir.path(), &[]);
    let streaming = kubelet
        .streaming
        .wait_for(|streaming| !streaming.is_empty());
    within("the stream", streaming).await.expect("a stream");
    assert_eq!(kubelet.registered.borrow()[RESOURCE], 1);
    manager.stop().await;
}

#[tokio::test]
async fn waits_until_the_directory_and_the_kubelet_exist() {
    let parent = plugin_dir();
    let dir = parent.path().join("device-plugins");
    let manager = Manager::start(&dir, &[]);
    let kubelet = kubelet(&dir);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn waits_for_the_kubelet_if_nothing_listens_on_kubelet_sock() {
    let dir = plugin_dir();
    drop(StdListener::bind(dir.path().join("kubelet.sock")).expect("a socket"));
    let manager = Manager::start(dir.path(), &[]);
    let kubelet = kubelet(dir.path());
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
}

#[tokio::test]
async fn disconnects_from_a_kubelet_that_sends_nothing() {
    let dir = plugin_dir();
    let silent = StdListener::bind(dir.path().join("kubelet.sock")).expect("a socket");
    silent.set_nonblocking(true).expect("a listener");
    let silent = tokio::net::UnixListener::from_std(silent).expect("a listener");
    let manager = Manager::start(dir.path(), &[]);
    let (mut first, _) = within("a connection", silent.accept())
        .await
        .expect("a connection");
    // The manager closes the connection and has bound no socket.
    let closed = async { while first.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} };
    within("the end of the connection", closed).await;
    assert_eq!(sockets(dir.path()), Vec::<std::path::PathBuf>::new());
    drop(silent);
    let kubelet = kubelet(dir.path());
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    manager.stop().await;
}

#[tokio::test]
async fn retries_a_refused_registration_and_registers_with_a_new_kubelet() {
    let dir = plugin_dir();
    let mut refusing = FakeKubelet::serve(dir.path(), |_| Answer::Refuse);
    let manager = Manager::start(dir.path(), &[]);
    let thrice = refusing
        .registered
        .wait_for(|counts| counts.get(RESOURCE) == Some(&3));
    within("three tries", thrice).await.expect("three tries");
    refusing.stop().await;
    let kubelet = kubelet(dir.path());
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

#[tokio::test]
async fn hanging_registrations_do_not_delay_the_others() {
    let dir = plugin_dir();
    let names: Vec<String> = (0..12).map(|i| format!("example.com/r{i}")).collect();
    let accepted = |resource: &str| resource.ends_with("r10") || resource.ends_with("r11");
    let mut kubelet = FakeKubelet::serve(dir.path(), move |resource| {
        if accepted(resource) {
            Answer::Accept
        } else {
            Answer::Hang
        }
    });
    let manager = Manager::start(dir.path(), &[("RESOURCE_NAME", &names.join(","))]);
    let both = kubelet.streaming.wait_for(|streaming| streaming.len() == 2);
    within("the two that do not hang", both)
        .await
        .expect("streams");
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
}

/// Waits until the plugin has registered the resource twice.
async fn registers_again(kubelet: &mut FakeKubelet) {
    let twice = kubelet
        .registered
        .wait_for(|counts| counts.get(RESOURCE) == Some(&2));
    within("a second try", twice).await.expect("a second try");
}

#[tokio::test]
async fn registers_again_if_the_kubelet_answers_ok_without_an_options_call_or_a_stream() {
    for answer in [Answer::Ignore, Answer::OptionsOnly] {
        let dir = plugin_dir();
        let mut kubelet = FakeKubelet::serve(dir.path(), move |_| answer);
        let manager = Manager::start(dir.path(), &[]);
        registers_again(&mut kubelet).await;
        manager.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_opens_a_stream_is_not_taken_for_the_kubelet() {
    let dir = plugin_dir();
    let socket = dir.path().join(SOCKET);
    // With a stale socket, the plugin settles for 500 ms before it registers.
    drop(StdListener::bind(&socket).expect("a socket"));
    let stale = FileVersion::of_socket(&socket).expect("a socket");
    let mut kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Ignore);
    let manager = Manager::start(dir.path(), &[]);
    new_socket(&socket, stale).await;
    let mut observer = plugin_client(&socket).await;
    observer
        .get_device_plugin_options(v1beta1::Empty {})
        .await
        .expect("an answer");
    let _stream = observer
        .list_and_watch(v1beta1::Empty {})
        .await
        .expect("a stream");
    registers_again(&mut kubelet).await;
    manager.stop().await;
}

#[tokio::test]
async fn at_most_four_resources_register_at_a_time_after_settling() {
    let dir = plugin_dir();
    let names: Vec<String> = (0..40).map(|i| format!("x.io/r{i}")).collect();
    for i in 0..40 {
        let stale = format!("simple-device-plugin-x.io_r{i}.sock");
        drop(StdListener::bind(dir.path().join(stale)).expect("a socket"));
    }
    let mut kubelet = FakeKubelet::serve(dir.path(), |_| Answer::Accept);
    let resources = resources(&[("RESOURCE_NAME", &names.join(","))]);
    // No registration gives up its turn, even on a slow machine.
    let supervisor =
        Supervisor::new(resources, dir.path()).with_registration_permit_timeout(DEADLINE);
    let manager = Manager::run(supervisor);
    let all = kubelet
        .streaming
        .wait_for(|streaming| streaming.len() == names.len());
    within("all streams", all).await.expect("streams");
    let (_, most) = *kubelet.in_flight.borrow();
    assert!((1..=4).contains(&most), "{most} registered at once");
    manager.stop().await;
}

//! A plugin stays available while other clients open many connections, send nothing, or send garbage.

use std::io;
use std::path::Path;

use crate::support::client::{dial, plugin_client};
use crate::support::{
    Manager, RESOURCE, SOCKET, allocates, kubelet, plugin_dir, registrations, sockets,
    wait_for_node, within,
};
use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use simple_device_plugin::api::{
    PreferenceRequest, preferred_allocation_request, preferred_ids, v1beta1,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;
use tonic_prost::ProstCodec;

#[tokio::test]
async fn refuses_connections_above_the_limit() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    // The limit is 16 connections, and the kubelet has one of them.
    let mut peers = Vec::new();
    for _ in 0..16 {
        peers.push(
            UnixStream::connect(dir.path().join(SOCKET))
                .await
                .expect("a connection"),
        );
    }
    let mut last = peers.pop().expect("16 connections");
    let read = within("the refusal", last.read(&mut [0])).await;
    assert!(!read.is_ok_and(|n| n > 0));
    allocates(&kubelet).await;
    manager.stop().await;
}

#[tokio::test]
async fn answers_the_largest_preferred_allocation_request_of_a_kubelet() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let mut client = plugin_client(&dir.path().join(SOCKET)).await;
    let ids: Vec<String> = (0..60_000).map(|i| format!("{i:060}")).collect();
    let question = PreferenceRequest {
        available: ids.clone(),
        must_include: ids,
        size: 1,
    };
    let answer = client
        .get_preferred_allocation(preferred_allocation_request(question))
        .await;
    assert_eq!(
        preferred_ids(answer.expect("an answer").into_inner()).len(),
        1
    );
    manager.stop().await;
}

/// Opens three connections that send nothing and one with an Allocate request that never ends.
///
/// If `called` is true, the last connection first completes a call, so the plugin waits for that connection when it
/// shuts down.
async fn misbehaving_peers(
    socket: &Path,
    called: bool,
) -> (Vec<UnixStream>, AbortOnDropHandle<()>) {
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(UnixStream::connect(socket).await.expect("a plugin"));
    }
    let channel = dial(socket).await.expect("a plugin");
    if called {
        let mut client = DevicePluginClient::new(channel.clone());
        let answer = client.get_device_plugin_options(v1beta1::Empty {}).await;
        answer.expect("an answer");
    }
    let (sent, began) = tokio::sync::oneshot::channel();
    let call = tokio::spawn(async move {
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("a connection");
        let mut sent = Some(sent);
        let never = futures_util::stream::poll_fn(move |_| {
            sent.take().map(|sent| sent.send(()));
            std::task::Poll::<Option<v1beta1::AllocateRequest>>::Pending
        });
        let path = "/v1beta1.DevicePlugin/Allocate".parse().expect("a path");
        let codec = ProstCodec::<_, v1beta1::AllocateResponse>::default();
        let request = tonic::Request::new(never);
        // The call ends with an error when the plugin closes the connection.
        let _ = client.client_streaming(request, path, codec).await;
    });
    within("the call to begin", began).await.expect("a call");
    (silent, AbortOnDropHandle::new(call))
}

#[tokio::test]
async fn silent_peers_and_hanging_calls_delay_neither_registration_nor_shutdown() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let _peers = misbehaving_peers(&dir.path().join(SOCKET), false).await;
    let kubelet = kubelet.restart().await.expect("a kubelet restart");
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let (silent, call) = misbehaving_peers(&dir.path().join(SOCKET), true).await;
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
    // The plugin closed every connection.
    for mut peer in silent {
        let end = async { while peer.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} };
        within("the end of a silent connection", end).await;
    }
    within("the end of the hanging call", call)
        .await
        .expect("no panic");
}

#[tokio::test]
async fn garbage_closes_only_the_connection_that_sent_it() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), &[]);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 4096],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff",
    ] {
        let mut peer = UnixStream::connect(dir.path().join(SOCKET))
            .await
            .expect("a plugin");
        // The plugin may close the connection before it has read everything.
        let _ = peer.write_all(garbage).await;
        let _ = peer.shutdown().await;
        let mut answer = Vec::new();
        let closed: io::Result<usize> =
            within("the end of the connection", peer.read_to_end(&mut answer)).await;
        drop(closed);
    }
    allocates(&kubelet).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    manager.stop().await;
}

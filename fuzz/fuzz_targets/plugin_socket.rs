//! Sends arbitrary bytes to a plugin's socket: unchanged, as HTTP/2 frames, or as the message of an RPC. The plugin
//! must keep running, and the kubelet must not notice.

#![no_main]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use kubelet_sim::{Kubelet, KubeletSettings, NodeResources};
use libfuzzer_sys::fuzz_target;
use simple_device_plugin::config::{Config, Environment, Host};
use simple_device_plugin::supervisor::Supervisor;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const RPCS: [&str; 5] = [
    "GetDevicePluginOptions",
    "ListAndWatch",
    "GetPreferredAllocation",
    "Allocate",
    "PreStartContainer",
];

/// How long to read from a connection. The plugin may keep a connection open, which is no error.
const READ_TIMEOUT: Duration = Duration::from_millis(200);

/// The response to GetDevicePluginOptions as a length-prefixed gRPC message: GetPreferredAllocation is available.
const OPTIONS_RESPONSE: &[u8] = &[0, 0, 0, 0, 2, 0x10, 1];

/// How long the plugin may take to respond to a valid request, which is far longer than it needs.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

struct Plugin {
    socket: PathBuf,
    registrations: watch::Receiver<BTreeMap<String, u64>>,
    node: watch::Receiver<NodeResources>,
}

fuzz_target!(|bytes: &[u8]| {
    static PLUGIN: OnceLock<Plugin> = OnceLock::new();
    let plugin = PLUGIN.get_or_init(start);
    let Some((form, rest)) = bytes.split_first() else {
        return;
    };
    let sent = match form % 7 {
        0 => rest.to_vec(),
        1 => [&preface()[..], rest].concat(),
        rpc => call(RPCS[usize::from(rpc - 2)], rest),
    };
    send(plugin, &sent);
    // When the plugin responds to this call, it has processed the input, so a failure belongs to this input.
    call_options(plugin);
    assert_eq!(plugin.registrations.borrow().values().sum::<u64>(), 1);
    let node = plugin.node.borrow();
    assert!(
        node.values().all(|shown| shown.allocatable == 2),
        "{node:?}"
    );
});

/// Starts a supervisor and a kubelet on a separate thread, where they run until the process exits.
fn start() -> Plugin {
    let dir = tempfile::tempdir().expect("a directory").keep();
    let (ready, started) = std::sync::mpsc::channel();
    let in_dir = dir.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let settings = KubeletSettings {
                disconnect_delay: Duration::ZERO,
                ..KubeletSettings::new(&in_dir)
            };
            let kubelet = Kubelet::start(settings).expect("a kubelet");
            let host = Host {
                hostname: Some("worker".to_owned()),
                ..Host::default()
            };
            let policy = ("PREFERRED_ALLOCATION".to_owned(), "packed".into());
            let environment: Environment = [policy].into_iter().collect();
            let config = Config::from_variables(&environment, &host).expect("a configuration");
            let supervisor = Supervisor::new(config.plugins.resources, &in_dir);
            let mut node = kubelet.node();
            let report_ready = async {
                let registered =
                    node.wait_for(|node| node.values().any(|shown| shown.allocatable == 2));
                registered.await.expect("a kubelet");
                let receivers = (kubelet.registrations(), kubelet.node());
                ready.send(receivers).expect("a receiver");
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = report_ready => {}
                ended = supervisor.run(CancellationToken::new()) => panic!("ended: {ended:?}"),
            }
        });
    });
    let (registrations, node) = started.recv().expect("a start");
    Plugin {
        socket: dir.join("simple-device-plugin.sock"),
        registrations,
        node,
    }
}

/// Sends bytes, and reads the response until it ends or times out.
fn send(plugin: &Plugin, sent: &[u8]) {
    let mut stream = connect(plugin, READ_TIMEOUT);
    // The plugin may close the connection at any time.
    let _ = stream.write_all(sent);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Calls GetDevicePluginOptions, and fails without a response.
fn call_options(plugin: &Plugin) {
    let mut stream = connect(plugin, RESPONSE_TIMEOUT);
    stream.write_all(&call(RPCS[0], &[])).expect("a listener");
    let mut response: Vec<u8> = Vec::new();
    while !response
        .windows(OPTIONS_RESPONSE.len())
        .any(|bytes| bytes == OPTIONS_RESPONSE)
    {
        let mut bytes = [0; 1024];
        let count = match stream.read(&mut bytes) {
            // libFuzzer's timer signal interrupts the read.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            count => count.expect("a response before the timeout"),
        };
        assert!(count > 0, "the connection ended after {response:?}");
        response.extend(&bytes[..count]);
    }
}

fn connect(plugin: &Plugin, timeout: Duration) -> UnixStream {
    let stream = UnixStream::connect(&plugin.socket).expect("a plugin that listens");
    stream.set_read_timeout(Some(timeout)).expect("a timeout");
    stream.set_write_timeout(Some(timeout)).expect("a timeout");
    stream
}

/// Returns the client's connection preface with an empty SETTINGS frame.
fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

/// Returns the bytes of an RPC on stream 1, after the preface.
fn call(rpc: &str, message: &[u8]) -> Vec<u8> {
    let path = format!("/v1beta1.DevicePlugin/{rpc}");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &*path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let headers: Vec<u8> = fields
        .iter()
        .flat_map(|(name, value)| literal(name, value))
        .collect();
    let length = u32::try_from(message.len()).expect("a short message");
    let mut data = vec![0];
    data.extend(length.to_be_bytes());
    data.extend(message);
    let mut bytes = preface();
    bytes.extend(frame(1, 4, 1, &headers));
    bytes.extend(frame(0, 1, 1, &data));
    bytes
}

/// Encodes a header field without indexing (RFC 7541, 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = vec![u8::try_from(text.len()).expect("a short text")];
        bytes.extend(text.bytes());
        bytes
    };
    [vec![0], text(name), text(value)].concat()
}

/// Encodes an HTTP/2 frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short frame")
        .to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

//! Any bytes on a plugin's socket: as they are, as HTTP/2 frames, or as the message of an RPC. The
//! plugin goes on and the kubelet sees nothing of it.

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

/// How long an answer may take: a connection that stays open is none of the plugin's faults.
const ANSWERED_WITHIN: Duration = Duration::from_millis(200);

/// The options as a message of five bytes and its length: GetPreferredAllocation is there.
const OK: &[u8] = &[0, 0, 0, 0, 2, 0x10, 1];

/// Far beyond what a sound plugin takes.
const SURELY_ANSWERED_WITHIN: Duration = Duration::from_secs(5);

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
    talk(plugin, &sent);
    // Of this input, not of a later one: whatever it did is done when the next call is answered.
    ask(plugin);
    assert_eq!(plugin.registrations.borrow().values().sum::<u64>(), 1);
    let node = plugin.node.borrow();
    assert!(
        node.values().all(|shown| shown.allocatable == 2),
        "{node:?}"
    );
});

/// A manager and a kubelet in a thread of their own, for as long as the process lives.
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
            let whole = async {
                let whole = node.wait_for(|node| node.values().any(|shown| shown.allocatable == 2));
                whole.await.expect("a kubelet");
                let seen = (kubelet.registrations(), kubelet.node());
                ready.send(seen).expect("a listener");
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = whole => {}
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

/// Sends it, and reads whatever comes back.
fn talk(plugin: &Plugin, sent: &[u8]) {
    let mut stream = connect(plugin, ANSWERED_WITHIN);
    // The plugin may hang up at any byte.
    let _ = stream.write_all(sent);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// Asks for the options, and insists on an answer.
fn ask(plugin: &Plugin) {
    let mut stream = connect(plugin, SURELY_ANSWERED_WITHIN);
    stream.write_all(&call(RPCS[0], &[])).expect("a listener");
    let mut answer: Vec<u8> = Vec::new();
    while !answer.windows(OK.len()).any(|bytes| bytes == OK) {
        let mut bytes = [0; 1024];
        let count = match stream.read(&mut bytes) {
            // libFuzzer's clock.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            count => count.expect("an answer in time"),
        };
        assert!(count > 0, "no answer but {answer:?}");
        answer.extend(&bytes[..count]);
    }
}

fn connect(plugin: &Plugin, within: Duration) -> UnixStream {
    let stream = UnixStream::connect(&plugin.socket).expect("a plugin that listens");
    stream.set_read_timeout(Some(within)).expect("a limit");
    stream.set_write_timeout(Some(within)).expect("a limit");
    stream
}

/// The client's greeting and its empty SETTINGS.
fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes
}

/// A call of the RPC on stream 1 with these bytes as its message.
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

/// A header field without indexing (RFC 7541, 6.2.2).
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = vec![u8::try_from(text.len()).expect("a short text")];
        bytes.extend(text.bytes());
        bytes
    };
    [vec![0], text(name), text(value)].concat()
}

/// An HTTP/2 frame (RFC 9113, 4.1).
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

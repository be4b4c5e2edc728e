//! The control socket: permissions, bad requests, and when the socket is created and removed.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::support::control::ControlledNode;
use crate::support::plugin_dir;
use crate::support::process::{Running, program};
use rustix::process::Signal;
use simple_device_plugin::control::{Message, Refusal, Reply};

/// A status request as the client sends it.
const STATUS: &[u8] = br#"{"version":1,"body":{"status":{"devices":"none"}}}"#;

fn refusal(answer: &str) -> Refusal {
    let message: Message<Reply> = serde_json::from_str(answer).expect("a reply");
    match message.body {
        Reply::Refused(refusal) => refusal,
        reply => panic!("not a refusal: {reply:?}"),
    }
}

#[test]
fn the_socket_is_private_and_removed_when_the_daemon_stops() {
    let node = ControlledNode::new();
    let manager = Running::manager(node.path(), &node.variables());
    manager.wait_for_log("listening for commands");
    let mode = |path: &Path| path.metadata().expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&node.control), 0o600);
    assert_eq!(mode(node.control.parent().expect("a directory")), 0o700);
    // A second daemon does not take a socket that is in use.
    let second = plugin_dir();
    let other = Running::manager(second.path(), &node.variables());
    other.wait_for_log("retrying; set a different CONTROL_SOCKET if it is in use");
    other.signal(Signal::TERM);
    assert!(other.wait().success());
    assert!(
        node.ask(STATUS)
            .starts_with(r#"{"version":1,"body":{"status":{"#)
    );
    fs::remove_file(&node.control).expect("the socket");
    // A change in the device plugin directory makes the daemon check its control socket.
    fs::write(node.path().join("something"), "").expect("a file");
    manager.wait_for_log("the control socket was removed: binding it again");
    manager.wait_for_log("listening for commands");
    assert!(
        node.ask(STATUS)
            .starts_with(r#"{"version":1,"body":{"status":{"#)
    );
    manager.signal(Signal::TERM);
    assert!(manager.wait().success());
    assert!(!node.control.exists());
}

#[test]
fn bad_requests_get_a_refusal() {
    let node = ControlledNode::new();
    let manager = Running::manager(node.path(), &node.variables());
    manager.wait_for_log("listening for commands");
    let huge = vec![b'x'; 100_000];
    for request in [
        &b""[..],
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        br#"{"version":1}"#,
        br#"{"version":1,"body":{"status":{"devices":{"of":7}}}}"#,
        br#"{"version":1,"body":{"explode":{}}}"#,
        br#"{"version":1,"body":{"clear":{}}}"#,
        br#"{"version":1,"body":{"clear":{"resourse":"example.com/gpu"}}}"#,
        br#"{"version":1,"body":{"clearAll":{"resource":"example.com/gpu"}}}"#,
        br#"{"version":"one","body":{}}"#,
        b"\xff\xfe\n",
        &huge,
    ] {
        let answer = node.ask(request);
        let short = &request[..request.len().min(40)];
        assert!(
            matches!(refusal(&answer), Refusal::Malformed(_)),
            "{short:?} {answer}"
        );
    }
    for request in [
        &br#"{"status":"none"}"#[..],
        br#"{"version":2,"body":{"explode":{}}}"#,
    ] {
        let answer = node.ask(request);
        assert_eq!(refusal(&answer), Refusal::Version { supported: 1 });
    }
    // With more connections than the limit, the daemon closes the oldest and serves the newest.
    let silent: Vec<UnixStream> = (0..20).map(|_| node.connect()).collect();
    assert!(
        node.ask(STATUS)
            .starts_with(r#"{"version":1,"body":{"status":{"#)
    );
    for mut closed in [&silent[0], &silent[19]] {
        // The last one is closed when its request times out.
        let mut rest = Vec::new();
        let ended = closed.read_to_end(&mut rest);
        let reset = |error: std::io::Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(rest.is_empty() && ended.map_err(reset).map_or_else(|reset| reset, |_| true));
    }
    // The daemon refuses an endless request without waiting for its end.
    let mut endless = node.connect();
    endless.write_all(&huge).expect("a server that reads");
    let mut answer = String::new();
    // Closing a connection with unread data resets it.
    let _ = endless.read_to_string(&mut answer);
    assert!(matches!(refusal(&answer), Refusal::Malformed(_)));
}

#[test]
fn other_users_are_refused() {
    let node = ControlledNode::new();
    let manager = Running::manager(node.path(), &node.variables());
    manager.wait_for_log("listening for commands");
    // Even if the mode of the socket allows the connection.
    for path in [node.path(), node.control.parent().expect("a directory")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its owner");
    }
    fs::set_permissions(&node.control, fs::Permissions::from_mode(0o666)).expect("its owner");
    let mut nobody = program(&[("CONTROL_SOCKET", node.control())]);
    nobody.arg("status").uid(65_534);
    let output = match nobody.output() {
        Ok(output) => output,
        // Only root can run a program as another user, and that user must be able to read the program.
        Err(error) => return eprintln!("skipped: {error}"),
    };
    assert_eq!(output.status.code(), Some(1));
    manager.wait_for_log("refused a connection: only root and the daemon's own user may connect");
}

#[test]
fn a_stale_socket_is_replaced() {
    let node = ControlledNode::new();
    fs::create_dir(node.control.parent().expect("a directory")).expect("a directory");
    drop(UnixListener::bind(&node.control).expect("a socket"));
    let manager = Running::manager(node.path(), &node.variables());
    manager.wait_for_log("listening for commands");
    assert!(
        node.ask(STATUS)
            .starts_with(r#"{"version":1,"body":{"status":{"#)
    );
}

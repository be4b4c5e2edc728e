//! HTTP_ADDRESS and CONTROL_SOCKET: invalid values are rejected, and addresses in use are retried.

use std::fs;
use std::io::{Read, Write};

use crate::support::control::ControlledNode;
use crate::support::process::{Running, output, program};
use crate::support::{GPU, kubelet, plugin_dir, text, wait_for_node};

#[test]
fn rejects_invalid_addresses_and_socket_paths() {
    let dir = plugin_dir();
    let inside = dir.path().join("kubelet.sock");
    let long = format!("/{}", "x".repeat(107));
    for (name, value, expected) in [
        (
            "HTTP_ADDRESS",
            "localhost:8080",
            "an address with a port, as in :8080, 127.0.0.1:8080 or [::1]:8080",
        ),
        (
            "CONTROL_SOCKET",
            "control.sock",
            "the absolute path of a socket, of at most 107 bytes",
        ),
        (
            "CONTROL_SOCKET",
            &long,
            "the absolute path of a socket, of at most 107 bytes",
        ),
        (
            "CONTROL_SOCKET",
            text(&inside),
            "a path other than those of the kubelet's socket and the plugins' sockets",
        ),
    ] {
        let mut command = program(&[(name, value)]);
        let (code, _, stderr) = output(command.env("DEVICE_PLUGIN_PATH", dir.path()));
        assert_eq!(code, Some(78));
        let error = format!("error: {name}=\"{value}\": expected {expected}\n");
        assert!(stderr.starts_with(&error), "{stderr}");
    }
}

#[tokio::test]
async fn retries_addresses_in_use_while_the_resources_stay_registered() {
    let node = ControlledNode::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    fs::write(node.path().join("run"), "not a directory").expect("a file");
    let mut variables = node.variables().to_vec();
    variables.push(("HTTP_ADDRESS", &address));
    let kubelet = kubelet(node.path());
    let manager = Running::manager(node.path(), &variables);
    manager.wait_for_log("retrying; set a different HTTP_ADDRESS if it is in use");
    manager.wait_for_log("cannot bind the control socket");
    wait_for_node(&kubelet, GPU, 4, 4).await;
    drop(taken);
    fs::remove_file(node.path().join("run")).expect("the file");
    let (http, control) = ("serving HTTP", "listening for commands");
    let first = manager.wait_for_log(" INFO ");
    // The two lines can come in either order.
    let mut missing: Vec<&str> = vec![http, control];
    let mut line = first;
    while !missing.is_empty() {
        missing.retain(|words| !line.contains(words));
        if !missing.is_empty() {
            line = manager.wait_for_log(" INFO ");
        }
    }
    let mut stream = std::net::TcpStream::connect(&address).expect("HTTP");
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: n\r\n\r\n")
        .expect("a server");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn an_address_without_a_host_serves_ipv4_and_ipv6() {
    let node = ControlledNode::new();
    let manager = Running::manager(node.path(), &[("HTTP_ADDRESS", ":0")]);
    let line = manager.wait_for_log("serving HTTP");
    let port = line.rsplit(':').next().expect("a port");
    for address in ["127.0.0.1", "[::1]"] {
        // On a host without IPv6, the program listens on the IPv4 address only.
        let connected = std::net::TcpStream::connect(format!("{address}:{port}"));
        assert!(
            connected.is_ok() || address == "[::1]" && !line.contains("[::]"),
            "{line}"
        );
    }
}

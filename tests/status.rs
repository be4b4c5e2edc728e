//! `status` over the control socket, and the addresses that the program cannot have, as a user meets them.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use simple_device_plugin::kubelet::Kubelet;
use support::process::{Running, output, program};
use support::{kubelet, plugin_dir, pod, shows, until};
use tempfile::TempDir;

const GPU: &str = "example.com/gpu";

/// A directory for the kubelet, with room for a control socket.
struct Node {
    dir: TempDir,
    control: PathBuf,
}

impl Node {
    fn new() -> Self {
        let dir = plugin_dir();
        let control = dir.path().join("run/control.sock");
        Self { dir, control }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn control(&self) -> &str {
        self.control.to_str().expect("UTF-8")
    }

    fn variables(&self) -> [(&str, &str); 4] {
        [
            ("CONTROL_SOCKET", self.control()),
            ("RESOURCE_NAME", "example.com/gpu,example.com/nic"),
            ("NUMBER_DEVICES", "4,2"),
            ("NUMA_NODES", "0-1,"),
        ]
    }

    /// The manager and a kubelet with all of it registered; a pod has a GPU.
    async fn running(&self) -> (Running, Kubelet) {
        let kubelet = kubelet(self.path());
        let mut variables = self.variables().to_vec();
        variables.push(("PREFERRED_ALLOCATION", "ordered"));
        let manager = Running::manager(self.path(), &variables);
        manager.says("listening for commands");
        shows(&kubelet, GPU, 4, 4).await;
        shows(&kubelet, "example.com/nic", 2, 2).await;
        let admitted = kubelet.admit(&pod("p", &[(GPU, 1)])).await;
        admitted.expect("admitted");
        (manager, kubelet)
    }

    fn status(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = program(&[("CONTROL_SOCKET", self.control())]);
        output(command.arg("status").args(arguments))
    }

    /// What the socket answers to this.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.control).expect("the control socket");
        // It may have heard enough before all is said.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }
}

/// Ages are of this run.
fn without_ages(text: &str) -> String {
    let words = text.split_inclusive([' ', '\n']);
    let aged = words.map(|word| {
        let bare = word.trim_end();
        let digits = bare.trim_end_matches('s');
        let is_age = digits.len() + 1 == bare.len() && digits.bytes().all(|c| c.is_ascii_digit());
        if is_age && !digits.is_empty() {
            word.replace(bare, "Ns")
        } else {
            word.to_owned()
        }
    });
    aged.collect()
}

#[tokio::test]
async fn shows_the_resources_and_the_devices_of_one() {
    let node = Node::new();
    let (manager, kubelet) = node.running().await;
    let (code, all, stderr) = node.status(&[]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        without_ages(&all),
        format!(
            "simple-device-plugin {version} on node n: 2 of 2 resources ready, up Ns\n\n\
             RESOURCE         STATE       FOR  HEALTHY  HELD\n\
             example.com/gpu  registered  Ns   4 of 4   1\n\
             example.com/nic  registered  Ns   2 of 2   0\n\n\
             held: as of the kubelet's last write, Ns ago\n"
        )
    );
    let (_, gpu, _) = node.status(&[GPU]);
    assert_eq!(
        without_ages(&gpu),
        "example.com/gpu registered for Ns\n  \
           endpoint       simple-device-plugin-example.com_gpu.sock\n  \
           registrations  1 registered\n  \
           restarts       none\n  \
           devices        4, 4 healthy, 1 held\n\n\
         NUMA  DEVICE   HEALTH   HELD BY\n\
         0     gpu-n-0  Healthy  p/main\n\
         0     gpu-n-2  Healthy\n\
         1     gpu-n-1  Healthy\n\
         1     gpu-n-3  Healthy\n\n\
         held: as of the kubelet's last write, Ns ago\n"
    );
    let (_, json, _) = node.status(&["--json"]);
    let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(status["resources"][1]["devices"][1]["id"], "nic-n-1");
    kubelet.stop().await;
    until("what it waits for", || {
        let (_, all, _) = node.status(&[]);
        all.contains("0 of 2 resources ready")
            && all
                .contains("\nexample.com/gpu waits for the kubelet: cannot connect to kubelet.sock")
    })
    .await;
    drop(manager);
}

#[tokio::test]
async fn says_what_it_cannot_tell() {
    let node = Node::new();
    let (code, stdout, stderr) = node.status(&[]);
    assert_eq!((code, &*stdout), (Some(1), ""));
    assert!(stderr.starts_with("error: nobody answers at "), "{stderr}");
    assert!(stderr.contains("CONTROL_SOCKET"), "{stderr}");
    let (code, _, stderr) = output(program(&[]).arg("status"));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("CONTROL_SOCKET is empty"), "{stderr}");
    let (_manager, _kubelet) = node.running().await;
    let (code, _, stderr) = node.status(&["example.com/fpga"]);
    assert_eq!(code, Some(1));
    assert_eq!(
        stderr,
        "error: no resource example.com/fpga; there are: example.com/gpu, example.com/nic\n"
    );
}

#[tokio::test]
async fn is_shown_again_when_something_happens() {
    let node = Node::new();
    let (_manager, kubelet) = node.running().await;
    let mut watch = program(&[("CONTROL_SOCKET", node.control())]);
    let mut watch = Running::start(watch.args(["status", "--watch"]).stdout(Stdio::piped()));
    let stdout = watch.child.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(stdout)
        .lines()
        .map(|line| line.expect("text"));
    let mut shown = |words: &str| lines.find(|line| line.contains(words)).is_some();
    assert!(shown("2 of 2 resources ready"));
    kubelet
        .admit(&pod("q", &[(GPU, 2)]))
        .await
        .expect("admitted");
    assert!(shown("4 of 4   3"));
}

#[test]
fn the_socket_is_private_and_goes_with_the_program() {
    let node = Node::new();
    let manager = Running::manager(node.path(), &node.variables());
    manager.says("listening for commands");
    let mode = |path: &Path| path.metadata().expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(&node.control), 0o600);
    assert_eq!(mode(node.control.parent().expect("a directory")), 0o700);
    // One that answers is nobody else's.
    let second = plugin_dir();
    let other = Running::manager(second.path(), &node.variables());
    other.says("no control socket: trying on; another CONTROL_SOCKET is the way out");
    other.signal(Signal::TERM);
    assert!(other.ends().success());
    assert!(node.ask(b"{\"status\":{}}\n").starts_with("{\"status\":{"));
    manager.signal(Signal::TERM);
    assert!(manager.ends().success());
    assert!(!node.control.exists());
}

#[test]
fn the_socket_answers_what_it_is_not_made_for() {
    let node = Node::new();
    let manager = Running::manager(node.path(), &node.variables());
    manager.says("listening for commands");
    let huge = vec![b'x'; 100_000];
    for request in [
        &b""[..],
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{\"status\":{\"resource\":7}}\n",
        b"{\"explode\":{}}\n",
        b"\xff\xfe\n",
        &huge,
    ] {
        let answer = node.ask(request);
        let short = &request[..request.len().min(40)];
        assert!(
            answer.starts_with("{\"error\":\"not a request: "),
            "{short:?} {answer}"
        );
    }
    // More than there are places for: the oldest has to go, and the newest is served.
    let silent: Vec<UnixStream> = (0..20)
        .map(|_| UnixStream::connect(&node.control).expect("the control socket"))
        .collect();
    assert!(node.ask(b"{\"status\":{}}\n").starts_with("{\"status\":{"));
    let mut rest = Vec::new();
    let gone = (&silent[0]).read_to_end(&mut rest);
    assert!(gone.is_err() || rest.is_empty());
    // A client that hangs is told at the latest when its time is over.
    let gone = (&silent[19]).read_to_end(&mut rest);
    assert!(gone.is_err() || rest.is_empty());
}

#[tokio::test]
async fn what_cannot_be_had_is_told_and_tried_again_and_ends_no_resource() {
    let node = Node::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    fs::write(node.path().join("run"), "no directory").expect("a file");
    let mut variables = node.variables().to_vec();
    variables.push(("HTTP_ADDRESS", &address));
    let kubelet = kubelet(node.path());
    let manager = Running::manager(node.path(), &variables);
    manager.says("cannot serve HTTP: trying on; another HTTP_ADDRESS is the way out");
    manager.says("no control socket: trying on");
    shows(&kubelet, GPU, 4, 4).await;
    drop(taken);
    fs::remove_file(node.path().join("run")).expect("the file");
    let (http, control) = ("serving HTTP", "listening for commands");
    let first = manager.says(" INFO ");
    // Whichever comes first.
    let mut missing: Vec<&str> = vec![http, control];
    let mut line = first;
    while !missing.is_empty() {
        missing.retain(|words| !line.contains(words));
        if !missing.is_empty() {
            line = manager.says(" INFO ");
        }
    }
    let mut stream = std::net::TcpStream::connect(&address).expect("HTTP");
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nhost: n\r\n\r\n")
        .expect("a server");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[test]
fn every_address_is_one_of_ipv4_too() {
    let node = Node::new();
    let manager = Running::manager(node.path(), &[("HTTP_ADDRESS", ":0")]);
    let line = manager.says("serving HTTP");
    let port = line.rsplit(':').next().expect("a port");
    for address in ["127.0.0.1", "[::1]"] {
        // A host without IPv6 has the first alone.
        let connected = std::net::TcpStream::connect(format!("{address}:{port}"));
        assert!(
            connected.is_ok() || address == "[::1]" && !line.contains("[::]"),
            "{line}"
        );
    }
}

#[test]
fn a_socket_that_was_left_behind_is_taken() {
    let node = Node::new();
    fs::create_dir(node.control.parent().expect("a directory")).expect("a directory");
    drop(UnixListener::bind(&node.control).expect("a socket"));
    let manager = Running::manager(node.path(), &node.variables());
    manager.says("listening for commands");
    assert!(node.ask(b"{\"status\":{}}\n").starts_with("{\"status\":{"));
}

#[test]
fn a_wrong_address_is_a_mistake() {
    let mut command = program(&[("HTTP_ADDRESS", "localhost:8080")]);
    let (code, _, stderr) = output(&mut command);
    assert_eq!(code, Some(78));
    assert!(
        stderr.starts_with(
            "error: HTTP_ADDRESS=\"localhost:8080\": expected an address with a port, as in :8080, 127.0.0.1:8080 or [::1]:8080\n"
        ),
        "{stderr}"
    );
}

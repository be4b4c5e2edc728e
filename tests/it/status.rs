//! `status` over the control socket, and the addresses that the program cannot have, as a user meets them.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use crate::support::process::{Running, output, program};
use crate::support::{DEADLINE, kubelet, plugin_dir, pod, shows, until};
use kubelet_sim::Kubelet;
use rustix::process::Signal;
use simple_device_plugin::node::checkpoint_file;
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

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.control).expect("the control socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream
    }

    /// What the socket answers to this.
    fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
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
             held: as of the kubelet's last write, Ns ago; deleted pods may be among them\n"
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
         held: as of the kubelet's last write, Ns ago; deleted pods may be among them\n"
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

/// Other checkpoints of the kubelet moved to this form; what this program cannot read is not taken for empty.
#[tokio::test]
async fn a_checkpoint_of_another_form_is_told_once_and_holders_are_unknown() {
    let node = Node::new();
    let (manager, _kubelet) = node.running().await;
    let unknown =
        "held: not known: the kubelet's checkpoint has an unknown form: missing field `Data`";
    until("the other form", || {
        // The kubelet may write once more.
        let new = node.path().join("checkpoint.new");
        fs::write(&new, r#"{"data": "{}", "dataChecksum": 1}"#).expect("a file");
        fs::rename(new, node.path().join(checkpoint_file::FILE)).expect("a checkpoint");
        node.status(&[]).1.contains(unknown)
    })
    .await;
    let (_, all, _) = node.status(&[]);
    assert!(all.contains("4 of 4   ?"), "{all}");
    let (_, json, _) = node.status(&["--json"]);
    let status: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(status["resources"][0]["held"].is_null(), "{json}");
    manager.says("has an unknown form");
    // Another text of the same kind is no news.
    for unknown in ["{}", r#"{"data": "longer", "dataChecksum": 1}"#, "{"] {
        fs::write(node.path().join(checkpoint_file::FILE), unknown).expect("a checkpoint");
        let (_, all, _) = node.status(&[]);
        assert!(all.contains("has an unknown form"), "{all}");
    }
    let lines = manager.stderr.try_iter();
    assert_eq!(
        lines.filter(|line| line.contains("unknown form")).count(),
        0
    );
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
    other.says("retrying; set a different CONTROL_SOCKET if it is in use");
    other.signal(Signal::TERM);
    assert!(other.ends().success());
    assert!(
        node.ask(b"{\"status\":\"none\"}\n")
            .starts_with("{\"status\":{")
    );
    fs::remove_file(&node.control).expect("the socket");
    // The plugin dir is looked at when something happens there.
    fs::write(node.path().join("something"), "").expect("a file");
    manager.says("the control socket was removed: making it anew");
    manager.says("listening for commands");
    assert!(
        node.ask(b"{\"status\":\"none\"}\n")
            .starts_with("{\"status\":{")
    );
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
        b"{\"status\":{\"of\":7}}\n",
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
    let silent: Vec<UnixStream> = (0..20).map(|_| node.connect()).collect();
    assert!(
        node.ask(b"{\"status\":\"none\"}\n")
            .starts_with("{\"status\":{")
    );
    for gone in [&silent[0], &silent[19]] {
        // The last one when its time for a request is over.
        let mut rest = Vec::new();
        let ended = { gone }.read_to_end(&mut rest);
        let reset = |error: std::io::Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(rest.is_empty() && ended.map_err(reset).map_or_else(|reset| reset, |_| true));
    }
    // It is not waited for what has no end.
    let mut endless = node.connect();
    endless.write_all(&huge).expect("a server that reads");
    let mut answer = String::new();
    // It hangs up on what it did not read.
    let _ = endless.read_to_string(&mut answer);
    assert!(answer.starts_with("{\"error\""), "{answer}");
}

#[test]
fn others_may_not_ask() {
    let node = Node::new();
    let manager = Running::manager(node.path(), &node.variables());
    manager.says("listening for commands");
    // Even where the file lets them.
    for path in [node.path(), node.control.parent().expect("a directory")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("its owner");
    }
    fs::set_permissions(&node.control, fs::Permissions::from_mode(0o666)).expect("its owner");
    let mut nobody = program(&[("CONTROL_SOCKET", node.control())]);
    nobody.arg("status").uid(65_534);
    let asked = match nobody.output() {
        Ok(output) => output,
        // Only root can be somebody else, and the program must be where others may run it.
        Err(error) => return eprintln!("not tried: {error}"),
    };
    assert_eq!(asked.status.code(), Some(1));
    manager.says("refused a connection: only root and our own user may connect");
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
    manager.says("retrying; set a different HTTP_ADDRESS if it is in use");
    manager.says("cannot bind the control socket");
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
        .write_all(b"GET /livez HTTP/1.1\r\nhost: n\r\n\r\n")
        .expect("a server");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_config_file_with_mistakes_is_told() {
    let node = Node::new();
    let kubelet = kubelet(node.path());
    let file = node.path().join("config.yaml");
    fs::write(&file, "resources: [{name: example.com/gpu, devices: 2}]").expect("a file");
    let manager = Running::manager(
        node.path(),
        &[
            ("CONTROL_SOCKET", node.control()),
            ("CONFIG_FILE", file.to_str().expect("UTF-8")),
        ],
    );
    manager.says("listening for commands");
    shows(&kubelet, GPU, 2, 2).await;
    let status = || node.status(&["--json"]).1;
    fs::write(&file, "resources: [{name: example.com/gpu, devices: 1}]").expect("a file");
    until("a reload", || status().contains("\"changed\": 1")).await;
    until("the one that goes", || status().contains("\"going\": true")).await;
    assert!(node.status(&[GPU]).1.contains("gpu-n-1  Unhealthy, going"));
    fs::write(&file, "resources: [{name: gpu, devices: many}]").expect("a file");
    until("errors", || status().contains("\"refused\": 1")).await;
    let (_, all, _) = node.status(&[]);
    let told = "warning: the config file is refused since ";
    assert!(all.contains(told) && all.contains("(and 1 more)"), "{all}");
    manager.signal(Signal::HUP);
    until("a second look", || status().contains("\"refused\": 2")).await;
    fs::write(&file, "resources: [{name: example.com/gpu, devices: 1}]").expect("a file");
    until("no errors", || !status().contains("\"errors\"")).await;
    assert!(status().contains("\"unchanged\": 1"), "{}", status());
    assert!(!node.status(&[]).1.contains("warning"));
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
    assert!(
        node.ask(b"{\"status\":\"none\"}\n")
            .starts_with("{\"status\":{")
    );
}

#[test]
fn wrong_places_are_mistakes() {
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
            inside.to_str().expect("UTF-8"),
            "a path that is neither the kubelet's socket nor a plugin's",
        ),
    ] {
        let mut command = program(&[(name, value)]);
        let (code, _, stderr) = output(command.env("DEVICE_PLUGIN_PATH", dir.path()));
        assert_eq!(code, Some(78));
        let error = format!("error: {name}=\"{value}\": expected {expected}\n");
        assert!(stderr.starts_with(&error), "{stderr}");
    }
}

//! The program itself, as a user starts it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::fakes::dial;
use crate::support::process::{Running, binary, output, program};
use crate::support::{
    held, kubelet, plugin_dir, pod, registrations, settings, shows, sockets, within,
};
use kubelet_sim::{Kubelet, KubeletSettings};
use simple_device_plugin::api::v1beta1::device_plugin_client::DevicePluginClient;
use simple_device_plugin::api::{allocation_of, v1beta1};
use tokio::net::UnixStream;

const RESOURCE: &str = "example.com/simple-device";
const SOCKET: &str = "simple-device-plugin.sock";

const WRONG: [(&str, &str); 7] = [
    ("RESOURCE_NAME", "gpu,example.com/nic"),
    ("NUMBER_DEVICES", "two,3000000"),
    ("NUMBER_DEVICES_7", "1"),
    ("PLUGIN_NAME", "../up"),
    ("NUMA_NODES", "0-"),
    ("LOG_FORMAT", "xml"),
    ("RUST_LOG", "loud"),
];

#[test]
fn every_mistake_is_told_and_nothing_is_touched() {
    let dir = plugin_dir();
    for arguments in [&[][..], &["check"]] {
        let mut command = program(&WRONG);
        let (code, stdout, stderr) = output(
            command
                .args(arguments)
                .env("DEVICE_PLUGIN_PATH", dir.path()),
        );
        assert_eq!(code, Some(78), "{stderr}");
        assert_eq!(stdout, "");
        let starts = [
            "error: RUST_LOG=\"loud\": expected a level",
            "error: LOG_FORMAT=\"xml\": expected text or json",
            "error: NUMBER_DEVICES_7=\"1\": expected an index below 2",
            "error: RESOURCE_NAME=\"gpu\": expected a name with one '/'",
            "error: PLUGIN_NAME=\"../up\": expected a file name",
            "error: NUMBER_DEVICES=\"two\": expected a whole number",
            "error: NUMA_NODES=\"0-\": expected NUMA nodes",
            "error: NUMBER_DEVICES=\"3000000\": expected at most",
            "8 mistakes in the variables; nothing was started",
        ];
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), starts.len(), "{stderr}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
        assert_eq!(dir.path().read_dir().expect("the directory").count(), 0);
    }
}

#[test]
fn a_pod_without_node_name_is_a_mistake() {
    let mut command = program(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]);
    let (code, _, stderr) = output(command.env_remove("NODE_NAME").arg("check"));
    assert_eq!(code, Some(78));
    assert!(
        stderr.starts_with("error: NODE_NAME=\"\": expected the node's name"),
        "{stderr}"
    );
}

#[test]
fn check_shows_a_nodes_view() {
    let variables = [
        ("RESOURCE_NAME", "example.com/gpu,example.com/nic"),
        ("NUMBER_DEVICES", "4,2"),
        ("NUMBER_DEVICES_1.worker2", "0"),
        ("NUMA_NODES", "0-1,"),
        ("ENV_PREFIX", "GPU,"),
        ("DEVICE_FILE_PREFIX", "gpu,"),
    ];
    let (code, stdout, stderr) = output(program(&variables).args(["check", "--node", "worker2"]));
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(
        stdout,
        "\
2 resources on node worker2 in /var/lib/kubelet/device-plugins

example.com/gpu
  socket            simple-device-plugin-example.com_gpu.sock
  devices           4: gpu-worker2-0 … gpu-worker2-3
  NUMA nodes        2 on node 0, 2 on node 1
  preference        none
  list              132 of at most 4194304 bytes
  one device gives  env GPU_0=/dev/0
                    device file /dev/gpu-0 (rw), the host's /dev/gpu-0
  host paths        /dev/gpu-0 … /dev/gpu-3

example.com/nic
  socket      simple-device-plugin-example.com_nic.sock
  devices     0
  NUMA nodes  no topology
  preference  none
  list        0 of at most 4194304 bytes
"
    );
}

async fn running_manager(variables: &[(&str, &str)]) -> (tempfile::TempDir, Kubelet, Running) {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let running = Running::manager(dir.path(), variables);
    shows(&kubelet, RESOURCE, 2, 2).await;
    (dir, kubelet, running)
}

#[tokio::test]
async fn sigterm_ends_it_in_order_and_sighup_does_not() {
    let (dir, kubelet, running) = running_manager(&[]).await;
    running.signal(rustix::process::Signal::HUP);
    running.says("SIGHUP");
    running.signal(rustix::process::Signal::TERM);
    shows(&kubelet, RESOURCE, 2, 0).await;
    let code = tokio::task::spawn_blocking(|| running.ends().code())
        .await
        .expect("no panic");
    assert_eq!(code, Some(0));
    assert!(sockets(dir.path()).is_empty());
}

#[test]
fn a_second_signal_aborts() {
    use std::os::unix::process::ExitStatusExt;
    let dir = plugin_dir();
    let running = Running::manager(dir.path(), &[]);
    running.says("waiting for the kubelet");
    // A stopped process gets both at once when it goes on.
    running.signal(rustix::process::Signal::STOP);
    running.signal(rustix::process::Signal::TERM);
    running.signal(rustix::process::Signal::INT);
    running.signal(rustix::process::Signal::CONT);
    let status = running.ends();
    assert!(matches!(status.signal(), Some(2 | 15)), "{status}");
}

/// Killed and started at once, it finds its socket stale: the kubelet may be taking leave of it still.
#[tokio::test]
async fn a_killed_plugin_waits_for_the_kubelets_late_leave() {
    let dir = plugin_dir();
    let kubelet = Kubelet::start(KubeletSettings {
        disconnect_delay: Duration::from_millis(300),
        ..settings(dir.path())
    });
    let kubelet = kubelet.expect("a kubelet");
    let first = Running::manager(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    drop(first);
    let _again = Running::manager(dir.path(), &[("NUMBER_DEVICES", "3")]);
    shows(&kubelet, RESOURCE, 2, 0).await;
    shows(&kubelet, RESOURCE, 3, 3).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
}

/// A user that is neither root nor the kubelet's.
const OTHER_UID: u32 = 1000;

/// As in a pod with `hostUsers: false`: root in there is somebody else on the host, and the kubelet has no uid in there.
#[tokio::test]
async fn in_a_user_namespace_the_log_and_the_status_say_what_to_change() {
    let in_namespace = |command: &Command| {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-root-user", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .uid(OTHER_UID)
            .gid(OTHER_UID);
        unshare
    };
    let possible = in_namespace(&Command::new("true")).status();
    if !possible.is_ok_and(|status| status.success()) {
        eprintln!("skipped: only root can try this, where users may have namespaces");
        return;
    }
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let control = dir.path().join("control.sock");
    std::os::unix::fs::chown(dir.path(), Some(OTHER_UID), None).expect("root");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.path().join("kubelet.sock"), everybody).expect("a socket");
    let variables = [
        ("DEVICE_PLUGIN_PATH", dir.path().to_str().expect("a path")),
        ("CONTROL_SOCKET", control.to_str().expect("a path")),
    ];
    let manager = Running::start(&mut in_namespace(&program(&variables)));
    // Beside the kubelet, which is to dial meanwhile.
    let says = tokio::task::spawn_blocking(move || {
        manager.says("set hostUsers: true in the pod's spec");
        manager.says("the kubelet is outside of this pod's user namespace");
        manager
    });
    let _manager = says.await.expect("both");
    let mut status = program(&variables);
    status
        .args(["status", RESOURCE])
        .uid(OTHER_UID)
        .gid(OTHER_UID);
    let (code, stdout, stderr) = output(&mut status);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("set hostUsers: true"), "{stdout}");
    assert!(!kubelet.node().borrow().contains_key(RESOURCE));
}

/// Neither a stderr that nobody reads nor one that is gone holds up or ends the program.
#[tokio::test]
async fn a_broken_stderr_harms_nobody() {
    for gone in [false, true] {
        let dir = plugin_dir();
        let kubelet = kubelet(dir.path());
        let mut command = program(&[("DEVICE_PLUGIN_PATH", dir.path().to_str().expect("a path"))]);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
        shows(&kubelet, RESOURCE, 2, 2).await;
        let unread = child.stderr.take().filter(|_| !gone);
        let channel = dial(&dir.path().join(SOCKET)).await.expect("a plugin");
        let mut client = DevicePluginClient::new(channel);
        for i in 0..1000 {
            let request = allocation_of(vec![format!("{i:0200}")]);
            let answer = within("an answer", client.allocate(request)).await;
            assert_eq!(
                answer.expect_err("no such device").code(),
                tonic::Code::NotFound
            );
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a process");
        shows(&kubelet, RESOURCE, 2, 0).await;
        let ended = tokio::task::spawn_blocking(move || child.wait().map(|status| status.code()));
        let ended = within("the end", ended).await.expect("no panic");
        assert_eq!(ended.expect("a status"), Some(0));
        drop(unread);
    }
}

/// Node test 7: the plugin is killed without a chance to clean up, and started again.
#[tokio::test]
async fn t07_a_killed_plugin_comes_back_to_the_same_assignments() {
    let (dir, kubelet, running) = running_manager(&[]).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    let before = held(&kubelet, "p");
    drop(running);
    shows(&kubelet, RESOURCE, 2, 0).await;
    assert!(
        dir.path().join(SOCKET).exists(),
        "killed, it leaves its socket"
    );
    let _again = Running::manager(dir.path(), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(held(&kubelet, "p"), before);
    kubelet
        .admit(&pod("q", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
}

#[tokio::test]
async fn two_processes_want_one_socket() {
    let (dir, kubelet, first) = running_manager(&[]).await;
    let second = Running::manager(dir.path(), &[]);
    let told = tokio::task::spawn_blocking(move || {
        let told = second.says("another PLUGIN_NAME is the way out");
        (told, second)
    });
    let (told, _second) = told.await.expect("it says so");
    assert!(told.contains(RESOURCE), "{told}");
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
    drop(first);
    shows(&kubelet, RESOURCE, 2, 0).await;
    shows(&kubelet, RESOURCE, 2, 2).await;
}

#[tokio::test]
async fn a_replaced_directory_ends_it_with_75() {
    let parent = plugin_dir();
    let dir = parent.path().join("device-plugins");
    let kubelet = kubelet(&dir);
    let open = File::open(&dir).expect("the directory");
    // In a container the mount shows the removed directory; so does a descriptor.
    let mounted = format!("/proc/{}/fd/{}", std::process::id(), open.as_raw_fd());
    let running = Running::manager(Path::new(&mounted), &[]);
    shows(&kubelet, RESOURCE, 2, 2).await;
    std::fs::remove_dir_all(&dir).expect("the directory");
    let status = tokio::task::spawn_blocking(|| {
        running.says("ERROR the plugin dir was replaced");
        running.ends()
    });
    assert_eq!(status.await.expect("no panic").code(), Some(75));
}

#[tokio::test]
async fn out_of_descriptors_it_waits_and_recovers() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let binary = binary("simple-device-plugin");
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 18; exec \"$0\""])
        .arg(binary);
    command
        .env("NODE_NAME", "n")
        .env("DEVICE_PLUGIN_PATH", dir.path());
    let running = Running::start(&mut command);
    shows(&kubelet, RESOURCE, 2, 2).await;
    let mut peers = Vec::new();
    for _ in 0..15 {
        peers.push(
            UnixStream::connect(dir.path().join(SOCKET))
                .await
                .expect("a backlog"),
        );
    }
    let running = tokio::task::spawn_blocking(move || {
        running.says("cannot accept a connection");
        running
    });
    let _running = running.await.expect("it says so");
    drop(peers);
    let channel = dial(&dir.path().join(SOCKET)).await.expect("a plugin");
    let mut client = DevicePluginClient::new(channel);
    let answer = client.get_device_plugin_options(v1beta1::Empty {});
    within("an answer", answer).await.expect("an answer");
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
}

/// A user namespace of its own takes the program's inotify away.
#[tokio::test]
async fn without_inotify_it_looks_every_2_s() {
    let unshare = ["--user", "--map-root-user"];
    let allowed = Command::new("unshare").args(unshare).arg("true").status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("not run: this machine allows no user namespaces");
        return;
    }
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\"";
    let mut command = Command::new("unshare");
    command
        .args(unshare)
        .args(["sh", "-c", script])
        .arg(binary("simple-device-plugin"));
    command
        .env("NODE_NAME", "n")
        .env("DEVICE_PLUGIN_PATH", dir.path());
    let running = Running::start(&mut command);
    running.says("cannot watch the plugin dir: looking every 2 s instead");
    shows(&kubelet, RESOURCE, 2, 2).await;
    let kubelet = kubelet.restart().await.expect("a new life");
    shows(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
}

#[tokio::test]
async fn logs_are_json_where_asked_and_each_rpc_is_a_line_at_trace() {
    let variables = [("LOG_FORMAT", "json"), ("RUST_LOG", "trace")];
    let (_dir, kubelet, running) = running_manager(&variables).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    drop(kubelet);
    let heard = tokio::task::spawn_blocking(move || {
        let mut heard = vec![running.says("DevicePlugin.allocate")];
        running.signal(rustix::process::Signal::TERM);
        heard.extend(running.stderr.iter());
        heard
    });
    let heard = heard.await.expect("lines");
    let allocate: serde_json::Value = serde_json::from_str(&heard[0]).expect("JSON");
    assert_eq!(allocate["message"], "DevicePlugin.allocate");
    assert_eq!(allocate["resource"], RESOURCE);
    assert!(
        allocate["device_id"]
            .as_str()
            .is_some_and(|id| id.starts_with("simple-device-n-"))
    );
    for line in heard {
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert!(json["message"].is_string(), "{line}");
    }
}

#[test]
fn the_first_line_tells_who_and_where() {
    let dir = plugin_dir();
    let running = Running::manager(
        dir.path(),
        &[("NAMESPACE", "lab"), ("DEVICE_ID_PREFIX", &"x".repeat(70))],
    );
    let first = running.says("");
    for words in [
        "simple-device-plugin",
        "namespace=\"lab\"",
        "node=\"n\"",
        "resources=1",
    ] {
        assert!(first.contains(words), "{first}");
    }
    running.says("WARN example.com/simple-device: device ID");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, closed) = std::io::pipe().expect("a pipe");
    drop(reader);
    let names: Vec<String> = (0..2000).map(|i| format!("example.com/r{i}")).collect();
    let mut command = program(&[("RESOURCE_NAME", &names.join(","))]);
    let status = command
        .arg("check")
        .stdout(closed)
        .stderr(Stdio::null())
        .status();
    assert_eq!(status.expect("a status").code(), Some(0));
}

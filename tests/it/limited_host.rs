//! The program on a restricted host: in a user namespace, without inotify, with few file descriptors, or with a broken
//! stderr.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::support::client::plugin_client;
use crate::support::process::{Running, binary, output, program};
use crate::support::{
    RESOURCE, SOCKET, kubelet, plugin_dir, registrations, text, wait_for_node, within,
};
use simple_device_plugin::api::{allocate_request, v1beta1};
use tokio::net::UnixStream;

/// A user that is neither root nor the kubelet's user.
const OTHER_UID: u32 = 1000;

/// Simulates a pod with `hostUsers: false`: root in the pod is another user on the host, and the kubelet's user has no
/// mapping in the pod.
#[tokio::test]
async fn the_log_and_the_status_say_what_to_change_in_a_user_namespace() {
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
    let probe = in_namespace(&Command::new("true")).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this test needs root and unprivileged user namespaces");
        return;
    }
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let control = dir.path().join("control.sock");
    std::os::unix::fs::chown(dir.path(), Some(OTHER_UID), None).expect("root");
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(dir.path().join("kubelet.sock"), everybody).expect("a socket");
    let variables = [
        ("DEVICE_PLUGIN_PATH", text(dir.path())),
        ("CONTROL_SOCKET", text(&control)),
    ];
    let manager = Running::start(&mut in_namespace(&program(&variables)));
    // Reads the log in another thread, because the kubelet runs in this one.
    let logged = tokio::task::spawn_blocking(move || {
        manager.wait_for_log("set hostUsers: true in the pod's spec");
        manager.wait_for_log("the kubelet is outside of this pod's user namespace");
        manager
    });
    let _manager = logged.await.expect("both log lines");
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

#[tokio::test]
async fn keeps_serving_when_stderr_is_unread_or_closed() {
    for closed in [false, true] {
        let dir = plugin_dir();
        let kubelet = kubelet(dir.path());
        let mut command = program(&[("DEVICE_PLUGIN_PATH", text(dir.path()))]);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
        wait_for_node(&kubelet, RESOURCE, 2, 2).await;
        let unread = child.stderr.take().filter(|_| !closed);
        let mut client = plugin_client(&dir.path().join(SOCKET)).await;
        for i in 0..1000 {
            let request = allocate_request(vec![format!("{i:0200}")]);
            let answer = within("an answer", client.allocate(request)).await;
            assert_eq!(
                answer.expect_err("no such device").code(),
                tonic::Code::NotFound
            );
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a process");
        wait_for_node(&kubelet, RESOURCE, 2, 0).await;
        let ended = tokio::task::spawn_blocking(move || child.wait().map(|status| status.code()));
        let ended = within("the end", ended).await.expect("no panic");
        assert_eq!(ended.expect("a status"), Some(0));
        drop(unread);
    }
}

#[tokio::test]
async fn recovers_after_running_out_of_file_descriptors() {
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
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let mut peers = Vec::new();
    for _ in 0..15 {
        peers.push(
            UnixStream::connect(dir.path().join(SOCKET))
                .await
                .expect("a connection"),
        );
    }
    let running = tokio::task::spawn_blocking(move || {
        running.wait_for_log("cannot accept a connection");
        running
    });
    let _running = running.await.expect("the log line");
    drop(peers);
    let mut client = plugin_client(&dir.path().join(SOCKET)).await;
    let answer = client.get_device_plugin_options(v1beta1::Empty {});
    within("an answer", answer).await.expect("an answer");
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
}

/// A new user namespace can have a limit of 0 inotify instances.
#[tokio::test]
async fn polls_every_2_s_without_inotify() {
    let unshare = ["--user", "--map-root-user"];
    let probe = Command::new("unshare").args(unshare).arg("true").status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this test needs user namespaces");
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
    let watched = format!(
        "cannot watch {} with inotify, polling it every 2 s instead",
        dir.path().display()
    );
    running.wait_for_log(&watched);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let kubelet = kubelet.restart().await.expect("a kubelet restart");
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    assert_eq!(registrations(&kubelet, RESOURCE), 1);
}

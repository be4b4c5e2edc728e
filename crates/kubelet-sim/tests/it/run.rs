//! Tests of `kubelet-sim run`.

use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::process::{Running, binary, lines, output, wait_for_line};
use crate::support::{DEADLINE, plugin_dir};
use rustix::io::ioctl_fionread;

/// Returns the command `kubelet-sim run`, with an empty environment.
fn sim() -> Command {
    let mut command = Command::new(binary("kubelet-sim"));
    command.env_clear().arg("run");
    command
}

/// A running `kubelet-sim run`, with its standard input and the lines of its standard output.
struct Kubelet {
    running: Running,
    printed: std::sync::mpsc::Receiver<String>,
    stdin: Option<ChildStdin>,
}

impl Kubelet {
    fn start(dir: &Path, options: &[&str]) -> Self {
        let mut command = sim();
        command.arg("--dir").arg(dir).args(options);
        let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let printed = lines(running.child.stdout.take().expect("a pipe"));
        Self {
            stdin: running.child.stdin.take(),
            running,
            printed,
        }
    }

    fn enter(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("an open input");
        writeln!(stdin, "{line}").expect("a reader");
    }

    #[track_caller]
    fn prints(&self, words: &str) -> String {
        wait_for_line(&self.printed, words)
    }
}

#[test]
fn executes_commands_and_shows_the_events_of_the_daemon() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    kubelet.prints("plugins register at");
    kubelet.enter("status");
    kubelet.prints("no plugin has registered yet");
    let manager = Running::manager(dir.path(), &[("ENV_PREFIX", "D")]);
    kubelet.prints("example.com/simple-device registered at simple-device-plugin.sock");
    kubelet.prints("listed 2 devices, all healthy");
    kubelet.prints("example.com/simple-device  2         2");

    kubelet.enter("pod p example.com/simple-device=2 example.com/other=1");
    kubelet.prints("pod p is admitted");
    kubelet.prints("  env                      D_0=/dev/0");
    kubelet.prints("no plugin has registered example.com/other: the kubelet runs the pod");
    kubelet.enter("pod q example.com/simple-device=1");
    kubelet.prints("pod q: UnexpectedAdmissionError: example.com/simple-device: 1");
    kubelet.enter("pod p example.com/simple-device=1");
    kubelet.prints("pod p already exists: delete it first");
    kubelet.enter("restart");
    kubelet.prints("restarted");
    kubelet.enter("wait example.com/simple-device=2");
    kubelet.enter("status");
    kubelet.prints("p    main       example.com/simple-device");
    kubelet.enter("delete p");
    kubelet.prints("pod p is deleted");
    kubelet
        .enter("pod q init:setup example.com/simple-device=1 app:web example.com/simple-device=1");
    kubelet.prints("pod q is admitted");
    kubelet.prints("init container setup:");
    kubelet.prints("container web:");
    kubelet.enter("status");
    kubelet.prints("q    setup      example.com/simple-device");
    kubelet.prints("q    web        example.com/simple-device");

    // As in a script, the next lines are already there.
    kubelet.enter("lose example.com/simple-device");
    kubelet.enter("wait example.com/simple-device=2");
    kubelet.enter("pod r example.com/simple-device=1");
    kubelet.prints("lost: its stream ended");
    kubelet.prints("registered at");
    kubelet.prints("listed 2 devices");
    kubelet.prints("pod r is admitted");
    manager.signal(rustix::process::Signal::TERM);
    kubelet.prints("lost: its stream ended");
    kubelet.prints("example.com/simple-device  2         0");
    kubelet.enter("quit");
    assert_eq!(kubelet.running.wait().code(), Some(0));
    assert_eq!(manager.wait().code(), Some(0));
}

#[test]
fn an_invalid_line_prints_the_expected_syntax() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &["--behavior", "newer"]);
    kubelet.prints("newer than 1.36.2");
    for (line, answer) in [
        ("pod", "usage: pod NAME RESOURCE=COUNT..."),
        (
            "stop",
            "stop: unknown command; type help for a list of commands",
        ),
        ("delete p", "no pod p"),
        ("lose a.io/x", "a.io/x: no plugin is connected"),
        ("help", "show the resources and the pods"),
    ] {
        kubelet.enter(line);
        kubelet.prints(answer);
    }
}

#[test]
fn a_pod_without_devices_exists_until_it_is_deleted() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    for (line, answer) in [
        ("pod p a.io/x=1", "pod p is admitted"),
        ("pod p a.io/x=1", "pod p already exists: delete it first"),
        ("delete p", "pod p is deleted"),
        ("delete p", "no pod p"),
        ("pod p a.io/x=1", "pod p is admitted"),
    ] {
        kubelet.enter(line);
        kubelet.prints(answer);
    }
}

#[test]
fn a_plugin_that_hangs_does_not_block_other_commands() {
    use rustix::process::Signal;
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    let manager = Running::manager(dir.path(), &[]);
    kubelet.prints("listed 2 devices");
    manager.signal(Signal::STOP);
    kubelet.enter("pod p example.com/simple-device=1");
    kubelet.enter("pod q example.com/simple-device=1");
    kubelet.prints("not now: a pod is waiting for its plugins");
    kubelet.enter("lose example.com/simple-device");
    kubelet.prints("pod p: UnexpectedAdmissionError");
    manager.signal(Signal::CONT);
    kubelet.prints("listed 2 devices");
    manager.signal(Signal::STOP);
    kubelet.enter("pod p example.com/simple-device=1");
    kubelet.enter("quit");
    assert_eq!(kubelet.running.wait().code(), Some(0));
    // The checkpoint must not contain the pod, whose admission did not complete.
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    manager.signal(Signal::CONT);
    kubelet.prints("listed 2 devices");
    kubelet.enter("status");
    kubelet.prints("no pod holds a device");
}

#[test]
fn an_admission_that_takes_too_long_rejects_the_pod() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &["--admission-timeout", "1"]);
    let manager = Running::manager(dir.path(), &[]);
    kubelet.prints("listed 2 devices");
    manager.signal(rustix::process::Signal::STOP);
    kubelet.enter("pod p example.com/simple-device=1");
    kubelet.prints(
        "pod p: UnexpectedAdmissionError: example.com/simple-device: Allocate was canceled",
    );
    manager.signal(rustix::process::Signal::CONT);
}

#[test]
fn blocked_output_does_not_block_the_kubelet() {
    let dir = plugin_dir();
    let mut command = sim();
    command.arg("--dir").arg(dir.path());
    let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let unread = running.child.stdout.take().expect("a pipe");
    let mut stdin = running.child.stdin.take().expect("a pipe");
    let first = Running::manager(dir.path(), &[]);
    first.wait_for_log("registered");
    // Their output is far larger than the pipe's buffer, and the lines fit into the buffer of standard input.
    for _ in 0..2_000 {
        writeln!(stdin, "status").expect("a reader");
    }
    let full = 65_536 - 4096;
    let began = Instant::now();
    while ioctl_fionread(&unread).expect("a pipe") < full {
        assert!(began.elapsed() < DEADLINE, "the pipe did not fill");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(first);
    let others = [
        ("RESOURCE_NAME", "example.com/other"),
        ("PLUGIN_NAME", "other"),
    ];
    let second = Running::manager(dir.path(), &others);
    second.wait_for_log("registered");
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.wait().code(), Some(0));
}

#[test]
fn exits_when_the_reader_of_its_output_closes_the_pipe() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    kubelet.prints("plugins register at");
    drop(std::mem::replace(
        &mut kubelet.printed,
        std::sync::mpsc::channel().1,
    ));
    // The next line that is received closes the pipe, and a later write fails.
    let mut stdin = kubelet.stdin.take().expect("an open input");
    std::thread::spawn(move || while writeln!(stdin, "help").is_ok() {});
    assert_eq!(kubelet.running.wait().code(), Some(0));
}

#[test]
fn does_not_touch_the_directory_of_another_kubelet() {
    let dir = plugin_dir();
    let kubelet = Kubelet::start(dir.path(), &[]);
    kubelet.prints("plugins register at");
    let mut command = sim();
    command.arg("--dir").arg(dir.path());
    let (code, _, stderr) = output(&mut command);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("another kubelet serves this directory"),
        "{stderr}"
    );
    drop(kubelet);
    let checkpoint = dir.path().join("kubelet_internal_checkpoint");
    let real = r#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}"#;
    std::fs::write(&checkpoint, real).expect("a file");
    let (code, _, stderr) = output(&mut command);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("cannot use the checkpoint there"),
        "{stderr}"
    );
    assert_eq!(std::fs::read_to_string(checkpoint).expect("a file"), real);
}

#[test]
fn keeps_running_after_the_end_of_its_input() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    kubelet.stdin = None;
    let _manager = Running::manager(dir.path(), &[]);
    kubelet.prints("registered at");
    kubelet.running.signal(rustix::process::Signal::TERM);
    assert_eq!(kubelet.running.wait().code(), Some(0));
}

#[test]
fn an_error_names_the_directory_that_cannot_be_used() {
    let dir = plugin_dir();
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let mut command = sim();
    let (code, _, stderr) = output(command.arg("--dir").arg(&file));
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("error: cannot start a kubelet in "),
        "{stderr}"
    );
    let (code, _, stderr) = output(sim().args(["--dir", "d", "--behavior", "1"]));
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("[possible values: 1.36, newer]"),
        "{stderr}"
    );
}

/// The plugin removes a device that a pod holds. A real kubelet crashes without naming the reason.
#[test]
fn a_crash_names_the_rule_that_the_plugin_violated() {
    // The plugins run on another thread, because this thread blocks on the kubelet's output.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let plugins = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    let _entered = plugins.enter();

    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &["--topology-policy", "single-numa-node"]);
    kubelet.prints("plugins register at");
    let plugin = FakePlugin::serve(dir.path(), "p.sock", &["a@0", "b@1"]);
    let registered = register(dir.path(), "example.com/thing", "p.sock");
    plugins.block_on(registered).expect("registered");
    kubelet.prints("listed 2 devices");
    kubelet.enter("pod two example.com/thing=2");
    kubelet.prints("pod two: TopologyAffinityError: Resources cannot be allocated with Topology");
    kubelet.enter("pod p example.com/thing=1");
    kubelet.prints("pod p is admitted");
    plugin.list.send_replace(Some(Ok(vec!["b@1".to_owned()])));
    kubelet.prints("a removed");
    kubelet.enter("restart");
    kubelet.prints("the kubelet restarted");
    drop(plugin);
    let _plugin = FakePlugin::serve(dir.path(), "q.sock", &["b@1"]);
    // The kubelet crashes during the response or just after it.
    let _ = plugins.block_on(register(dir.path(), "example.com/thing", "q.sock"));
    let error =
        "error: a real kubelet would have crashed: example.com/thing: the plugin removed device a";
    kubelet.running.wait_for_log(error);
    assert_eq!(kubelet.running.wait().code(), Some(1));
}

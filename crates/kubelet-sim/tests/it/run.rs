//! `kubelet-sim run`, as the author of a device plugin uses it.

use std::io::Write;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::process::{Running, binary, heard, lines, output};
use crate::support::{DEADLINE, plugin_dir};
use rustix::io::ioctl_fionread;

/// `kubelet-sim run`, in an empty environment.
fn sim() -> Command {
    let mut command = Command::new(binary("kubelet-sim"));
    command.env_clear().arg("run");
    command
}

/// The command with its standard input; what it prints is heard.
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

    fn told(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("an open input");
        writeln!(stdin, "{line}").expect("a reader");
    }

    #[track_caller]
    fn prints(&self, words: &str) -> String {
        heard(&self.printed, words)
    }
}

#[test]
fn it_shows_our_own_manager_come_and_go() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    kubelet.prints("plugins register at");
    kubelet.told("status");
    kubelet.prints("no plugin has registered yet");
    let manager = Running::manager(dir.path(), &[("ENV_PREFIX", "D")]);
    kubelet.prints("example.com/simple-device registered at simple-device-plugin.sock");
    kubelet.prints("listed 2 devices, all healthy");
    kubelet.prints("example.com/simple-device  2         2");

    kubelet.told("pod p example.com/simple-device=2 example.com/other=1");
    kubelet.prints("pod p is admitted");
    kubelet.prints("  env                      D_0=/dev/0");
    kubelet.prints("no plugin offers example.com/other: a kubelet runs the pod");
    kubelet.told("pod q example.com/simple-device=1");
    kubelet.prints("pod q: UnexpectedAdmissionError: example.com/simple-device: 1");
    kubelet.told("pod p example.com/simple-device=1");
    kubelet.prints("pod p is there already: delete it first");
    kubelet.told("restart");
    kubelet.prints("restarted");
    kubelet.told("wait example.com/simple-device=2");
    kubelet.told("status");
    kubelet.prints("p    example.com/simple-device");
    kubelet.told("delete p");
    kubelet.prints("pod p is deleted");
    kubelet.told("pod q example.com/simple-device=1");
    kubelet.prints("pod q is admitted");

    kubelet.told("lose example.com/simple-device");
    kubelet.prints("lost: its stream ended");
    kubelet.prints("registered at");
    kubelet.prints("listed 2 devices");
    manager.signal(rustix::process::Signal::TERM);
    kubelet.prints("lost: its stream ended");
    kubelet.prints("example.com/simple-device  2         0");
    kubelet.told("quit");
    assert_eq!(kubelet.running.ends().code(), Some(0));
    assert_eq!(manager.ends().code(), Some(0));
}

#[test]
fn it_tells_what_a_line_should_have_been() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &["--behavior", "newer"]);
    kubelet.prints("newer than 1.36.2");
    for (line, answer) in [
        ("pod", "expected pod NAME RESOURCE=COUNT..."),
        ("stop", "stop: no such command; help shows what there is"),
        ("delete p", "pod p holds no device"),
        ("lose a.io/x", "a.io/x has no plugin here"),
        ("help", "show the resources and the pods"),
    ] {
        kubelet.told(line);
        kubelet.prints(answer);
    }
}

#[test]
fn a_plugin_that_hangs_holds_up_nothing() {
    use rustix::process::Signal;
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    let manager = Running::manager(dir.path(), &[]);
    kubelet.prints("listed 2 devices");
    manager.signal(Signal::STOP);
    kubelet.told("pod p example.com/simple-device=1");
    kubelet.told("pod q example.com/simple-device=1");
    kubelet.prints("not now: a pod waits for its plugins");
    kubelet.told("lose example.com/simple-device");
    kubelet.prints("pod p: UnexpectedAdmissionError");
    manager.signal(Signal::CONT);
    kubelet.prints("listed 2 devices");
    manager.signal(Signal::STOP);
    kubelet.told("pod p example.com/simple-device=1");
    kubelet.told("quit");
    assert_eq!(kubelet.running.ends().code(), Some(0));
    // Half a pod would be in the checkpoint.
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    manager.signal(Signal::CONT);
    kubelet.prints("listed 2 devices");
    kubelet.told("status");
    kubelet.prints("no pod holds a device");
}

#[test]
fn an_output_that_nobody_reads_holds_up_nothing() {
    let dir = plugin_dir();
    let mut command = sim();
    command.arg("--dir").arg(dir.path());
    let mut running = Running::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let unread = running.child.stdout.take().expect("a pipe");
    let mut stdin = running.child.stdin.take().expect("a pipe");
    let first = Running::manager(dir.path(), &[]);
    first.says("registered");
    // What they print is far more than the pipe takes, and they are less than the way in takes.
    for _ in 0..2_000 {
        writeln!(stdin, "status").expect("a reader");
    }
    let full = 65_536 - 4096;
    let began = Instant::now();
    while ioctl_fionread(&unread).expect("a pipe") < full {
        assert!(began.elapsed() < DEADLINE, "the pipe does not fill");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(first);
    let others = [
        ("RESOURCE_NAME", "example.com/other"),
        ("PLUGIN_NAME", "other"),
    ];
    let second = Running::manager(dir.path(), &others);
    second.says("registered");
    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.ends().code(), Some(0));
}

#[test]
fn it_ends_with_its_reader() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    kubelet.prints("plugins register at");
    drop(std::mem::replace(
        &mut kubelet.printed,
        std::sync::mpsc::channel().1,
    ));
    // The next line that comes closes the pipe, and one after that finds it closed.
    let mut stdin = kubelet.stdin.take().expect("an open input");
    std::thread::spawn(move || while writeln!(stdin, "help").is_ok() {});
    assert_eq!(kubelet.running.ends().code(), Some(0));
}

#[test]
fn what_is_another_kubelets_is_left_alone() {
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
fn the_end_of_its_input_is_not_its_end() {
    let dir = plugin_dir();
    let mut kubelet = Kubelet::start(dir.path(), &[]);
    kubelet.stdin = None;
    let _manager = Running::manager(dir.path(), &[]);
    kubelet.prints("registered at");
    kubelet.running.signal(rustix::process::Signal::TERM);
    assert_eq!(kubelet.running.ends().code(), Some(0));
}

#[test]
fn a_directory_that_cannot_be_had_is_named() {
    let dir = plugin_dir();
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let mut command = sim();
    let (code, _, stderr) = output(command.arg("--dir").arg(&file));
    assert_eq!(code, Some(1));
    assert!(stderr.contains("error: no kubelet in "), "{stderr}");
    let (code, _, stderr) = output(sim().args(["--dir", "d", "--behavior", "1"]));
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("[possible values: 1.36, newer]"),
        "{stderr}"
    );
}

/// A plugin whose device goes while a pod holds it: a real kubelet crashes, and says no such word.
#[test]
fn a_plugin_that_crashes_it_is_told_by_which_rule() {
    // The plugins run beside this thread, which waits for what is printed.
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
    kubelet.told("pod two example.com/thing=2");
    kubelet.prints("pod two: TopologyAffinityError: Resources cannot be allocated with Topology");
    kubelet.told("pod p example.com/thing=1");
    kubelet.prints("pod p is admitted");
    plugin.list.send_replace(Some(Ok(vec!["b@1".to_owned()])));
    kubelet.prints("a gone");
    kubelet.told("restart");
    kubelet.prints("the kubelet restarted");
    drop(plugin);
    let _plugin = FakePlugin::serve(dir.path(), "q.sock", &["b@1"]);
    // It crashes while it answers, or just after.
    let _ = plugins.block_on(register(dir.path(), "example.com/thing", "q.sock"));
    let why = "error: a real kubelet would have crashed: example.com/thing: device a went";
    kubelet.running.says(why);
    assert_eq!(kubelet.running.ends().code(), Some(1));
}

//! The programs of this workspace as processes, and their output.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use kubelet_sim::Kubelet;
use tempfile::TempDir;

use super::{DEADLINE, RESOURCE, kubelet, plugin_dir, text, wait_for_node};

/// The number of stderr lines that a failed test shows.
const LINES_SHOWN: usize = 40;

/// Returns the path of a program of this workspace, which cargo builds one directory above the test program.
pub fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    let built = this
        .ancestors()
        .nth(2)
        .expect("the build's directory")
        .join(name);
    assert!(
        built.exists(),
        "{} is not built; run cargo test for the whole workspace",
        built.display()
    );
    built
}

/// Runs a test in a separate process, for tests that count the resources of their whole process. `test` is the full
/// path of the calling test. Returns true in the separate process, and false in the process that started it.
pub fn run_in_own_process(test: &str) -> bool {
    const ALONE: &str = "TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("a path");
    let mut command = Command::new(this);
    command
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .stderr(Stdio::inherit());
    let output = command.output().expect("the test");
    let text = String::from_utf8_lossy(&output.stdout);
    // The status is also a success if no test has this name.
    let passed = output.status.success() && text.contains("1 passed");
    assert!(
        passed,
        "{test} failed in a separate process: {}\n{text}",
        output.status
    );
    false
}

/// Returns the command of the daemon, or of the program in `TESTED_PROGRAM`, on node `n` with only these variables.
/// HTTP and the control socket are off by default, because tests run in parallel.
pub fn program(variables: &[(&str, &str)]) -> Command {
    let built = || binary("simple-device-plugin").into();
    let mut command = Command::new(std::env::var_os("TESTED_PROGRAM").unwrap_or_else(built));
    command
        .env_clear()
        .env("NODE_NAME", "n")
        .env("HTTP_ADDRESS", "")
        .env("CONTROL_SOCKET", "")
        .env("POD_RESOURCES_SOCKET", "")
        .envs(variables.iter().copied());
    command
}

/// A running program, which is killed on drop.
pub struct Running {
    pub child: Child,
    pub stderr: mpsc::Receiver<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program");
        let stderr = lines(child.stderr.take().expect("a pipe"));
        Self { child, stderr }
    }

    /// Starts the daemon with this device plugin directory and, by default, the pod-resources API of the kubelet in it.
    pub fn manager(dir: &Path, variables: &[(&str, &str)]) -> Self {
        let socket = dir.join("pod-resources/kubelet.sock");
        let default = ("POD_RESOURCES_SOCKET", text(&socket));
        let mut command = program(&[&[default], variables].concat());
        Self::start(command.env("DEVICE_PLUGIN_PATH", dir))
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a process");
    }

    /// Waits for a line on stderr that contains `words`, and returns it.
    #[track_caller]
    pub fn wait_for_log(&self, words: &str) -> String {
        wait_for_line(&self.stderr, words)
    }

    /// Waits until the program exits.
    #[track_caller]
    pub fn wait(mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            // The program's exit closes its stderr.
            match self.stderr.recv_timeout(deadline - Instant::now()) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the program did not exit"),
            }
        }
        self.child.wait().expect("a status")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines: Vec<String> = self.stderr.try_iter().collect();
            let first = lines.len().saturating_sub(LINES_SHOWN);
            eprintln!("last lines of stderr:\n{}", lines[first..].join("\n"));
        }
        // Both fail if the program has already exited.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a kubelet and the daemon as a process, and waits until the daemon's default resource is registered.
pub async fn running_manager(variables: &[(&str, &str)]) -> (TempDir, Kubelet, Running) {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let running = Running::manager(dir.path(), variables);
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    (dir, kubelet, running)
}

/// Waits for a line that contains `words`, and returns it.
#[track_caller]
pub fn wait_for_line(lines: &mpsc::Receiver<String>, words: &str) -> String {
    let deadline = Instant::now() + DEADLINE;
    let mut received = Vec::new();
    while let Ok(line) = lines.recv_timeout(deadline - Instant::now()) {
        if line.contains(words) {
            return line;
        }
        received.push(line);
    }
    panic!("no line contains {words:?}: {received:#?}");
}

/// Returns a receiver of the lines of this output.
pub fn lines(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        // If the receiver was dropped, this thread ends, which closes the pipe.
        let _ = lines.try_for_each(|line| sender.send(line));
    });
    receiver
}

/// Runs the command until it exits. Returns its exit code, stdout and stderr.
pub fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

//! The programs of this workspace as processes, and what they print.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use kubelet_sim::Kubelet;
use tempfile::TempDir;

use super::{DEADLINE, RESOURCE, kubelet, plugin_dir, shows};

/// How many of the last lines a failed test shows.
const LINES_SHOWN: usize = 40;

/// A program of this workspace, which cargo builds beside the directory of this test.
pub fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    let built = this
        .ancestors()
        .nth(2)
        .expect("the build's directory")
        .join(name);
    assert!(
        built.exists(),
        "{} is not built: test the whole workspace",
        built.display()
    );
    built
}

/// Runs this test in a process of its own, for a test that counts what its whole process holds. Returns true in that
/// process, and false in the one that started it. The name is the test's whole path.
pub fn is_alone(test: &str) -> bool {
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
    // A test that no longer exists is none, and passes.
    let passed = output.status.success() && text.contains("1 passed");
    assert!(
        passed,
        "{test} in a process of its own: {}\n{text}",
        output.status
    );
    false
}

/// The daemon's program, or the one that `TESTED_PROGRAM` names, on node `n` with only these variables. Tests run side
/// by side, so it serves neither HTTP nor a control socket unless the variables say so.
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

/// A running program. Dropping this kills it.
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

    /// The daemon with this plugin directory.
    pub fn manager(dir: &Path, variables: &[(&str, &str)]) -> Self {
        Self::start(program(variables).env("DEVICE_PLUGIN_PATH", dir).env(
            "POD_RESOURCES_SOCKET",
            dir.join("pod-resources/kubelet.sock"),
        ))
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a process");
    }

    /// Waits for a line on stderr that contains these words.
    #[track_caller]
    pub fn says(&self, words: &str) -> String {
        heard(&self.stderr, words)
    }

    /// Waits until the program ends, which closes its stderr.
    #[track_caller]
    pub fn ends(mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.stderr.recv_timeout(until - Instant::now()) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
        self.child.wait().expect("a status")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said: Vec<String> = self.stderr.try_iter().collect();
            let last = said.len().saturating_sub(LINES_SHOWN);
            eprintln!("the program said last:\n{}", said[last..].join("\n"));
        }
        // The program may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A kubelet, and the daemon as a process with its default resource registered.
pub async fn running_manager(variables: &[(&str, &str)]) -> (TempDir, Kubelet, Running) {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let running = Running::manager(dir.path(), variables);
    shows(&kubelet, RESOURCE, 2, 2).await;
    (dir, kubelet, running)
}

/// Waits for a line that contains these words.
#[track_caller]
pub fn heard(lines: &mpsc::Receiver<String>, words: &str) -> String {
    let until = Instant::now() + DEADLINE;
    let mut heard = Vec::new();
    while let Ok(line) = lines.recv_timeout(until - Instant::now()) {
        if line.contains(words) {
            return line;
        }
        heard.push(line);
    }
    panic!("never said {words:?}, but {heard:#?}");
}

/// The lines of this output as they come.
pub fn lines(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        // A receiver that is gone ends this thread, which closes the pipe.
        let _ = lines.try_for_each(|line| said.send(line));
    });
    heard
}

/// Runs the command to its end: code, stdout and stderr.
pub fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

//! The program itself, as a process.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use super::DEADLINE;

/// Of what a program said before a test failed.
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

/// Runs this test alone in a process of its own, since it counts what the whole process holds: returns whether this is
/// that process. The name is the test's whole path.
pub fn is_alone(test: &str) -> bool {
    const ALONE: &str = "TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("a path");
    let mut command = Command::new(this);
    command
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1");
    let status = command.status().expect("the test");
    assert!(status.success(), "{test} in a process of its own: {status}");
    false
}

/// The program in an environment of these variables alone, on node `n`, seen by nobody; that of `TESTED_PROGRAM` where it is set.
pub fn program(variables: &[(&str, &str)]) -> Command {
    let built = || binary("simple-device-plugin").into();
    let mut command = Command::new(std::env::var_os("TESTED_PROGRAM").unwrap_or_else(built));
    command
        .env_clear()
        .env("NODE_NAME", "n")
        // Off where a test does not ask for it: tests run side by side.
        .env("HTTP_ADDRESS", "")
        .env("CONTROL_SOCKET", "")
        .env("POD_RESOURCES_SOCKET", "")
        .envs(variables.iter().copied());
    command
}

/// The program as it runs, killed with its owner.
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

    /// The manager in this directory.
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

    /// Waits for a line on stderr that has this in it.
    #[track_caller]
    pub fn says(&self, words: &str) -> String {
        heard(&self.stderr, words)
    }

    /// Waits for its end: stderr closes with it.
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
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a line that has this in it.
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

/// What is written there, line by line.
pub fn lines(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        // Whoever hears no more closes the pipe.
        let _ = { lines }.try_for_each(|line| said.send(line));
    });
    heard
}

/// Code, stdout and stderr of a run to the end.
pub fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the program");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

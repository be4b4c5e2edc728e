//! The plugin under test as a process: start, signals, exit, output, and its use of processor time and memory.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use parking_lot::Mutex;
use rustix::param::clock_ticks_per_second;
use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use simple_device_plugin::util::sanitize::sanitize;
use tokio::time::{sleep, timeout};
use tracing::warn;

/// Where a plugin finds the kubelet unless it is configured otherwise (`DevicePluginPath` in the API).
const KUBELET_DIR: &str = "/var/lib/kubelet/device-plugins";
/// Mounts the directory `$1` at `$2` and runs the rest. The mount is visible only in this mount namespace.
const MOUNT: &str = r#"mkdir -p "$2" && mount --bind "$1" "$2" && shift 2 && exec "$@""#;

/// The interval between checks whether a process has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long the end of a killed process is awaited.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const KILL_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// In bytes: how much of the plugin's output is kept.
const OUTPUT_MAX: usize = 64 * 1024;
/// The number of output lines that a report shows.
const LINES_SHOWN: usize = 10;

/// How the plugin is started, and how it finds the kubelet's directory.
#[derive(Debug)]
pub(super) struct PluginCommand {
    words: Vec<OsString>,
    dir: PathBuf,
    dir_env: String,
    mounts: bool,
    output: Output,
}

impl PluginCommand {
    pub(super) fn new(words: Vec<OsString>, dir: &Path, dir_env: String) -> Self {
        Self {
            words,
            dir: dir.to_owned(),
            dir_env,
            mounts: can_mount(dir),
            output: Output::default(),
        }
    }

    /// # Errors
    /// Returns an error if the program does not exist or is not executable.
    pub(super) fn check(&self) -> io::Result<()> {
        let program = self.replace_dir(&self.words[0]);
        let path = env::var_os("PATH").unwrap_or_default();
        let is_path = program.as_bytes().contains(&b'/');
        let candidates: Vec<PathBuf> = if is_path {
            vec![PathBuf::from(&program)]
        } else {
            env::split_paths(&path)
                .map(|dir| dir.join(&program))
                .collect()
        };
        let is_executable = |path: &PathBuf| {
            let metadata = fs::metadata(path);
            metadata.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        };
        if candidates.iter().any(is_executable) {
            return Ok(());
        }
        let program = program.display();
        let text = format!("cannot start {program}: there is no such program");
        Err(io::Error::new(io::ErrorKind::NotFound, text))
    }

    /// Describes how the plugin finds the kubelet's directory.
    pub(super) fn describe(&self) -> String {
        let dir = self.dir.display();
        if self.mounts {
            format!("{KUBELET_DIR} is {dir} for the plugin, in a mount namespace of its own")
        } else {
            let env = &self.dir_env;
            format!("The plugin must use {env}={dir}, or {{dir}} in its arguments")
        }
    }

    /// Starts the plugin in a process group of its own.
    pub(super) fn start(&self) -> io::Result<Process> {
        let mut words = self.words.iter().map(|word| self.replace_dir(word));
        let mut command = if self.mounts {
            let mut command = unshare();
            command.args(["sh", "-c", MOUNT, "sh"]);
            command.arg(&self.dir).arg(KUBELET_DIR);
            command
        } else {
            Command::new(words.next().unwrap_or_default())
        };
        let (reader, writer) = io::pipe()?;
        command
            .args(words)
            .env(&self.dir_env, &self.dir)
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0);
        let child = command.spawn()?;
        self.output.follow(reader);
        Ok(Process(child))
    }

    /// Forgets the output up to now.
    pub(super) fn clear_output(&self) {
        self.output.0.lock().clear();
    }

    /// Returns the last lines of the plugin's output.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.output.last_lines()
    }

    /// Replaces `{dir}` by the kubelet's directory. A word that is not UTF-8 is not changed.
    fn replace_dir(&self, word: &OsString) -> OsString {
        match (word.to_str(), self.dir.to_str()) {
            (Some(word), Some(dir)) => word.replace("{dir}", dir).into(),
            _ => word.clone(),
        }
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "--"]);
    command
}

/// Returns whether a directory can be mounted in a private namespace. This needs root and util-linux.
fn can_mount(dir: &Path) -> bool {
    let mut command = unshare();
    command.args(["sh", "-c", MOUNT, "sh"]).arg(dir);
    command.args([KUBELET_DIR, "true"]);
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    geteuid().is_root() && command.status().is_ok_and(|status| status.success())
}

/// The last part of the output of a plugin's processes.
#[derive(Clone, Debug, Default)]
struct Output(Arc<Mutex<VecDeque<u8>>>);

impl Output {
    /// Reads a pipe in a thread of its own until every process that has it open has exited.
    fn follow(&self, mut reader: PipeReader) {
        let kept = Arc::clone(&self.0);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let mut kept = kept.lock();
                kept.extend(&buffer[..count]);
                let excess = kept.len().saturating_sub(OUTPUT_MAX);
                drop(kept.drain(..excess));
            }
        });
    }

    fn last_lines(&self) -> Vec<String> {
        let bytes: Vec<u8> = self.0.lock().iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let first = lines.len().saturating_sub(LINES_SHOWN);
        lines[first..].iter().map(|line| sanitize(line)).collect()
    }
}

/// A running plugin. Signals go to its whole process group, because the command may be a shell. It is killed on drop.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Process {
    /// Returns how the process has exited, or `None` while it runs.
    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        // An error means that the process is not a child of this process, which cannot happen.
        self.0.try_wait().ok().flatten()
    }

    /// Waits until the process exits.
    pub(super) async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let exit = async {
            loop {
                if let Some(status) = self.exited() {
                    return status;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(limit, exit).await.ok()
    }

    /// Sends SIGTERM.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGKILL and waits until the process has exited. A process of another user may not be killed.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
        // The process may have left its group.
        let _ = self.0.kill();
        let end = Instant::now() + KILL_TIMEOUT;
        while self.exited().is_none() {
            if Instant::now() > end {
                warn!(process = self.0.id(), "cannot kill the plugin");
                return;
            }
            std::thread::sleep(KILL_POLL_INTERVAL);
        }
    }

    fn signal(&self, signal: Signal) {
        // Fails if all processes of the group have exited.
        let _ = kill_process_group(Pid::from_child(&self.0), signal);
    }

    /// Returns what the processes of the group use now.
    pub(super) fn usage(&self) -> Usage {
        let group = i64::from(self.0.id());
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut usage = Usage::default();
        for path in entries.map(|entry| entry.path()) {
            if let Some(ticks) = group_ticks(&path, group) {
                usage.add(&path, ticks);
            }
        }
        usage
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the processes of a group use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// The processor time since their start.
    pub(super) processor: Duration,
    pub(super) descriptors: usize,
    /// The memory that is not backed by a file, in KiB.
    pub(super) memory: u64,
}

impl Usage {
    fn add(&mut self, process: &Path, ticks: u64) {
        let milliseconds = ticks * 1000 / clock_ticks_per_second();
        self.processor += Duration::from_millis(milliseconds);
        self.descriptors += fs::read_dir(process.join("fd")).map_or(0, Iterator::count);
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let mut lines = status.lines();
        let memory = lines.find_map(|line| line.strip_prefix("RssAnon:"));
        let memory = memory.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        self.memory += memory.unwrap_or(0);
    }
}

/// Returns the processor time of a process in clock ticks, or `None` if it is not in the group (proc_pid_stat(5)).
fn group_ticks(process: &Path, group: i64) -> Option<u64> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name of the program before this may contain spaces and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    if fields.get(2)?.parse::<i64>().ok()? != group {
        return None;
    }
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    Some(ticks(11)? + ticks(12)?)
}

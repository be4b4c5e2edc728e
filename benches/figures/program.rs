//! A measured process, and what `/proc` reports about it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kubelet_sim::{Kubelet, KubeletSettings};
use tokio::time::timeout;

use crate::Result;

/// Far longer than any measured step takes.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A process, which is killed on drop.
pub struct MeasuredProgram(Child);

impl MeasuredProgram {
    pub fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.stdin(Stdio::null()).spawn()?))
    }

    /// Returns a numeric field of `/proc/PID/status`, or of a thread's status.
    fn status(&self, thread: Option<&Path>, field: &str) -> Result<u64> {
        let process = self.proc();
        let path = thread.unwrap_or(&process).join("status");
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with(field));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(number.ok_or_else(|| format!("no {field}"))?.parse()?)
    }

    fn proc(&self) -> PathBuf {
        format!("/proc/{}", self.0.id()).into()
    }

    fn threads(&self) -> Result<Vec<PathBuf>> {
        let threads = std::fs::read_dir(self.proc().join("task"))?;
        threads.map(|thread| Ok(thread?.path())).collect()
    }

    /// Returns the resident memory, in MiB.
    #[expect(clippy::cast_precision_loss, reason = "KiB of a process")]
    pub fn resident(&self) -> Result<f64> {
        Ok(self.status(None, "VmRSS:")? as f64 / 1024.0)
    }

    pub fn thread_count(&self) -> Result<usize> {
        Ok(self.threads()?.len())
    }

    /// Returns the number of voluntary context switches of all threads so far. Each of them ends with a wake-up.
    pub fn wake_ups(&self) -> Result<u64> {
        let threads = self.threads()?;
        let each = threads
            .iter()
            .map(|thread| self.status(Some(thread), "voluntary_ctxt_switches:"));
        each.sum()
    }
}

impl Drop for MeasuredProgram {
    fn drop(&mut self) {
        // Both fail if the process has already exited.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The resources of a measured daemon, and its options.
#[derive(Clone, Copy)]
pub struct Load {
    pub resources: usize,
    /// The number of devices of each resource.
    pub devices: usize,
    pub outputs: Outputs,
    pub views: Views,
}

/// Whether the daemon serves HTTP and a control socket.
#[derive(Clone, Copy)]
pub enum Views {
    /// Neither HTTP nor a control socket.
    Off,
    /// HTTP on this port of 127.0.0.1, where 0 means any free port, and a control socket.
    On(u16),
}

/// What a container gets for each device.
#[derive(Clone, Copy)]
pub enum Outputs {
    /// Nothing, which is the default.
    None,
    /// A variable, an annotation and a device file.
    All,
}

impl Load {
    /// Starts a kubelet in this directory and the daemon, and waits until all devices are allocatable.
    pub async fn running(self, program: &Path, dir: &Path) -> Result<(Kubelet, MeasuredProgram)> {
        let kubelet = Kubelet::start(KubeletSettings::new(dir))?;
        let running = self.start(program, dir)?;
        self.wait_until_allocatable(&kubelet).await?;
        Ok((kubelet, running))
    }

    /// Starts the daemon with this plugin directory.
    pub fn start(self, program: &Path, dir: &Path) -> Result<MeasuredProgram> {
        let names: Vec<String> = (0..self.resources).map(name).collect();
        let pod_resources = KubeletSettings::new(dir).pod_resources_socket();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("NODE_NAME", "worker")
            .env("DEVICE_PLUGIN_PATH", dir)
            .env("POD_RESOURCES_SOCKET", pod_resources)
            .env("RESOURCE_NAME", names.join(","))
            .env("NUMBER_DEVICES", self.devices.to_string())
            .env("DEVICE_ID_PREFIX", "gpu")
            .env("RUST_LOG", "error")
            .env("HTTP_ADDRESS", "")
            .env("CONTROL_SOCKET", "");
        if let Views::On(port) = self.views {
            command
                .env("HTTP_ADDRESS", format!("127.0.0.1:{port}"))
                .env("CONTROL_SOCKET", dir.join("run/control.sock"));
        }
        if let Outputs::All = self.outputs {
            command
                .env("ENV_PREFIX", "GPU")
                .env("ANNOTATION_PREFIX", "example.com/gpu")
                .env("DEVICE_FILE_PREFIX", "gpu");
        }
        MeasuredProgram::start(&mut command)
    }

    /// Waits until all devices of all resources are allocatable.
    pub async fn wait_until_allocatable(self, kubelet: &Kubelet) -> Result<()> {
        let mut node = kubelet.node();
        let allocatable = node.wait_for(|node| {
            let complete = node.values().filter(|q| q.allocatable == self.devices);
            complete.count() == self.resources
        });
        timeout(DEADLINE, allocatable).await??;
        Ok(())
    }
}

/// Returns the name of the resource with this index.
pub fn name(index: usize) -> String {
    format!("example.com/gpu-{index}")
}

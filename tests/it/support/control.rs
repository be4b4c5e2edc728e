//! The daemon as a process with a control socket, and commands for it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use kubelet_sim::Kubelet;
use tempfile::TempDir;

use super::process::{Running, output, program};
use super::{DEADLINE, GPU, kubelet, on_another_thread, plugin_dir, pod, text, wait_for_node};

/// Returns the path of the control socket in a test's directory.
pub fn control(dir: &Path) -> PathBuf {
    dir.join("run/control.sock")
}

/// Runs a command for the daemon whose control socket is in this directory. Returns its exit code, stdout and stderr.
pub fn run(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let control = control(dir);
    let mut command = program(&[("CONTROL_SOCKET", text(&control))]);
    output(command.args(arguments))
}

/// A device plugin directory, and the path of a control socket for the daemon.
pub struct ControlledNode {
    pub dir: TempDir,
    pub control: PathBuf,
}

impl ControlledNode {
    pub fn new() -> Self {
        let dir = plugin_dir();
        let control = control(dir.path());
        Self { dir, control }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn control(&self) -> &str {
        text(&self.control)
    }

    /// Returns the daemon's variables for two resources and the control socket.
    pub fn variables(&self) -> [(&str, &str); 4] {
        [
            ("CONTROL_SOCKET", self.control()),
            ("RESOURCE_NAME", "example.com/gpu,example.com/nic"),
            ("NUMBER_DEVICES", "4,2"),
            ("NUMA_NODES", "0-1,"),
        ]
    }

    /// Starts a kubelet and the daemon, waits until both resources are registered, and admits a pod that holds a GPU.
    pub async fn running(&self) -> (Running, Kubelet) {
        self.running_with(&[]).await
    }

    /// Does the same with more variables.
    pub async fn running_with(&self, more: &[(&str, &str)]) -> (Running, Kubelet) {
        let kubelet = on_another_thread(|| kubelet(self.path()));
        let ordered = ("PREFERRED_ALLOCATION", "ordered");
        let variables = [&self.variables()[..], &[ordered], more].concat();
        let manager = Running::manager(self.path(), &variables);
        manager.wait_for_log("listening for commands");
        wait_for_node(&kubelet, GPU, 4, 4).await;
        wait_for_node(&kubelet, "example.com/nic", 2, 2).await;
        let admitted = kubelet.admit(&pod("p", &[(GPU, 1)])).await;
        admitted.expect("admitted");
        (manager, kubelet)
    }

    /// Runs `status`. Returns its exit code, stdout and stderr.
    pub fn status(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = program(&[("CONTROL_SOCKET", self.control())]);
        output(command.arg("status").args(arguments))
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.control).expect("the control socket");
        stream.set_read_timeout(Some(DEADLINE)).expect("a socket");
        stream
    }

    /// Sends bytes to the control socket and returns the response.
    pub fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The daemon may close the connection before it has read everything.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut response = String::new();
        let _ = stream.read_to_string(&mut response);
        response
    }
}

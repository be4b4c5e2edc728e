//! A node with a kubelet and the daemon, which a test controls by commands, faults and the config file.

use std::fs;
use std::path::{Path, PathBuf};

use kubelet_sim::{AdmissionError, Kubelet};
use serde::de::DeserializeOwned;
use serde_json::Value;
use simple_device_plugin::control::{Refusal, ResetReply};
use tempfile::TempDir;

use super::control::{control, run};
use super::process::Running;
use super::{GPU, kubelet, on_another_thread, other_thread, plugin_dir, pod, text, wait_for_node};

/// A config file with four devices.
pub const FOUR: &str = "{removalGrace: 1s, resources: [{name: example.com/gpu, devices: 4, preferredAllocation: ordered}]}";
/// A config file with four devices of a resource for which the kubelet also calls PreStartContainer.
pub const FOUR_PRE_START: &str = "{removalGrace: 1s, resources: [{name: example.com/gpu, devices: 4, preferredAllocation: ordered, preStart: true}]}";

/// A kubelet, and the daemon as a process with a config file and a control socket.
pub struct Node {
    pub dir: TempDir,
    pub file: PathBuf,
    pub manager: Running,
    pub kubelet: Kubelet,
}

impl Node {
    pub fn with(config: &str) -> Self {
        Self::with_kubelet(config, |dir| on_another_thread(|| kubelet(dir)))
    }

    pub fn with_kubelet(config: &str, kubelet: impl FnOnce(&Path) -> Kubelet) -> Self {
        let dir = plugin_dir();
        let file = dir.path().join("config.yaml");
        fs::write(&file, config).expect("a file");
        let kubelet = kubelet(dir.path());
        let manager = Running::manager(
            dir.path(),
            &[
                ("CONTROL_SOCKET", text(&control(dir.path()))),
                ("CONFIG_FILE", text(&file)),
            ],
        );
        manager.wait_for_log("listening for commands");
        Self {
            dir,
            file,
            manager,
            kubelet,
        }
    }

    /// Runs a command of the daemon. Returns its exit code, stdout and stderr.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        run(self.dir.path(), arguments)
    }

    /// Runs a command with `--json` that must succeed, and returns the reply.
    #[track_caller]
    pub fn run_json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let (code, stdout, stderr) = self.run(&[arguments, &["--json"]].concat());
        assert_eq!((code, &*stderr), (Some(0), ""));
        serde_json::from_str(&stdout).expect("a reply")
    }

    /// Runs a command with `--json` that the daemon must refuse, and returns the refusal.
    #[track_caller]
    pub fn refusal(&self, arguments: &[&str]) -> Refusal {
        let (code, stdout, stderr) = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(code, Some(1));
        let reply: Value = serde_json::from_str(&stdout).expect("JSON");
        let message = reply["message"].as_str().expect("a message");
        assert_eq!(stderr, format!("error: {message}\n"));
        serde_json::from_value(reply["refused"].clone()).expect("a refusal")
    }

    /// Runs `reset`, which removes the overrides and faults that were set at run time.
    #[track_caller]
    pub fn resets(&self) {
        let ResetReply { resource } = self.run_json(&["reset", GPU]);
        assert_eq!(resource, GPU);
    }

    /// Waits until the Node object shows these numbers of GPUs.
    pub async fn wait_for_node(&self, capacity: usize, allocatable: usize) {
        wait_for_node(&self.kubelet, GPU, capacity, allocatable).await;
    }

    /// Restarts the kubelet, on another thread than the test's.
    pub async fn with_another_kubelet(self) -> Self {
        let Self {
            dir,
            file,
            manager,
            kubelet,
        } = self;
        let restarted = other_thread().spawn(async move { kubelet.restart().await });
        Self {
            kubelet: restarted.await.expect("no panic").expect("a kubelet"),
            dir,
            file,
            manager,
        }
    }

    /// Changes the config file, and waits until the daemon has read it.
    pub fn reloads(&self, config: &str) {
        fs::write(&self.file, config).expect("a file");
        self.manager.wait_for_log("reloaded the config file");
    }

    /// Admits a pod that requests one GPU.
    pub async fn admits(&self, name: &str) -> Result<(), AdmissionError> {
        let pod = pod(name, &[(GPU, 1)]);
        self.kubelet.admit(&pod).await.map(drop)
    }

    /// Admits a pod that requests one GPU and must be rejected. Returns the message of its UnexpectedAdmissionError.
    #[track_caller]
    pub fn refused(&self, name: &str) -> impl Future<Output = String> {
        let pod = pod(name, &[(GPU, 1)]);
        async move {
            let error = self.kubelet.admit(&pod).await.expect_err("a refusal");
            assert_eq!(error.reason(), "UnexpectedAdmissionError");
            error.to_string()
        }
    }

    /// Returns the first resource in the output of `status --json`.
    pub fn status(&self) -> Value {
        let (_, json, _) = self.run(&["status", "--json"]);
        let status: Value = serde_json::from_str(&json).expect("JSON");
        status["resources"][0].clone()
    }

    /// Clears all faults, and checks that none is left.
    pub fn clears_all_faults(&self) {
        let cleared = self.run(&["fault", "clear"]);
        assert_eq!(cleared.0, Some(0), "{}", cleared.2);
        assert_eq!(self.run(&["fault", "list"]).1, "no faults\n");
    }
}

//! The program as a process with a config file and a control socket, steered by its own commands, and a kubelet.

use std::fs;
use std::path::{Path, PathBuf};

use kubelet_sim::Kubelet;
use tempfile::TempDir;

use super::process::{Running, output, program};
use super::{kubelet, plugin_dir, shows};

pub const GPU: &str = "example.com/gpu";
pub const FOUR: &str = "{removalGrace: 1s, resources: [{name: example.com/gpu, devices: 4, preferredAllocation: ordered}]}";

/// A manager of a config file, and a kubelet.
pub struct Node {
    pub dir: TempDir,
    pub file: PathBuf,
    pub manager: Running,
    pub kubelet: Kubelet,
}

impl Node {
    pub fn with(config: &str) -> Self {
        Self::with_kubelet(config, kubelet)
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
        manager.says("listening for commands");
        Self {
            dir,
            file,
            manager,
            kubelet,
        }
    }

    pub fn does(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        does(self.dir.path(), arguments)
    }

    /// Prints what then is.
    #[track_caller]
    pub fn sets(&self, arguments: &[&str], expected: &str) {
        let (code, stdout, stderr) = self.does(arguments);
        assert_eq!((code, &*stdout, &*stderr), (Some(0), expected, ""));
    }

    #[track_caller]
    pub fn refuses(&self, arguments: &[&str], expected: &str) {
        let (code, stdout, stderr) = self.does(arguments);
        assert_eq!((code, &*stdout, &*stderr), (Some(1), "", expected));
    }

    pub async fn shows(&self, capacity: usize, allocatable: usize) {
        shows(&self.kubelet, GPU, capacity, allocatable).await;
    }

    /// The kubelet restarts.
    pub async fn with_another_kubelet(self) -> Self {
        let Self {
            dir,
            file,
            manager,
            kubelet,
        } = self;
        Self {
            kubelet: kubelet.restart().await.expect("a new life"),
            dir,
            file,
            manager,
        }
    }

    pub fn reloads(&self, config: &str) {
        fs::write(&self.file, config).expect("a file");
        self.manager.says("read the config file again");
    }
}

pub fn does(dir: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let control = control(dir);
    let mut command = program(&[("CONTROL_SOCKET", text(&control))]);
    output(command.args(arguments))
}

pub fn control(dir: &Path) -> PathBuf {
    dir.join("run/control.sock")
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

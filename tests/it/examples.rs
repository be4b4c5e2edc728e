//! Tests of the examples without a script: on the simulated kubelet, their pods get the expected devices and logs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    Manager, assert_alive, config_of_file, config_of_variables, held, kubelet_with, plugin_dir,
    wait_for_node,
};
use kubelet_sim::{AdmissionError, Kubelet, Pod, TopologyPolicy};
use serde::Deserialize;
use simple_device_plugin::config::Config;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads the configuration of an example, on a node.
fn config(name: &str, node: &str) -> Config {
    config_of_file(&text(&example(name).join("config.yaml")), node)
}

/// The manifest of a Pod, or of a Deployment, whose pod is in `spec.template`.
#[derive(Deserialize)]
struct Manifest {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(default)]
    containers: Vec<Container>,
    template: Option<Template>,
}

#[derive(Deserialize)]
struct Template {
    spec: Box<Spec>,
}

#[derive(Deserialize)]
struct Container {
    command: Vec<String>,
    resources: Resources,
}

#[derive(Deserialize)]
struct Resources {
    limits: BTreeMap<String, usize>,
}

struct ExamplePod {
    pod: Pod,
    script: String,
    logs: PathBuf,
}

fn pods(name: &str) -> Vec<ExamplePod> {
    let manifests: Vec<Manifest> =
        serde_saphyr::from_multiple(&text(&example(name).join("pods.yaml"))).expect("manifests");
    let pod = |manifest: Manifest| {
        let spec = manifest
            .spec
            .template
            .map_or(manifest.spec.containers, |template| {
                template.spec.containers
            });
        let [container] = &spec[..] else {
            panic!("one container")
        };
        let [sh, c, script] = &container.command[..] else {
            panic!("a script")
        };
        assert_eq!((&**sh, &**c), ("sh", "-c"));
        let script = script
            .strip_suffix("exec sleep 3600")
            .expect("a script that keeps the pod running");
        ExamplePod {
            logs: example(name).join("logs").join(&manifest.metadata.name),
            // The script reads the environment of process 1. In this test, the shell is another process.
            script: script.replace("/proc/1/", "/proc/$$/"),
            pod: Pod::with_one_container(
                manifest.metadata.name,
                container.resources.limits.clone(),
            ),
        }
    };
    manifests.into_iter().map(pod).collect()
}

/// A node that runs the configuration of an example.
struct ExampleNode {
    name: &'static str,
    kubelet: Kubelet,
    manager: Manager,
    dir: tempfile::TempDir,
}

impl ExampleNode {
    async fn with(example: &str, name: &'static str, policy: TopologyPolicy) -> Self {
        Self::of(config(example, name), name, policy).await
    }

    async fn of(config: Config, name: &'static str, policy: TopologyPolicy) -> Self {
        let dir = plugin_dir();
        let kubelet = kubelet_with(dir.path(), |settings| settings.topology_policy = policy);
        let manager = Manager::of(dir.path(), config.plugins.resources.clone());
        for resource in &config.plugins.resources {
            let healthy = resource
                .devices
                .as_slice()
                .iter()
                .filter(|device| device.is_allocatable())
                .count();
            wait_for_node(
                &kubelet,
                resource.name.as_str(),
                resource.devices.len(),
                healthy,
            )
            .await;
        }
        Self {
            name,
            kubelet,
            manager,
            dir,
        }
    }

    fn shown(&self) -> Vec<(String, usize)> {
        let node = self.kubelet.node();
        let node = node.borrow();
        node.iter()
            .map(|(name, shown)| (name.clone(), shown.allocatable))
            .collect()
    }

    /// Admits the pod, runs its script with the container's variables, and returns the script's output.
    async fn logs(&self, pod: &ExamplePod) -> Result<String, AdmissionError> {
        let got = self.kubelet.admit(&pod.pod).await?;
        let envs = got.iter().flat_map(|assignment| &assignment.response.envs);
        let output = Command::new("sh")
            .arg("-c")
            .arg(&pod.script)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("a PATH"))
            .envs(envs)
            .output()
            .expect("a shell");
        Ok(String::from_utf8(output.stdout).expect("UTF-8"))
    }

    #[track_caller]
    fn compare(&self, pod: &ExamplePod, logs: &str) {
        // dash and busybox quote all values; other shells quote only values with special characters.
        let unquoted = |text: &str| text.replace('\'', "");
        assert_eq!(
            unquoted(logs),
            unquoted(&text(&pod.logs).replace("NODE", self.name))
        );
    }

    async fn end(self) {
        assert_alive(&self.kubelet);
        self.manager.stop().await;
    }
}

#[tokio::test]
async fn two_resources_on_two_numa_nodes() {
    let name = "000-two-numa-nodes";
    let [both] = &pods(name)[..] else {
        panic!("one pod")
    };
    let node = ExampleNode::with(name, "kind-control-plane", TopologyPolicy::SingleNumaNode).await;
    assert_eq!(
        node.shown(),
        [
            ("example.com/deviceA".to_owned(), 2),
            ("example.com/deviceB".to_owned(), 2)
        ]
    );
    let logs = node.logs(both).await.expect("admitted");
    node.compare(both, &logs);
    let files = &node.kubelet.assignments("both")[0].response.devices;
    assert_eq!(files[0].container_path, "/dev/deviceA0");
    node.end().await;

    let node = ExampleNode::with(name, "kind-worker", TopologyPolicy::SingleNumaNode).await;
    let refused = node
        .logs(both)
        .await
        .expect_err("no NUMA node has both resources");
    assert_eq!(refused.reason(), "TopologyAffinityError");
    node.end().await;
}

#[tokio::test]
async fn three_resources_over_two_workers() {
    let name = "001-three-resources";
    let [one, two, three] = &pods(name)[..] else {
        panic!("three pods")
    };
    let counts = |node: &ExampleNode| {
        node.shown()
            .into_iter()
            .map(|(_, count)| count)
            .collect::<Vec<_>>()
    };
    let worker = ExampleNode::with(name, "kind-worker", TopologyPolicy::None).await;
    assert_eq!(counts(&worker), [1, 0, 0]);
    worker.compare(one, &worker.logs(one).await.expect("admitted"));
    worker.end().await;

    let worker = ExampleNode::with(name, "kind-worker2", TopologyPolicy::None).await;
    assert_eq!(counts(&worker), [0, 1, 3]);
    worker.compare(two, &worker.logs(two).await.expect("admitted"));
    // The pod needs both resources, and is rejected until the second pod is deleted.
    worker.logs(three).await.expect_err("mydevice-2 is in use");
    worker.kubelet.delete("dp1-2");
    worker.compare(three, &worker.logs(three).await.expect("admitted"));
    worker.end().await;
}

#[tokio::test]
async fn one_resource_as_variables_and_as_a_file() {
    let name = "002-variables";
    let [fpga] = &pods(name)[..] else {
        panic!("one pod")
    };
    let node = ExampleNode::with(name, "worker", TopologyPolicy::None).await;
    node.compare(fpga, &node.logs(fpga).await.expect("admitted"));
    let response = &node.kubelet.assignments("fpga")[0].response;
    assert_eq!(response.annotations["example.com/fpga-fpga-worker-0"], "");
    assert_eq!(
        response.devices[0].container_path,
        "/dev/fpga-fpga-worker-0"
    );
    node.end().await;

    // With variables, the names in the container contain the device's index instead of its ID.
    let variables = text(&example(name).join("variables.env"));
    let variables: Vec<(&str, &str)> = variables
        .lines()
        .map(|line| line.split_once('=').expect("a variable"))
        .collect();
    let config = config_of_variables(&variables, "worker");
    assert_eq!(config.namespace, "fpga");
    let node = ExampleNode::of(config, "worker", TopologyPolicy::None).await;
    let logs = node.logs(fpga).await.expect("admitted");
    assert_eq!(logs, "FPGA_0=/dev/0\nFPGA_1=/dev/1\n");
    assert_eq!(
        held(&node.kubelet, "fpga"),
        ["fpga-worker-0", "fpga-worker-1"]
    );
    assert_eq!(
        node.kubelet.assignments("fpga")[0].response.annotations["example.com/fpga-1"],
        "fpga-worker-1"
    );
    assert!(node.dir.path().join("fpga.sock").exists());
    node.end().await;
}

#[tokio::test]
async fn a_list_of_devices_with_attributes() {
    let name = "003-widgets";
    let [ghost] = &pods(name)[..] else {
        panic!("one pod")
    };
    let node = ExampleNode::with(name, "worker", TopologyPolicy::None).await;
    assert_eq!(node.shown(), [("ska-sdp.org/widget".to_owned(), 3)]);
    node.compare(ghost, &node.logs(ghost).await.expect("admitted"));
    let all = ExamplePod {
        pod: Pod::with_one_container("more", [("ska-sdp.org/widget".to_owned(), 2)]),
        script: ghost.script.clone(),
        logs: PathBuf::new(),
    };
    let logs = node.logs(&all).await.expect("admitted");
    assert!(
        logs.contains("WIDGET_VISIBLE_DEVICES=/dev/wibble2,/dev/wibble3\n"),
        "{logs}"
    );
    assert!(
        logs.contains("WIDGET_VISIBLE_DEVICE_IDS=snaffler_v1_1,snaffler_v2_2\n"),
        "{logs}"
    );
    node.end().await;
}

#[tokio::test]
async fn four_devices_and_a_pod_that_requests_five() {
    let name = "004-sample-device";
    let [two, five] = &pods(name)[..] else {
        panic!("two pods")
    };
    let node = ExampleNode::with(name, "worker", TopologyPolicy::None).await;
    node.logs(five).await.expect_err("only four devices exist");
    node.compare(two, &node.logs(two).await.expect("admitted"));
    node.end().await;
}

#[tokio::test]
async fn eight_gpus_and_two_nics() {
    let name = "005-gpu-node";
    let [training, serving] = &pods(name)[..] else {
        panic!("two pods")
    };
    let node = ExampleNode::with(name, "worker", TopologyPolicy::SingleNumaNode).await;
    node.compare(training, &node.logs(training).await.expect("admitted"));
    node.compare(serving, &node.logs(serving).await.expect("admitted"));
    node.end().await;
}

#[test]
fn the_conformance_page_shows_the_python_plugin() {
    let plugin = text(&example("python-plugin").join("plugin.py"));
    let page = text(&example("../docs/conformance.md"));
    assert!(page.contains(&format!("```python\n{plugin}```\n")));
}

#[test]
fn every_example_has_a_test_and_a_readme_entry() {
    let readme = text(&example("README.md"));
    for entry in std::fs::read_dir(example("")).expect("examples") {
        let name = entry.expect("an entry").file_name();
        let name = name.into_string().expect("UTF-8");
        if !example(&name).is_dir() {
            continue;
        }
        let has_script = example(&name).join("run").exists();
        let tests = if has_script {
            include_str!("example_scripts.rs")
        } else {
            include_str!("examples.rs")
        };
        assert!(readme.contains(&format!("[{name}]")), "{name}");
        assert!(tests.contains(&format!("\"{name}\"")), "{name}");
    }
}

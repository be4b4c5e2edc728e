//! The program's output: errors in the variables, the output of `check`, and the log.

use std::process::Stdio;

use crate::support::process::{Running, output, program, running_manager};
use crate::support::{RESOURCE, plugin_dir, pod};

const INVALID: [(&str, &str); 7] = [
    ("RESOURCE_NAME", "gpu,example.com/nic"),
    ("NUMBER_DEVICES", "two,3000000"),
    ("NUMBER_DEVICES_7", "1"),
    ("PLUGIN_NAME", "../up"),
    ("NUMA_NODES", "0-"),
    ("LOG_FORMAT", "xml"),
    ("RUST_LOG", "loud"),
];

#[test]
fn every_error_is_reported_and_nothing_is_changed() {
    let dir = plugin_dir();
    for (arguments, result) in [(&[][..], "; nothing was started"), (&["check"], "")] {
        let mut command = program(&INVALID);
        let (code, stdout, stderr) = output(
            command
                .args(arguments)
                .env("DEVICE_PLUGIN_PATH", dir.path()),
        );
        assert_eq!(code, Some(78), "{stderr}");
        assert_eq!(stdout, "");
        let starts = [
            "error: RUST_LOG=\"loud\": expected a level",
            "error: LOG_FORMAT=\"xml\": expected text or json",
            "error: NUMBER_DEVICES_7=\"1\": expected an index below 2",
            "error: NUMBER_DEVICES=\"two\": expected a whole number",
            "error: NUMA_NODES=\"0-\": expected NUMA nodes",
            "error: RESOURCE_NAME=\"gpu\": expected a name with one '/'",
            "error: PLUGIN_NAME=\"../up\": expected a file name",
            "error: NUMBER_DEVICES=\"3000000\": expected at most",
        ];
        let mut lines: Vec<&str> = stderr.lines().collect();
        let summary = format!("8 errors in the variables{result}");
        assert_eq!(lines.pop(), Some(&*summary));
        assert_eq!(lines.len(), starts.len(), "{stderr}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
        assert_eq!(dir.path().read_dir().expect("the directory").count(), 0);
    }
}

#[test]
fn a_pod_without_node_name_is_an_error() {
    let mut command = program(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")]);
    let (code, _, stderr) = output(command.env_remove("NODE_NAME").arg("check"));
    assert_eq!(code, Some(78));
    assert!(
        stderr.starts_with("error: NODE_NAME=\"\": expected the name of the node"),
        "{stderr}"
    );
}

#[test]
fn check_shows_the_resources_of_another_node() {
    let variables = [
        ("RESOURCE_NAME", "example.com/gpu,example.com/nic"),
        ("NUMBER_DEVICES", "4,2"),
        ("NUMBER_DEVICES_1.worker2", "0"),
        ("NUMA_NODES", "0-1,"),
        ("ENV_PREFIX", "GPU,"),
        ("DEVICE_FILE_PREFIX", "gpu,"),
    ];
    let (code, stdout, stderr) = output(program(&variables).args(["check", "--node", "worker2"]));
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(
        stdout,
        "\
2 resources on node worker2 in /var/lib/kubelet/device-plugins

example.com/gpu
  socket            simple-device-plugin-example.com_gpu.sock
  devices           4: gpu-worker2-0 … gpu-worker2-3
  NUMA nodes        2 on node 0, 2 on node 1
  preference        none
  list size         132 of at most 4194304 bytes
  one device gives  env GPU_0=/dev/0
                    device file /dev/gpu-0 (rw), the host's /dev/gpu-0
  host paths        /dev/gpu-0 … /dev/gpu-3

example.com/nic
  socket      simple-device-plugin-example.com_nic.sock
  devices     0
  NUMA nodes  no topology
  preference  none
  list size   0 of at most 4194304 bytes
"
    );
}

#[tokio::test]
async fn logs_json_if_configured_and_each_rpc_at_level_trace() {
    let variables = [("LOG_FORMAT", "json"), ("RUST_LOG", "trace")];
    let (_dir, kubelet, running) = running_manager(&variables).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 1)]))
        .await
        .expect("admitted");
    drop(kubelet);
    let lines = tokio::task::spawn_blocking(move || {
        let mut lines = vec![running.wait_for_log("DevicePlugin.allocate")];
        running.signal(rustix::process::Signal::TERM);
        lines.extend(running.stderr.iter());
        lines
    });
    let lines = lines.await.expect("lines");
    let allocate: serde_json::Value = serde_json::from_str(&lines[0]).expect("JSON");
    assert_eq!(allocate["message"], "DevicePlugin.allocate");
    assert_eq!(allocate["resource"], RESOURCE);
    assert!(
        allocate["device_id"]
            .as_str()
            .is_some_and(|id| id.starts_with("simple-device-n-"))
    );
    for line in lines {
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert!(json["message"].is_string(), "{line}");
    }
}

#[test]
fn the_first_log_line_names_the_namespace_and_the_node() {
    let dir = plugin_dir();
    let running = Running::manager(
        dir.path(),
        &[("NAMESPACE", "lab"), ("DEVICE_ID_PREFIX", &"x".repeat(70))],
    );
    let first = running.wait_for_log("");
    for words in [
        "starting simple-device-plugin",
        "namespace=\"lab\"",
        "node=\"n\"",
        "resources=1",
    ] {
        assert!(first.contains(words), "{first}");
    }
    running.wait_for_log("WARN example.com/simple-device: device ID");
}

#[test]
fn a_closed_stdout_is_not_an_error() {
    let (reader, closed) = std::io::pipe().expect("a pipe");
    drop(reader);
    let names: Vec<String> = (0..1000).map(|i| format!("example.com/r{i}")).collect();
    let mut command = program(&[("RESOURCE_NAME", &names.join(","))]);
    let status = command
        .arg("check")
        .stdout(closed)
        .stderr(Stdio::null())
        .status();
    assert_eq!(status.expect("a status").code(), Some(0));
}

//! Tests of the checkpoint: its format, and how long it contains the devices of a deleted pod.

use std::path::Path;
use std::time::Duration;

use crate::support::client::register;
use crate::support::fake_plugin::FakePlugin;
use crate::support::{kubelet, plugin_dir, pod, settings, wait_for_node, within};
use kubelet_sim::{AdmissionError, Kubelet};
use simple_device_plugin::node::checkpoint_file::CheckpointFile;
use simple_device_plugin::node::pod_resources::PodResources;

const RESOURCE: &str = "example.com/thing";

#[tokio::test]
async fn starts_with_an_invalid_checkpoint() {
    let dir = plugin_dir();
    std::fs::write(dir.path().join("kubelet_internal_checkpoint"), "{").expect("a file");
    let kubelet = kubelet(dir.path());
    assert!(kubelet.node().borrow().is_empty());
}

#[tokio::test]
async fn writes_the_checkpoint_in_the_format_of_a_real_kubelet() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let _plugin = FakePlugin::serve(dir.path(), "a.sock", &["a", "b"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    kubelet
        .admit(&pod("p", &[(RESOURCE, 2)]))
        .await
        .expect("admitted");
    let text = std::fs::read_to_string(dir.path().join("kubelet_internal_checkpoint"));
    let file: serde_json::Value = serde_json::from_str(&text.expect("a file")).expect("JSON");
    let entry = &file["Data"]["PodDeviceEntries"][0];
    assert_eq!(entry["PodUID"], "p");
    assert_eq!(entry["ContainerName"], "main");
    assert_eq!(entry["ResourceName"], RESOURCE);
    assert_eq!(entry["DeviceIDs"], serde_json::json!({"-1": ["a", "b"]}));
    assert_eq!(
        file["Data"]["RegisteredDevices"],
        serde_json::json!({RESOURCE: ["a", "b"]})
    );
    assert!(file["Checksum"].is_u64());
}

/// Returns the IDs of the devices that pods hold according to the checkpoint.
async fn in_checkpoint(dir: &Path) -> Vec<String> {
    let written = CheckpointFile::new(dir).read().await.expect("a checkpoint");
    let held = written.checkpoint.held(RESOURCE).into_iter();
    held.map(|device| device.id.into()).collect()
}

/// A kubelet frees the devices of a deleted pod when it admits the next pod or answers a pod-resources request. It
/// writes the checkpoint when a plugin sends its next list.
#[tokio::test]
async fn a_deleted_pod_stays_in_the_checkpoint_until_the_next_list() {
    let dir = plugin_dir();
    let settings = settings(dir.path());
    let pod_resources = PodResources::new(settings.pod_resources_socket());
    pod_resources.list().await.expect_err("no kubelet yet");
    let kubelet = Kubelet::start(settings).expect("a kubelet");
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["x"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    let pod_of = |name| pod(name, &[(RESOURCE, 1)]);
    kubelet.admit(&pod_of("first")).await.expect("admitted");
    kubelet.delete("first");
    kubelet
        .admit(&pod_of("second"))
        .await
        .expect("the device is free again");
    assert!(
        pod_resources
            .list()
            .await
            .expect("pods")
            .holds(RESOURCE, "x")
    );
    kubelet.delete("second");
    assert_eq!(in_checkpoint(dir.path()).await, ["x"]);
    let freed = async {
        while pod_resources
            .list()
            .await
            .expect("pods")
            .holds(RESOURCE, "x")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("a response without the deleted pod", freed).await;
    // The kubelet would write a changed checkpoint in this time.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        in_checkpoint(dir.path()).await,
        ["x"],
        "a pod-resources request does not write the checkpoint"
    );
    let ids = |ids: &[&str]| Some(Ok(ids.iter().map(|id| (*id).to_owned()).collect()));
    plugin.list.send_replace(ids(&["x", "y"]));
    wait_for_node(&kubelet, RESOURCE, 2, 2).await;
    let written = async {
        while !in_checkpoint(dir.path()).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("a checkpoint without the deleted pod", written).await;
}

/// The kubelet knows the rejected pod's devices only until it admits the next pod with devices.
#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_fails_the_admission() {
    let dir = plugin_dir();
    let path = dir.path().join("kubelet_internal_checkpoint");
    std::fs::create_dir(&path).expect("a directory");
    let kubelet = kubelet(dir.path());
    let plugin = FakePlugin::serve(dir.path(), "a.sock", &["x"]);
    register(dir.path(), RESOURCE, "a.sock")
        .await
        .expect("registered");
    wait_for_node(&kubelet, RESOURCE, 1, 1).await;
    let pod_of = |name| pod(name, &[(RESOURCE, 1)]);
    let error = kubelet.admit(&pod_of("p")).await.expect_err("an error");
    assert!(
        matches!(error, AdmissionError::Checkpoint { .. }),
        "{error}"
    );
    assert_eq!(error.reason(), "UnexpectedAdmissionError");
    assert!(
        error
            .to_string()
            .contains("kubelet_internal_checkpoint: Is a directory")
    );
    assert_eq!(*plugin.allocated.borrow(), [["x"]]);
    assert!(!kubelet.has_pod("p"));

    std::fs::remove_dir(&path).expect("the directory");
    kubelet
        .admit(&pod_of("q"))
        .await
        .expect("the device is free");
    assert_eq!(in_checkpoint(dir.path()).await, ["x"]);
    assert_eq!(kubelet.assignments("q").len(), 1);
}

//! Tests of the pod-resources API.

use std::time::Duration;

use crate::support::client::{dial, register};
use crate::support::fake_plugin::FakePlugin;
use crate::support::{
    container, kubelet, plugin_dir, pod, pod_of, settings, wait_for_node, within,
};
use kubelet_sim::ContainerKind::{App, Init, Sidecar};
use kubelet_sim::{Kubelet, Pod};
use simple_device_plugin::api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use simple_device_plugin::api::podresources::{
    GetPodResourcesRequest, ListPodResourcesRequest, PodResources,
};
use simple_device_plugin::node::checkpoint_file::CheckpointFile;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

const RESOURCE: &str = "example.com/thing";

/// A kubelet with a plugin, and a client of its pod-resources API.
struct Node {
    kubelet: Kubelet,
    client: PodResourcesListerClient<Channel>,
    plugin: FakePlugin,
    dir: TempDir,
}

impl Node {
    async fn with(ids: &[&str]) -> Self {
        let dir = plugin_dir();
        let kubelet = kubelet(dir.path());
        let plugin = FakePlugin::serve(dir.path(), "a.sock", ids);
        register(dir.path(), RESOURCE, "a.sock")
            .await
            .expect("registered");
        wait_for_node(&kubelet, RESOURCE, ids.len(), ids.len()).await;
        let socket = settings(dir.path()).pod_resources_socket();
        Self {
            kubelet,
            client: PodResourcesListerClient::new(dial(&socket).await.expect("a kubelet")),
            plugin,
            dir,
        }
    }

    async fn admit(&self, pod: &Pod) {
        self.kubelet.admit(pod).await.expect("admitted");
    }

    async fn list(&mut self) -> Vec<PodResources> {
        let list = self.client.list(ListPodResourcesRequest {}).await;
        list.expect("a list").into_inner().pod_resources
    }

    async fn get(&mut self, namespace: &str, name: &str) -> Result<PodResources, Status> {
        let request = GetPodResourcesRequest {
            pod_name: name.to_owned(),
            pod_namespace: namespace.to_owned(),
        };
        let response = self.client.get(request).await?.into_inner();
        Ok(response.pod_resources.expect("a pod"))
    }
}

/// Returns the name of each container and the devices of each of its entries.
fn containers(pod: &PodResources) -> Vec<(&str, Vec<&[String]>)> {
    let containers = pod.containers.iter();
    let entries = containers.map(|container| {
        let devices = container.devices.iter().map(|d| &*d.device_ids);
        (container.name.as_str(), devices.collect())
    });
    entries.collect()
}

#[tokio::test]
async fn list_and_get_return_sidecars_and_app_containers_with_an_entry_for_each_device() {
    let mut node = Node::with(&["a", "b", "c"]).await;
    let pod = pod_of([
        container(Init, "setup", &[(RESOURCE, 1)]),
        container(Sidecar, "log", &[(RESOURCE, 1)]),
        container(App, "main", &[(RESOURCE, 2)]),
        container(App, "idle", &[]),
    ]);
    node.admit(&pod).await;
    let list = node.list().await;
    let [listed] = &list[..] else {
        panic!("one pod: {list:?}");
    };
    assert_eq!((&*listed.name, &*listed.namespace), ("p", "default"));
    let assignments = node.kubelet.assignments("p");
    let ids_of = |name: &str| {
        let held = assignments.iter().find(|a| a.container == name);
        let ids = held.expect("devices").ids().into_iter();
        ids.map(|id| [id.to_owned()]).collect::<Vec<_>>()
    };
    let (log, main) = (ids_of("log"), ids_of("main"));
    let expected = [
        ("log", log.iter().map(|id| &id[..]).collect()),
        ("main", main.iter().map(|id| &id[..]).collect()),
        ("idle", vec![]),
    ];
    assert_eq!(containers(listed), expected);
    assert_eq!(node.get("default", "p").await.expect("a pod"), *listed);
}

#[tokio::test]
async fn get_of_an_unknown_pod_is_an_error() {
    let mut node = Node::with(&["a"]).await;
    node.admit(&pod("p", &[(RESOURCE, 1)])).await;
    for (namespace, name) in [("default", "q"), ("other", "p")] {
        let error = node.get(namespace, name).await.expect_err("no pod");
        let expected = format!("pod {name} in namespace {namespace} not found");
        assert_eq!((error.code(), error.message()), (Code::Unknown, &*expected));
    }
    node.kubelet.delete("p");
    node.get("default", "p").await.expect_err("a deleted pod");
}

/// The kubelet writes its checkpoint after a list. It would then lack the pod if Get had freed its devices, as List does.
#[tokio::test]
async fn get_frees_no_devices() {
    let mut node = Node::with(&["a"]).await;
    node.admit(&pod("p", &[(RESOURCE, 1)])).await;
    node.admit(&pod("q", &[])).await;
    node.kubelet.delete("p");
    node.get("default", "q").await.expect("a pod");
    node.plugin
        .list
        .send_replace(Some(Ok(vec!["b".to_owned()])));
    let file = CheckpointFile::new(node.dir.path());
    let written = async {
        loop {
            let checkpoint = file.read().await.expect("a file").checkpoint;
            let registered = checkpoint.get(RESOURCE).and_then(|r| r.registered.clone());
            if registered.and_then(|devices| devices.any_id).as_deref() == Some("b") {
                return checkpoint;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let checkpoint = within("a checkpoint with the list", written).await;
    assert_eq!(checkpoint.held(RESOURCE).len(), 1);
}

#[tokio::test]
async fn list_returns_the_pod_that_is_being_admitted() {
    let mut node = Node::with(&["a"]).await;
    node.plugin.answers.send_replace(false);
    let (kubelet, answers) = (&node.kubelet, &node.plugin.answers);
    let mut calls = node.plugin.allocates.clone();
    let p = pod("p", &[(RESOURCE, 1)]);
    let listed = async {
        calls.wait_for(|count| *count == 1).await.expect("a plugin");
        let list = node.client.list(ListPodResourcesRequest {}).await;
        answers.send_replace(true);
        list.expect("a list").into_inner().pod_resources
    };
    let (admitted, listed) = tokio::join!(kubelet.admit(&p), listed);
    admitted.expect("admitted");
    assert_eq!(listed.len(), 1);
    assert_eq!(containers(&listed[0]), [("main", vec![])]);
}

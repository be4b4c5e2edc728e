//! Tests of the pod-resources API.

use crate::support::client::{dial, register};
use crate::support::fake_plugin::FakePlugin;
use crate::support::{container, kubelet, plugin_dir, pod, pod_of, settings, wait_for_node};
use kubelet_sim::ContainerKind::{App, Init, Sidecar};
use kubelet_sim::{Kubelet, Pod};
use simple_device_plugin::api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use simple_device_plugin::api::podresources::{
    GetPodResourcesRequest, ListPodResourcesRequest, PodResources,
};
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic::{Code, Status};

const RESOURCE: &str = "example.com/thing";

/// A kubelet with a plugin, and a client of its pod-resources API.
struct Node {
    kubelet: Kubelet,
    client: PodResourcesListerClient<Channel>,
    _plugin: FakePlugin,
    _dir: TempDir,
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
            _plugin: plugin,
            _dir: dir,
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

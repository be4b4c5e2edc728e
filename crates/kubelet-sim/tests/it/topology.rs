//! Tests of the topology policies: on which NUMA nodes devices are chosen, and what the plugin is asked.

use crate::support::client::{dial, register};
use crate::support::fake_plugin::FakePlugin;
use crate::support::{happens, held, kubelet_with, plugin_dir, pod, settings, wait_for_node};
use kubelet_sim::TopologyPolicy::{BestEffort, None as NoPolicy, Restricted, SingleNumaNode};
use kubelet_sim::{AdmissionError, EventKind, Kubelet, TopologyPolicy};
use simple_device_plugin::api::PreferenceRequest;
use simple_device_plugin::api::podresources::ListPodResourcesRequest;
use simple_device_plugin::api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use simple_device_plugin::api::v1beta1::DevicePluginOptions;
use tempfile::TempDir;

const GPU: &str = "example.com/gpu";
const NIC: &str = "example.com/nic";

/// A kubelet, and plugins of [`GPU`] and [`NIC`] with GetPreferredAllocation.
struct Node {
    dir: TempDir,
    kubelet: Kubelet,
    gpu: FakePlugin,
    _nic: FakePlugin,
}

impl Node {
    /// The ID `a@1` means device a on NUMA node 1.
    async fn with(policy: TopologyPolicy, gpus: &[&str], nics: &[&str]) -> Self {
        let dir = plugin_dir();
        let kubelet = kubelet_with(dir.path(), |settings| settings.topology_policy = policy);
        let serve = |socket, ids| {
            let options = DevicePluginOptions {
                pre_start_required: false,
                get_preferred_allocation_available: true,
            };
            FakePlugin::with_options(dir.path(), socket, ids, Ok(options))
        };
        let (gpu, nic) = (serve("gpu.sock", gpus), serve("nic.sock", nics));
        for (resource, socket, count) in
            [(GPU, "gpu.sock", gpus.len()), (NIC, "nic.sock", nics.len())]
        {
            let registered = register(dir.path(), resource, socket).await;
            registered.expect("registered");
            wait_for_node(&kubelet, resource, count, count).await;
        }
        Self {
            dir,
            kubelet,
            gpu,
            _nic: nic,
        }
    }

    /// Admits a pod, and returns its devices, sorted.
    async fn admit(
        &self,
        name: &str,
        requests: &[(&str, usize)],
    ) -> Result<Vec<String>, AdmissionError> {
        self.kubelet.admit(&pod(name, requests)).await?;
        Ok(held(&self.kubelet, name))
    }
}

#[tokio::test]
async fn best_effort_aligns_devices_and_never_refuses() {
    let node = Node::with(BestEffort, &["a@0", "b@0", "c@1", "d@1"], &["x@1"]).await;
    let aligned = node.admit("p", &[(GPU, 2), (NIC, 1)]).await;
    assert_eq!(aligned.expect("admitted"), ["c", "d", "x"]);
    node.kubelet.delete("p");
    node.admit("q", &[(GPU, 3), (NIC, 1)])
        .await
        .expect("admitted");
    node.kubelet.delete("q");
    node.admit("all", &[(GPU, 4)]).await.expect("admitted");
}

#[tokio::test]
async fn restricted_refuses_devices_on_more_nodes_than_needed_if_all_were_free() {
    let gpus = ["a@0", "b@0", "c@1", "d@1"];
    let node = Node::with(Restricted, &gpus, &["x@1"]).await;
    let three = node.admit("three", &[(GPU, 3)]).await;
    assert_eq!(three.expect("3 devices need two nodes").len(), 3);
    node.kubelet.delete("three");
    let first = node.admit("first", &[(GPU, 1)]).await;
    let [on_node_0] = &first.expect("admitted")[..] else {
        panic!("one device")
    };
    assert!(["a", "b"].contains(&&**on_node_0));
    node.admit("second", &[(GPU, 1), (NIC, 1)])
        .await
        .expect("devices of node 1");
    // One device of each node is free. If all were, two devices would fit on one node.
    let split = node.admit("split", &[(GPU, 2)]).await;
    assert_eq!(split, Err(AdmissionError::TopologyAffinity));
    node.kubelet.delete("first");
    let pair = node.admit("pair", &[(GPU, 2)]).await;
    assert_eq!(pair.expect("admitted"), ["a", "b"]);
}

#[tokio::test]
async fn a_device_on_a_node_that_the_host_lacks_is_refused_by_strict_policies_only() {
    for (policy, is_admitted) in [
        (NoPolicy, true),
        (BestEffort, true),
        (Restricted, false),
        (SingleNumaNode, false),
    ] {
        let dir = plugin_dir();
        let kubelet = kubelet_with(dir.path(), |settings| {
            settings.topology_policy = policy;
            settings.numa_nodes = Some(1);
        });
        let _plugin = FakePlugin::serve(dir.path(), "a.sock", &["a@0", "b@1"]);
        let registered = register(dir.path(), GPU, "a.sock").await;
        registered.expect("registered");
        wait_for_node(&kubelet, GPU, 2, 2).await;
        let admitted = kubelet.admit(&pod("p", &[(GPU, 2)])).await;
        assert_eq!(admitted.is_ok(), is_admitted, "{policy:?}: {admitted:?}");
        if !is_admitted {
            assert_eq!(admitted, Err(AdmissionError::TopologyAffinity));
        }
    }
}

#[tokio::test]
async fn the_plugin_is_asked_about_aligned_devices_if_there_are_more_than_needed() {
    let node = Node::with(BestEffort, &["a@0", "b@1", "c@1"], &["x@1"]).await;
    node.gpu
        .preferred
        .send_replace(Some(vec!["a".to_owned(), "c".to_owned()]));
    let chosen = node.admit("p", &[(GPU, 1), (NIC, 1)]).await;
    assert_eq!(chosen.expect("admitted"), ["c", "x"], "a is not aligned");
    let question = |available: &[&str], must_include: &[&str], size| PreferenceRequest {
        available: available.iter().map(|id| (*id).to_owned()).collect(),
        must_include: must_include.iter().map(|id| (*id).to_owned()).collect(),
        size,
    };
    assert_eq!(
        *node.gpu.questions.borrow(),
        [question(&["b", "c"], &[], 1)]
    );
    node.kubelet.delete("p");
    // All devices are needed, so there is no question.
    node.admit("q", &[(GPU, 3)]).await.expect("admitted");
    assert_eq!(node.gpu.questions.borrow().len(), 1);
}

/// The pod's resources are on NUMA nodes 1 and 2, and on 0 and 1. Best-effort aligns them on 0 and 1, so the kubelet
/// takes the two GPUs there and asks the plugin about the others.
#[tokio::test]
async fn a_failed_preferred_allocation_leaks_the_aligned_devices_until_a_pod_ends() {
    let gpus = ["a@1", "b@1", "c@2", "d@2"];
    let node = Node::with(BestEffort, &gpus, &["x@0", "y@1"]).await;
    let preferred = &node.gpu.preferred;
    preferred.send_replace(None);
    let failed = node.admit("p", &[(GPU, 4), (NIC, 2)]).await;
    assert!(
        failed
            .expect_err("an error")
            .to_string()
            .contains("GetPreferredAllocation failed")
    );
    let question = node.gpu.questions.borrow().clone().remove(0);
    assert_eq!(question.must_include, ["a", "b"]);
    assert_eq!((question.available.len(), question.size), (4, 4));
    preferred.send_replace(Some(Vec::new()));

    let leaked = AdmissionError::TooFew {
        resource: GPU.to_owned(),
        requested: 4,
        available: 2,
    };
    let all = [(GPU, 4)];
    assert_eq!(node.admit("q", &all).await, Err(leaked.clone()));
    wait_for_node(&node.kubelet, GPU, 4, 4).await;
    // Neither the pod-resources API nor a list corrects it.
    let socket = settings(node.dir.path()).pod_resources_socket();
    let mut client = PodResourcesListerClient::new(dial(&socket).await.expect("a kubelet"));
    client.list(ListPodResourcesRequest {}).await.expect("pods");
    let mut events = node.kubelet.events();
    let ids = gpus.map(str::to_owned).to_vec();
    node.gpu.list.send_replace(Some(Ok(ids)));
    happens(&mut events, GPU, |what| {
        matches!(what, EventKind::Listed { .. })
    })
    .await;
    assert_eq!(node.admit("q", &all).await, Err(leaked));

    // A pod with a device ends, and the next admission frees its device and the leaked ones.
    node.admit("r", &[(GPU, 1)]).await.expect("admitted");
    node.kubelet.delete("r");
    let healed = node.admit("q", &all).await;
    assert_eq!(healed.expect("admitted"), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn a_failed_preferred_allocation_of_one_resource_leaks_nothing() {
    let gpus = ["a@1", "b@1", "c@2", "d@2"];
    let node = Node::with(BestEffort, &gpus, &["x@0"]).await;
    node.gpu.preferred.send_replace(None);
    node.admit("p", &[(GPU, 3)]).await.expect_err("an error");
    let all = node.admit("q", &[(GPU, 4)]).await;
    assert_eq!(all.expect("admitted").len(), 4);
}

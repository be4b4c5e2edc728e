//! The simulated kubelet in this process: how a test starts it, and what it shows.

use std::path::Path;
use std::time::Duration;

use kubelet_sim::{
    Behavior, Event, EventKind, Kubelet, KubeletSettings, NodeResources, Pod, Quantities,
    TopologyPolicy,
};
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;

use super::{DEADLINE, RESOURCE, within};

/// KubeletSettings with a short time to dial a plugin, so that no test waits for the real one.
pub fn settings(dir: &Path) -> KubeletSettings {
    KubeletSettings {
        dial_timeout: Duration::from_millis(500),
        ..KubeletSettings::new(dir)
    }
}

/// A kubelet 1.36.
pub fn kubelet(dir: &Path) -> Kubelet {
    kubelet_with(dir, |_| {})
}

/// A kubelet with changed settings.
pub fn kubelet_with(dir: &Path, change: impl FnOnce(&mut KubeletSettings)) -> Kubelet {
    let mut settings = settings(dir);
    change(&mut settings);
    Kubelet::start(settings).expect("a kubelet")
}

/// A kubelet with the topology policy single-numa-node: it crashes when a plugin removes a device that a pod holds.
pub fn strict_kubelet(dir: &Path) -> Kubelet {
    kubelet_with(dir, |settings| {
        settings.topology_policy = TopologyPolicy::SingleNumaNode;
    })
}

/// A kubelet that marks a resource as stopped 300 ms after the plugin's stream ended. A plugin that registers before
/// then stays marked as stopped.
pub fn late_kubelet(dir: &Path) -> Kubelet {
    kubelet_with(dir, |settings| {
        settings.disconnect_delay = Duration::from_millis(300);
    })
}

/// A kubelet newer than 1.36.2.
pub fn newer_kubelet(dir: &Path) -> Kubelet {
    kubelet_with(dir, |settings| settings.behavior = Behavior::Newer)
}

#[track_caller]
pub fn assert_alive(kubelet: &Kubelet) {
    assert_eq!(*kubelet.crashed().borrow(), None);
}

/// Waits until the node shows this capacity and allocatable.
#[track_caller]
pub fn shows(
    kubelet: &Kubelet,
    resource: &str,
    capacity: usize,
    allocatable: usize,
) -> impl Future<Output = ()> + use<> {
    let wanted = Quantities {
        capacity,
        allocatable,
    };
    let mut node: watch::Receiver<NodeResources> = kubelet.node();
    let resource = resource.to_owned();
    let at = std::panic::Location::caller();
    async move {
        let shown = node.wait_for(|node| node.get(&resource) == Some(&wanted));
        let waited = timeout(DEADLINE, shown).await.is_err();
        assert!(
            !waited,
            "{at}: {resource} is not {allocatable}/{capacity}: {:?}",
            *node.borrow()
        );
    }
}

/// Waits until the kubelet reports such an event of the resource.
#[track_caller]
pub fn happens(
    events: &mut broadcast::Receiver<Event>,
    resource: &str,
    expected: impl Fn(&EventKind) -> bool,
) -> impl Future<Output = ()> {
    within("an event", async move {
        loop {
            let event = events.recv().await.expect("a kubelet");
            if event.resource == resource && expected(&event.kind) {
                return;
            }
        }
    })
}

/// A pod that requests so many devices of each resource.
pub fn pod(name: &str, requests: &[(&str, usize)]) -> Pod {
    Pod {
        name: name.to_owned(),
        requests: requests
            .iter()
            .map(|(r, n)| ((*r).to_owned(), *n))
            .collect(),
    }
}

/// Admits a pod that requests one device of the default resource, and deletes it again: the kubelet calls Allocate.
pub async fn allocates(kubelet: &Kubelet) {
    let probe = pod("probe", &[(RESOURCE, 1)]);
    within("an admission", kubelet.admit(&probe))
        .await
        .expect("admitted");
    kubelet.delete("probe");
}

/// The IDs that a pod holds, sorted.
pub fn held(kubelet: &Kubelet, pod: &str) -> Vec<String> {
    let assignments = kubelet.assignments(pod);
    let ids = assignments
        .iter()
        .flat_map(|a| a.ids().into_iter().map(str::to_owned));
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    ids
}

/// How often plugins registered the resource with this kubelet.
pub fn registrations(kubelet: &Kubelet, resource: &str) -> u64 {
    kubelet
        .registrations()
        .borrow()
        .get(resource)
        .copied()
        .unwrap_or(0)
}

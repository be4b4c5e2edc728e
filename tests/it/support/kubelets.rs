//! The simulated kubelet in the process of the test: how to start it, and how to wait for what it shows.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use kubelet_sim::{
    Behavior, Event, EventKind, Kubelet, KubeletSettings, NodeResources, Pod, Quantities,
    TopologyPolicy,
};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;

use super::{DEADLINE, RESOURCE, within};

/// Returns settings with a short dial timeout, so that no test waits for the default of 10 s.
pub fn settings(dir: &Path) -> KubeletSettings {
    KubeletSettings {
        dial_timeout: Duration::from_millis(500),
        ..KubeletSettings::new(dir)
    }
}

/// Starts a kubelet 1.36.
pub fn kubelet(dir: &Path) -> Kubelet {
    kubelet_with(dir, |_| {})
}

/// The runtime of a thread that is not the test's. A kubelet there answers the daemon while the test's thread waits for
/// a command.
pub fn other_thread() -> &'static Handle {
    static OTHER_THREAD: LazyLock<Handle> = LazyLock::new(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
        handle
    });
    &OTHER_THREAD
}

/// Starts something on the other thread.
pub fn on_another_thread<T>(start: impl FnOnce() -> T) -> T {
    let _entered = other_thread().enter();
    start()
}

/// Starts a kubelet with changed settings.
pub fn kubelet_with(dir: &Path, change: impl FnOnce(&mut KubeletSettings)) -> Kubelet {
    let mut settings = settings(dir);
    change(&mut settings);
    Kubelet::start(settings).expect("a kubelet")
}

/// Starts a kubelet with the topology policy single-numa-node, which crashes when it admits a pod again that holds a
/// removed device.
pub fn strict_kubelet(dir: &Path) -> Kubelet {
    kubelet_with(dir, |settings| {
        settings.topology_policy = TopologyPolicy::SingleNumaNode;
    })
}

/// Starts a kubelet that marks an endpoint as stopped 300 ms after its stream ended. A plugin that registers during
/// this delay is marked as stopped too.
pub fn late_kubelet(dir: &Path) -> Kubelet {
    kubelet_with(dir, |settings| {
        settings.disconnect_delay = Duration::from_millis(300);
    })
}

/// Starts a kubelet newer than 1.36.2.
pub fn newer_kubelet(dir: &Path) -> Kubelet {
    kubelet_with(dir, |settings| settings.behavior = Behavior::Newer)
}

#[track_caller]
pub fn assert_alive(kubelet: &Kubelet) {
    assert_eq!(*kubelet.crashed().borrow(), None);
}

/// Waits until the Node object shows this capacity and allocatable.
#[track_caller]
pub fn wait_for_node(
    kubelet: &Kubelet,
    resource: &str,
    capacity: usize,
    allocatable: usize,
) -> impl Future<Output = ()> + use<> {
    let expected = Quantities {
        capacity,
        allocatable,
    };
    let mut node: watch::Receiver<NodeResources> = kubelet.node();
    let resource = resource.to_owned();
    let at = std::panic::Location::caller();
    async move {
        let shown = node.wait_for(|node| node.get(&resource) == Some(&expected));
        let timed_out = timeout(DEADLINE, shown).await.is_err();
        assert!(
            !timed_out,
            "{at}: expected {allocatable} of {capacity} allocatable for {resource}, found {:?}",
            *node.borrow()
        );
    }
}

/// Waits until the kubelet emits an event of the resource that `expected` accepts.
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

/// Returns a pod that requests these numbers of devices, by resource.
pub fn pod(name: &str, requests: &[(&str, usize)]) -> Pod {
    let requests = requests.iter().map(|(r, n)| ((*r).to_owned(), *n));
    Pod::with_one_container(name, requests)
}

/// Makes the kubelet call Allocate: admits a pod with one device of the default resource, and deletes the pod.
pub async fn allocates(kubelet: &Kubelet) {
    let probe = pod("probe", &[(RESOURCE, 1)]);
    within("an admission", kubelet.admit(&probe))
        .await
        .expect("admitted");
    kubelet.delete("probe");
}

/// Returns the IDs of the devices that a pod holds, sorted.
pub fn held(kubelet: &Kubelet, pod: &str) -> Vec<String> {
    let assignments = kubelet.assignments(pod);
    let ids = assignments
        .iter()
        .flat_map(|a| a.ids().into_iter().map(str::to_owned));
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    ids
}

/// Returns the number of valid Register calls for the resource since this kubelet started.
pub fn registrations(kubelet: &Kubelet, resource: &str) -> u64 {
    kubelet
        .registrations()
        .borrow()
        .get(resource)
        .copied()
        .unwrap_or(0)
}

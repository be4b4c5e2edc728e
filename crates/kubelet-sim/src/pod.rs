//! Pods and their containers.

use std::collections::BTreeMap;

/// The name of the container of a pod that has only one.
pub const DEFAULT_CONTAINER: &str = "main";

/// A pod that is bound to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The name, unique on the node. It is also the pod's UID.
    pub name: String,
    pub containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The name, unique in the pod.
    pub name: String,
    pub kind: ContainerKind,
    /// The number of devices that the container requests, by resource name.
    pub requests: BTreeMap<String, usize>,
}

/// The list of the pod's spec that has the container, and its restart policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// An init container, which ends before the next container starts. Later containers reuse its devices.
    Init,
    /// An init container with `restartPolicy: Always`. It runs as long as the pod and keeps its devices for itself.
    Sidecar,
    /// A container that is no init container.
    App,
}

impl Pod {
    /// Returns a pod with one app container, whose name is [`DEFAULT_CONTAINER`].
    pub fn with_one_container(
        name: impl Into<String>,
        requests: impl IntoIterator<Item = (String, usize)>,
    ) -> Self {
        Self {
            name: name.into(),
            containers: vec![Container::app(DEFAULT_CONTAINER, requests)],
        }
    }

    /// Returns the containers in the order in which the kubelet admits them: init containers and sidecars, then app
    /// containers.
    pub fn in_admission_order(&self) -> impl Iterator<Item = &Container> {
        let is_app = |container: &&Container| container.kind == ContainerKind::App;
        let first = self.containers.iter().filter(move |c| !is_app(c));
        first.chain(self.containers.iter().filter(is_app))
    }
}

impl Container {
    /// Returns an app container.
    pub fn app(
        name: impl Into<String>,
        requests: impl IntoIterator<Item = (String, usize)>,
    ) -> Self {
        Self {
            name: name.into(),
            kind: ContainerKind::App,
            requests: requests.into_iter().collect(),
        }
    }
}

/// The pods that the kubelet knows (`activePods` in `manager.go`). The devices of all others are freed.
#[derive(Debug, Default)]
pub(crate) struct ActivePods {
    /// The pods that are admitted and not deleted, by name.
    pub(crate) running: BTreeMap<String, Pod>,
    /// The pod that is being admitted.
    pub(crate) in_admission: Option<Pod>,
}

impl ActivePods {
    pub(crate) fn get(&self, name: &str) -> Option<&Pod> {
        let in_admission = self.in_admission.as_ref();
        let in_admission = in_admission.filter(|pod| pod.name == name);
        self.running.get(name).or(in_admission)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.running.values().chain(&self.in_admission)
    }
}

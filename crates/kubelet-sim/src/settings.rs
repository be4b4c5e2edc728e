//! How the embedded kubelet is to be.

use std::path::PathBuf;
use std::time::Duration;

use simple_device_plugin::model::socket_name::KUBELET_SOCKET;

/// Which kubelet to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// 1.36: a second registration takes the resource over.
    #[default]
    V1_36,
    /// After 1.36.2: a second registration of the same resource and socket, while the old connection
    /// is held, is answered with OK and ignored.
    Newer,
}

/// The topology manager's policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopologyPolicy {
    /// Devices come from any NUMA node.
    #[default]
    None,
    /// All devices of a pod come from one NUMA node, or it is not admitted.
    SingleNumaNode,
}

/// How Register is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegistrationMode {
    /// In earnest.
    #[default]
    Normal,
    /// With an error.
    Refuse,
    /// Not at all, until another answer is set.
    Hang,
}

/// How the kubelet is to be.
#[derive(Clone, Debug)]
pub struct KubeletSettings {
    /// The device plugin directory; made where it does not exist.
    pub dir: PathBuf,
    /// Which kubelet to be.
    pub behavior: Behavior,
    /// For how long a resource keeps its capacity after its plugin went.
    pub endpoint_stop_grace_period: Duration,
    /// For how long a plugin's socket is dialled inside Register.
    pub dial_timeout: Duration,
    /// How long after the close of a plugin's connection the resource is taken leave of. Whoever
    /// registers in between is hit by it.
    pub disconnect_delay: Duration,
    /// The topology manager's policy. With any other than none, a pod that is admitted again needs the
    /// devices that it holds in their list.
    pub topology_policy: TopologyPolicy,
    /// Whether the kubelet knows at its start which pods there are. A real one has to hear it from the API server:
    /// until then its pod-resources API shows none, and no pod's devices are freed.
    pub pods_known: bool,
}

impl KubeletSettings {
    /// A 1.36 in this directory, with the times of a real one.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            behavior: Behavior::default(),
            endpoint_stop_grace_period: Duration::from_secs(5 * 60),
            dial_timeout: Duration::from_secs(10),
            disconnect_delay: Duration::from_millis(20),
            topology_policy: TopologyPolicy::default(),
            pods_known: true,
        }
    }

    /// Where the pod-resources API is served: a real kubelet has `pod-resources` beside `device-plugins`, this one
    /// has it in the directory, so that everything it makes is in one place.
    pub fn pod_resources_socket(&self) -> PathBuf {
        self.dir.join("pod-resources").join(KUBELET_SOCKET)
    }
}

//! The settings of a simulated kubelet.

use std::path::PathBuf;
use std::time::Duration;

use simple_device_plugin::model::socket_name::KUBELET_SOCKET;

/// The kubelet version whose behavior is simulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behavior {
    /// Kubelet 1.36: the plugin that registers a resource last takes it over.
    #[default]
    V1_36,
    /// A kubelet newer than 1.36.2 (Kubernetes change 139765): while it holds a plugin's client, it answers a second
    /// registration of the same resource and socket with OK and ignores it. The admission of a pod times out after 30
    /// seconds by default (proposed in Kubernetes change 131383).
    Newer,
}

/// The policy of the topology manager. Its scope is the container, as by default in a kubelet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopologyPolicy {
    /// `none`: devices come from any NUMA node.
    #[default]
    None,
    /// `best-effort`: devices of a container come from as few NUMA nodes as possible, the same for all resources.
    BestEffort,
    /// `restricted`: like best-effort, but the pod is rejected with `TopologyAffinityError` if more NUMA nodes are needed
    /// than if all devices were free, or if the resources need different ones.
    Restricted,
    /// `single-numa-node`: all devices of a container come from one NUMA node, or the pod is rejected with
    /// `TopologyAffinityError`.
    SingleNumaNode,
}

/// How the kubelet answers Register for a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RegistrationMode {
    /// Responds as a real kubelet does.
    #[default]
    Normal,
    /// Returns the status Unknown without calling the plugin.
    Refuse,
    /// Does not respond until another mode is set.
    Hang,
}

/// The settings of a kubelet. [`KubeletSettings::new`] returns the values of a real kubelet, except for
/// `node_status_period`.
#[derive(Clone, Debug)]
pub struct KubeletSettings {
    /// The device plugin directory. The kubelet creates it if it does not exist, and removes every socket in it.
    pub dir: PathBuf,
    /// Default: [`Behavior::V1_36`].
    pub behavior: Behavior,
    /// How long a resource keeps its capacity after its plugin disconnects (`endpointStopGracePeriod` in
    /// `devicemanager/types.go`). Default: 5 minutes.
    pub endpoint_stop_grace_period: Duration,
    /// How often the Node object follows the devices and forgets resources without a plugin. A real kubelet does this
    /// every 10 s (`nodeStatusUpdateFrequency`), so that a short gap is not visible. Default: 0 for after each change.
    pub node_status_period: Duration,
    /// How long Register tries to connect to the plugin's socket. Default: 10 s.
    pub dial_timeout: Duration,
    /// The delay between closing a plugin's connection and marking the resource's endpoint as stopped. A plugin that
    /// registers during this delay is marked as stopped too. Default: 20 ms, as measured on a real kubelet.
    pub disconnect_delay: Duration,
    /// How long the admission of a pod may take. At that time, the call to a plugin that did not respond is canceled, and
    /// the pod is rejected. Default: `None` for that of the behavior, which is no limit for 1.36 and 30 seconds for newer.
    pub admission_timeout: Option<Duration>,
    /// With a policy other than none, the kubelet crashes when it admits a pod again that holds a device that is no
    /// longer in the plugin's list. Default: [`TopologyPolicy::None`].
    pub topology_policy: TopologyPolicy,
    /// The number of NUMA nodes of the host, at most 8. A device that names only other nodes is on none. Default: `None`
    /// for node 0 and every node that a device names.
    pub numa_nodes: Option<usize>,
    /// How long after its start the kubelet admits the running pods again. It then kills a pod that has an init container
    /// with a device that is not healthy. A real kubelet does this when the API server has sent the pods. Default: 1 s.
    pub readmission_delay: Duration,
    /// Whether the kubelet knows the pods of this node when it starts. A real kubelet waits for the API server
    /// (`sourcesReady`); until then its pod-resources API returns no pods, and it frees no devices. Default: true.
    pub pods_known: bool,
}

impl KubeletSettings {
    /// Returns the default settings for a kubelet with this device plugin directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            behavior: Behavior::default(),
            endpoint_stop_grace_period: Duration::from_secs(5 * 60),
            node_status_period: Duration::ZERO,
            dial_timeout: Duration::from_secs(10),
            disconnect_delay: Duration::from_millis(20),
            admission_timeout: None,
            topology_policy: TopologyPolicy::default(),
            numa_nodes: None,
            readmission_delay: Duration::from_secs(1),
            pods_known: true,
        }
    }

    /// Returns how long the admission of a pod may take, or `None` for no limit.
    pub(crate) fn admission_timeout(&self) -> Option<Duration> {
        let default = match self.behavior {
            Behavior::V1_36 => None,
            Behavior::Newer => Some(Duration::from_secs(30)),
        };
        self.admission_timeout.or(default)
    }

    /// Returns the socket of the pod-resources API. A real kubelet has the directory `pod-resources` beside
    /// `device-plugins`; the simulator has it inside, so that all its files are in one directory.
    pub fn pod_resources_socket(&self) -> PathBuf {
        self.dir.join("pod-resources").join(KUBELET_SOCKET)
    }
}

//! A node in a temporary directory: an embedded kubelet and the manager, to be started and stopped.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod fakes;
pub mod http;
pub mod process;
pub mod steered;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kubelet_sim::{Kubelet, KubeletSettings, NodeResources, Pod, Quantities};
use simple_device_plugin::config::reload::{Configured, Reloads};
use simple_device_plugin::config::{Config, Environment, FileText, Host};
use simple_device_plugin::fault::handle::FaultHandle;
use simple_device_plugin::node::checkpoint_file;
use simple_device_plugin::node::watcher::DirReplaced;
use simple_device_plugin::observe::{Observer, Program};
use simple_device_plugin::offer::handle::OfferHandle;
use simple_device_plugin::offer::resource::Resource;
use simple_device_plugin::offer::retirement::Wait;
use simple_device_plugin::plugin::PluginHandle;
use simple_device_plugin::plugin::record::{Record, Step};
use simple_device_plugin::supervisor::Supervisor;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Far beyond what anything here takes: a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits for the event, but not for ever.
#[track_caller]
pub fn within<F: Future>(what: &str, event: F) -> impl Future<Output = F::Output> {
    let at = std::panic::Location::caller();
    async move {
        let Ok(output) = timeout(DEADLINE, event).await else {
            panic!("{at}: waited {DEADLINE:?} for {what}");
        };
        output
    }
}

/// Between two looks at what tells nobody when it changes, such as the kernel's tables.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits until this is so, of which nobody tells.
#[track_caller]
pub fn until(what: &str, is_so: impl Fn() -> bool) -> impl Future<Output = ()> {
    within(what, async move {
        while !is_so() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
}

/// Whether somebody listens on each of so many sockets.
pub fn all_served(dir: &Path, count: usize) -> bool {
    let sockets = sockets(dir);
    let served = |socket: &PathBuf| std::os::unix::net::UnixStream::connect(socket).is_ok();
    sockets.len() == count && sockets.iter().all(served)
}

/// A plugin dir of its own.
pub fn plugin_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The resources of these variables, on node `n`.
pub fn resources(variables: &[(&str, &str)]) -> Vec<Resource> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), value.into());
    let environment: Environment = variables.iter().map(owned).collect();
    let host = Host {
        hostname: Some("n".to_owned()),
        ..Host::default()
    };
    let config = Config::from_variables(&environment, &host);
    config.expect("a good configuration").resources
}

/// The resources of a config file on node `n`, with a short grace: nothing here waits for a real one.
pub fn from_file(text: &str) -> Vec<Resource> {
    let file = FileText {
        name: "config.yaml".to_owned(),
        content: Ok(text.into()),
    };
    let host = Host {
        hostname: Some("n".to_owned()),
        ..Host::default()
    };
    let config = Config::read(&Environment::default(), Some(&file), &host);
    let mut resources = config
        .unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
        .resources;
    for resource in &mut resources {
        resource.removal_grace = Duration::from_millis(50);
    }
    resources
}

/// A manager that runs in this process.
pub struct Manager {
    stop: CancellationToken,
    configured: Configured,
    handles: BTreeMap<String, PluginHandle>,
    pub observer: Observer,
    task: JoinHandle<Result<(), DirReplaced>>,
}

impl Manager {
    pub fn start(dir: &Path, variables: &[(&str, &str)]) -> Self {
        Self::of(dir, resources(variables))
    }

    pub fn of(dir: &Path, resources: Vec<Resource>) -> Self {
        let socket = KubeletSettings::new(dir).pod_resources_socket();
        Self::run(Supervisor::new(resources, dir).asking_for_pod_resources(Some(socket)))
    }

    pub fn run(supervisor: Supervisor) -> Self {
        let name = |handle: &PluginHandle| handle.offer.now().resource().name.to_string();
        let present = supervisor.present();
        let handles = present
            .borrow()
            .iter()
            .map(|handle| (name(handle), handle.clone()))
            .collect();
        let stop = CancellationToken::new();
        let program = Program {
            namespace: "test".to_owned(),
            node: "n".to_owned(),
            plugin_dir: PathBuf::new(),
            config_file: None,
            started: SystemTime::now(),
        };
        let observer = Observer {
            program: Arc::new(program),
            present: supervisor.present(),
            checkpoint: supervisor.checkpoint(),
            reloads: watch::channel(Reloads::default()).1,
            stop: stop.clone(),
        };
        Self {
            observer,
            configured: supervisor.configured(),
            handles,
            task: tokio::spawn(supervisor.run(stop.clone())),
            stop,
        }
    }

    /// Another configuration from now on.
    pub fn reconfigure(&self, resources: Vec<Resource>) {
        self.configured.send_replace(resources.into());
    }

    /// The devices of a resource.
    pub fn devices(&self, resource: &str) -> &OfferHandle {
        &self.handles[resource].offer
    }

    /// The faults of a resource.
    pub fn faults(&self, resource: &str) -> &FaultHandle {
        &self.handles[resource].faults
    }

    /// Waits until a device that is pending removal waits for this.
    #[track_caller]
    pub fn device_waits(
        &self,
        resource: &'static str,
        id: &'static str,
        is_it: impl Fn(Wait) -> bool,
    ) -> impl Future<Output = ()> {
        let observer = self.observer.clone();
        within("what a device waits for", async move {
            loop {
                let view = observer.look_closely().await;
                let mut plugins = view.plugins.iter();
                let plugin = plugins.find(|plugin| plugin.name() == resource);
                if plugin
                    .and_then(|plugin| plugin.waits.get(id))
                    .is_some_and(|wait| is_it(*wait))
                {
                    return;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
    }

    /// Waits until a resource's plugin is at this step of its run.
    #[track_caller]
    pub fn is_at(&self, resource: &str, step: Step) -> impl Future<Output = Record> {
        self.record(resource, "a step", move |record| record.is_at(step))
    }

    /// Waits until a resource's record is like this.
    #[track_caller]
    pub fn record(
        &self,
        resource: &str,
        what: &str,
        like: impl FnMut(&Record) -> bool,
    ) -> impl Future<Output = Record> {
        let mut record = self.handles[resource].record.subscribe();
        within(what, async move {
            let record = record.wait_for(like).await.expect("a handle");
            record.clone()
        })
    }

    /// Waits for it to end by itself.
    pub async fn ended(self) -> Result<(), DirReplaced> {
        within("the manager's end", self.task)
            .await
            .expect("no panic")
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.ended().await.expect("an end in order");
    }
}

/// Where the kubelet's checkpoint is written by hand: it has these devices of resources.
pub fn write_checkpoint(dir: &Path, registered: &[(&str, &[&str])]) {
    let lists = registered
        .iter()
        .map(|(resource, ids)| format!("{resource:?}: {ids:?}"));
    let lists = lists.collect::<Vec<_>>().join(", ");
    let text = format!(
        "{{\"Data\": {{\"PodDeviceEntries\": null, \"RegisteredDevices\": {{{lists}}}}}, \"Checksum\": 1}}"
    );
    let new = dir.join("checkpoint.new");
    std::fs::write(&new, text).expect("a file");
    std::fs::rename(new, dir.join(checkpoint_file::FILE)).expect("a file in its place");
}

/// A kubelet with short times: nothing here waits for a real grace.
pub fn settings(dir: &Path) -> KubeletSettings {
    KubeletSettings {
        dial_timeout: Duration::from_millis(500),
        ..KubeletSettings::new(dir)
    }
}

pub fn kubelet(dir: &Path) -> Kubelet {
    Kubelet::start(settings(dir)).expect("a kubelet")
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

pub fn pod(name: &str, requests: &[(&str, usize)]) -> Pod {
    Pod {
        name: name.to_owned(),
        requests: requests
            .iter()
            .map(|(r, n)| ((*r).to_owned(), *n))
            .collect(),
    }
}

/// The IDs that a pod holds, in order.
pub fn held(kubelet: &Kubelet, pod: &str) -> Vec<String> {
    let assignments = kubelet.assignments(pod);
    let ids = assignments
        .iter()
        .flat_map(|a| a.ids().into_iter().map(str::to_owned));
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    ids
}

/// How often the resource was registered with this kubelet.
pub fn registrations(kubelet: &Kubelet, resource: &str) -> u64 {
    kubelet
        .registrations()
        .borrow()
        .get(resource)
        .copied()
        .unwrap_or(0)
}

/// The sockets in the directory, but the kubelet's.
pub fn sockets(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("the plugin dir");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut sockets: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "sock"))
        .filter(|path| !path.ends_with("kubelet.sock"))
        .collect();
    sockets.sort();
    sockets
}

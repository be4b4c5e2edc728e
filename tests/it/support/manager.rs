//! The daemon's supervisor, run in the process of the test.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kubelet_sim::KubeletSettings;
use simple_device_plugin::config::DesiredPlugins;
use simple_device_plugin::config::reload::{Configured, Reloads};
use simple_device_plugin::node::watcher::DirReplaced;
use simple_device_plugin::observe::{Observer, ProgramInfo};
use simple_device_plugin::offer::removal::Wait;
use simple_device_plugin::offer::resource::Resource;
use simple_device_plugin::plugin::PluginHandle;
use simple_device_plugin::plugin::record::{Record, Step};
use simple_device_plugin::supervisor::Supervisor;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{POLL_INTERVAL, resources, within};

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
        Self::run(Supervisor::new(resources, dir).with_pod_resources_socket(Some(socket)))
    }

    pub fn run(supervisor: Supervisor) -> Self {
        let name = |handle: &PluginHandle| handle.offer().resource().name.to_string();
        let plugins = supervisor.registry().all();
        let handles = plugins
            .iter()
            .map(|handle| (name(handle), handle.clone()))
            .collect();
        let stop = CancellationToken::new();
        let program = ProgramInfo {
            namespace: "test".to_owned(),
            node: "n".to_owned(),
            plugin_dir: PathBuf::new(),
            config_file: None,
            started: SystemTime::now(),
        };
        let reloads = watch::channel(Reloads::default()).1;
        let observer = Observer::new(program, &supervisor, reloads, stop.clone());
        Self {
            observer,
            configured: supervisor.configured(),
            handles,
            task: tokio::spawn(supervisor.run(stop.clone())),
            stop,
        }
    }

    /// Changes the configuration.
    pub fn reconfigure(&self, resources: Vec<Resource>) {
        let plugins = DesiredPlugins::from(resources);
        self.configured.send_replace(plugins.into());
    }

    /// Returns the plugin of a resource.
    pub fn plugin(&self, resource: &str) -> &PluginHandle {
        &self.handles[resource]
    }

    /// Waits until a device that is pending removal waits for something that `is_expected` accepts.
    #[track_caller]
    pub fn device_waits(
        &self,
        resource: &'static str,
        id: &'static str,
        is_expected: impl Fn(Wait) -> bool,
    ) -> impl Future<Output = ()> {
        let observer = self.observer.clone();
        within("a wait of a device that is pending removal", async move {
            loop {
                let view = observer.snapshot_with_waits().await;
                let mut plugins = view.plugins.iter();
                let plugin = plugins.find(|plugin| plugin.name() == resource);
                if plugin
                    .and_then(|plugin| plugin.waits.get(id))
                    .is_some_and(|wait| is_expected(*wait))
                {
                    return;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        })
    }

    /// Waits until a resource's plugin has reached this step of its run.
    #[track_caller]
    pub fn is_at(&self, resource: &str, step: Step) -> impl Future<Output = Record> {
        self.record(resource, "a step", move |record| record.is_at(step))
    }

    /// Waits until `is_expected` accepts a resource's record, and returns the record.
    #[track_caller]
    pub fn record(
        &self,
        resource: &str,
        what: &str,
        is_expected: impl FnMut(&Record) -> bool,
    ) -> impl Future<Output = Record> {
        let mut record = self.handles[resource].records();
        within(what, async move {
            let record = record.wait_for(is_expected).await.expect("a handle");
            record.clone()
        })
    }

    /// Waits until the manager ends without being stopped.
    pub async fn ended(self) -> Result<(), DirReplaced> {
        within("the end of the manager", self.task)
            .await
            .expect("no panic")
    }

    pub async fn stop(self) {
        self.stop.cancel();
        self.ended().await.expect("an end without an error");
    }
}

//! The second admission of running pods. A kubelet admits them again when it starts and when they are resized.

use std::sync::Arc;

use tokio::time::sleep;

use simple_device_plugin::util::sanitize::sanitize;

use crate::crash::Crash;
use crate::device_manager::Assignment;
use crate::event::EventKind;
use crate::pod::Pod;
use crate::settings::TopologyPolicy;
use crate::state::KubeletState;

impl KubeletState {
    /// Admits the pods of the selected assignments again with the topology manager, if there is one.
    ///
    /// # Errors
    /// Returns the crash if a held device is no longer in the list.
    pub(crate) fn readmit_with_topology(
        &self,
        is_selected: impl Fn(&Assignment) -> bool,
    ) -> Result<(), Crash> {
        if self.settings.topology_policy == TopologyPolicy::None {
            return Ok(());
        }
        let admitted = self.manager().readmit_with_topology(is_selected);
        admitted.inspect_err(|crash| self.crash(crash))
    }

    /// Admits the pods of this resource again with the topology manager, once per kubelet start. In a real kubelet, the
    /// plugin may register before or after that; here it always registers before.
    pub(crate) fn readmit_pods_once(&self, resource: &str) {
        let is_first = self.readmitted.lock().insert(resource.to_owned());
        if is_first {
            // A crash is reported through `crash`.
            let _ = self.readmit_with_topology(|held| held.resource == resource);
        }
    }

    /// Starts the task that admits the pods again that are running now.
    pub(crate) fn spawn_readmission(self: Arc<Self>) {
        let (tasks, stop) = (self.tasks.clone(), self.stop.clone());
        let running: Vec<Pod> = self.pods().running.values().cloned().collect();
        let readmission = async move { self.kill_pods_without_init_devices(&running).await };
        tasks.spawn(stop.run_until_cancelled_owned(readmission));
    }

    /// Waits until the pods are known, and kills those that have an init container with a device that is not healthy.
    async fn kill_pods_without_init_devices(&self, running: &[Pod]) {
        sleep(self.settings.readmission_delay).await;
        // The sender is a part of `self`.
        let _ = self.pods_known.subscribe().wait_for(|known| *known).await;
        for pod in running {
            let mut pods = self.pods();
            if pods.running.get(&pod.name) != Some(pod) {
                continue;
            }
            let admitted = self.manager().readmit_init_containers(pod);
            if let Err((resource, reason)) = admitted {
                pods.running.remove(&pod.name);
                let pod = sanitize(&pod.name);
                self.emit(&resource, EventKind::PodKilled { pod, reason });
            }
        }
    }
}

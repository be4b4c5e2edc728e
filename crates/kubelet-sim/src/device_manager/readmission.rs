//! The devices of pods that are admitted again: after a kubelet start, or when they are resized.

use crate::admission_error::AdmissionError;
use crate::crash::Crash;
use crate::pod::{ContainerKind, Pod};

use super::{Assignment, DeviceManager};

impl<C> DeviceManager<C> {
    /// Computes topology hints for the assignments that are selected, as a topology manager does when it admits their
    /// pods again (`generateDeviceTopologyHints` in `topology_hints.go`).
    ///
    /// # Errors
    /// Returns [`Crash::RemovedWhileHeld`] if a held device is no longer in the list: the kubelet dereferences it
    /// without a nil check.
    pub(crate) fn readmit_with_topology(
        &self,
        is_selected: impl Fn(&Assignment) -> bool,
    ) -> Result<(), Crash> {
        for held in self.assignments.iter().filter(|held| is_selected(held)) {
            let Assignment { pod, resource, .. } = held;
            if !self.has_topology(resource) {
                continue;
            }
            let mut ids = held.ids().into_iter();
            if let Some(id) = ids.find(|id| !self.is_listed(resource, id)) {
                return Err(Crash::RemovedWhileHeld {
                    resource: resource.clone(),
                    id: id.to_owned(),
                    pod: pod.clone(),
                });
            }
        }
        Ok(())
    }

    /// Checks the devices of the pod's init containers, which have ended. The devices of a container that is running are
    /// not checked (`devicesToAllocate` in `manager.go`).
    ///
    /// # Errors
    /// Returns the resource and the error if a device is not in the list or not healthy. The kubelet then kills the pod.
    pub(crate) fn readmit_init_containers(
        &self,
        pod: &Pod,
    ) -> Result<(), (String, AdmissionError)> {
        let containers = pod.containers.iter();
        let ended = containers.filter(|container| container.kind == ContainerKind::Init);
        for held in ended.flat_map(|container| self.assignments_of(&pod.name, &container.name)) {
            let resource = held.resource.clone();
            let error = match self.lists.get(&resource).map(|list| &list.healthy) {
                None => AdmissionError::Unregistered(resource.clone()),
                Some(healthy) if healthy.is_empty() => {
                    AdmissionError::NoHealthyDevice(resource.clone())
                }
                Some(healthy) if !held.ids().into_iter().all(|id| healthy.contains(id)) => {
                    AdmissionError::NoLongerHealthy(resource.clone())
                }
                Some(_) => continue,
            };
            return Err((resource, error));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_manager::tests::{device, manager_with, manager_with_devices};
    use crate::device_manager::{DeviceRequest, v1beta1};
    use crate::pod::Container;
    use simple_device_plugin::model::device::Health;
    use std::time::{Duration, Instant};

    /// Returns the pod `p`, whose container of this kind requests one device.
    fn pod(kind: ContainerKind) -> Pod {
        let container = Container {
            kind,
            ..Container::app("setup", [("r".to_owned(), 1)])
        };
        Pod {
            name: "p".to_owned(),
            containers: vec![container],
        }
    }

    /// Makes the pod hold device a.
    fn hold(manager: &mut DeviceManager<()>) {
        let request = DeviceRequest {
            pod: "p",
            container: "setup",
            resource: "r",
            count: 1,
        };
        let response = v1beta1::ContainerAllocateResponse::default();
        let assigned = manager.assign(request, &["a".to_owned()], None, response);
        assigned.expect("no crash");
    }

    #[test]
    fn only_the_devices_of_init_containers_must_be_healthy() {
        let mut manager = manager_with_devices(&["a", "b"]);
        hold(&mut manager);
        let is_killed_with = |manager: &DeviceManager<()>, error: AdmissionError| {
            let killed = Err(("r".to_owned(), error));
            assert_eq!(
                manager.readmit_init_containers(&pod(ContainerKind::Init)),
                killed
            );
            for kind in [ContainerKind::Sidecar, ContainerKind::App] {
                assert_eq!(manager.readmit_init_containers(&pod(kind)), Ok(()));
            }
        };
        assert_eq!(
            manager.readmit_init_containers(&pod(ContainerKind::Init)),
            Ok(())
        );
        let devices = vec![device("a", Health::Unhealthy), device("b", Health::Healthy)];
        manager.update_devices("r", v1beta1::ListAndWatchResponse { devices });
        is_killed_with(&manager, AdmissionError::NoLongerHealthy("r".to_owned()));
        let now = Instant::now();
        manager.plugin_disconnected("r", now);
        is_killed_with(&manager, AdmissionError::NoHealthyDevice("r".to_owned()));
        manager.expire_endpoints(now + Duration::from_secs(300));
        is_killed_with(&manager, AdmissionError::Unregistered("r".to_owned()));
    }

    #[test]
    fn only_the_devices_of_selected_pods_are_dereferenced() {
        let device = crate::device_manager::tests::device_on("a", &[0]);
        let other = crate::device_manager::tests::device_on("b", &[0]);
        let mut manager = manager_with(vec![device, other.clone()], Instant::now());
        hold(&mut manager);
        manager.update_devices(
            "r",
            v1beta1::ListAndWatchResponse {
                devices: vec![other],
            },
        );
        assert_eq!(
            manager.readmit_with_topology(|held| held.pod == "q"),
            Ok(())
        );
        let crash = Crash::RemovedWhileHeld {
            resource: "r".to_owned(),
            id: "a".to_owned(),
            pod: "p".to_owned(),
        };
        assert_eq!(
            manager.readmit_with_topology(|held| held.pod == "p"),
            Err(crash)
        );
    }
}

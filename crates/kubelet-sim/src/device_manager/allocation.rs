//! The choice of devices for a pod, and the devices that pods hold. It follows `devicesToAllocate` and
//! `allocateContainerResources` in `manager.go`, and `pod_devices.go`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use simple_device_plugin::api::v1beta1;

use crate::admission_error::AdmissionError;
use crate::crash::Crash;

use super::{Assignment, DeviceManager};

impl<C> DeviceManager<C> {
    /// Returns all healthy devices of the resource that no pod holds, at least `requested` of them.
    ///
    /// # Errors
    /// Returns an error if the resource has no healthy device, or fewer free devices than requested.
    pub(crate) fn free_devices(
        &self,
        resource: &str,
        requested: usize,
    ) -> Result<Vec<String>, AdmissionError> {
        let healthy = self.lists.get(resource).map(|list| &list.healthy);
        let Some(healthy) = healthy.filter(|healthy| !healthy.is_empty()) else {
            return Err(AdmissionError::NoHealthyDevice(resource.to_owned()));
        };
        let of_resource = self.assignments.iter().filter(|a| a.resource == resource);
        let in_use: BTreeSet<&str> = of_resource.flat_map(Assignment::ids).collect();
        let free = healthy.iter().filter(|id| !in_use.contains(id.as_str()));
        let free: Vec<String> = free.cloned().collect();
        if free.len() < requested {
            return Err(AdmissionError::TooFew {
                resource: resource.to_owned(),
                requested,
                available: free.len(),
            });
        }
        Ok(free)
    }

    /// Builds the assignment of these devices to a pod, with the NUMA nodes of the current list. The pod holds the
    /// devices only after [`Self::record_assignments`].
    ///
    /// # Errors
    /// Returns [`Crash::RemovedDuringAllocation`] if a device is no longer in the list: the kubelet dereferences it
    /// without a nil check.
    pub(crate) fn new_assignment(
        &self,
        pod: &str,
        resource: &str,
        ids: &[String],
        response: v1beta1::ContainerAllocateResponse,
    ) -> Result<Assignment, Crash> {
        if let Some(id) = ids.iter().find(|id| !self.is_listed(resource, id)) {
            return Err(Crash::RemovedDuringAllocation {
                resource: resource.to_owned(),
                id: id.clone(),
            });
        }
        let mut devices: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
        for id in ids {
            for node in self.numa_nodes(resource, id) {
                devices.entry(node).or_default().insert(id.clone());
            }
        }
        Ok(Assignment {
            pod: pod.to_owned(),
            resource: resource.to_owned(),
            devices,
            response,
        })
    }

    pub(crate) fn record_assignments(&mut self, assignments: &[Assignment]) {
        self.assignments.extend_from_slice(assignments);
    }

    /// Frees the devices of all pods that are not in `pods`.
    pub(crate) fn retain_pods(&mut self, pods: &BTreeSet<String>) {
        self.assignments
            .retain(|assignment| pods.contains(&assignment.pod));
    }

    pub(crate) fn release_pod(&mut self, pod: &str) {
        self.assignments.retain(|assignment| assignment.pod != pod);
    }

    /// Returns the assignments of all pods, including deleted pods whose devices are not freed yet.
    pub(crate) fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }
}

/// Chooses `count` of the available devices, those that the plugin prefers first. The rest is chosen at random, because
/// the kubelet's sets have no order that a plugin could rely on.
pub(crate) fn choose_devices(
    mut available: Vec<String>,
    preferred: &[String],
    count: usize,
) -> Vec<String> {
    fastrand::shuffle(&mut available);
    let preferred: HashSet<&String> = preferred.iter().collect();
    let (mut chosen, rest): (Vec<_>, Vec<_>) =
        available.into_iter().partition(|id| preferred.contains(id));
    chosen.extend(rest);
    chosen.truncate(count);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferred_devices_are_chosen_first_and_the_rest_at_random() {
        let ids = |range: std::ops::Range<u32>| range.map(|i| i.to_string()).collect::<Vec<_>>();
        let chosen = choose_devices(ids(0..9), &["7".to_owned(), "x".to_owned()], 3);
        assert_eq!((chosen.len(), &*chosen[0]), (3, "7"));
    }
}

//! The choice of devices for a container. It follows `devicesToAllocate` and `allocateContainerResources` in
//! `pkg/kubelet/cm/devicemanager/manager.go`.

use std::collections::{BTreeMap, BTreeSet};

use simple_device_plugin::api::{PreferenceRequest, v1beta1};

use crate::admission_error::AdmissionError;
use crate::crash::Crash;
use crate::topology_manager::NumaMask;

use super::topology_hints::ByAffinity;
use super::{Assignment, DeviceManager};

/// A container's request for devices of one resource.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeviceRequest<'a> {
    pub(crate) pod: &'a str,
    pub(crate) container: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) count: usize,
}

/// The devices for a request, as far as the kubelet chooses them without the plugin.
#[derive(Debug)]
pub(crate) enum Choice {
    /// All of them, in the order in which they were chosen.
    Complete(Vec<String>),
    /// The plugin may prefer some of the candidates: see [`DeviceManager::complete`].
    Partial(PartialChoice),
}

/// The devices that are already chosen, and the candidates for the others.
#[derive(Debug)]
pub(crate) struct PartialChoice {
    chosen: Vec<String>,
    count: usize,
    candidates: BTreeSet<String>,
    /// The sets to choose from after the devices that the plugin prefers.
    rest: Vec<BTreeSet<String>>,
}

impl PartialChoice {
    /// Returns the request for GetPreferredAllocation.
    pub(crate) fn question(&self) -> PreferenceRequest {
        let mut available = self.candidates.clone();
        available.extend(self.chosen.iter().cloned());
        PreferenceRequest {
            available: available.into_iter().collect(),
            must_include: self.chosen.clone(),
            size: self.count,
        }
    }
}

impl<C> DeviceManager<C> {
    /// Returns whether the kubelet allocates devices of this resource. It runs pods without the devices of any other
    /// resource (`isDevicePluginResource`).
    pub(crate) fn is_device_plugin_resource(&self, resource: &str) -> bool {
        self.lists.contains_key(resource) || self.allocated.contains_key(resource)
    }

    /// Chooses devices: first those that the container can reuse, then available ones on the NUMA nodes that the
    /// topology manager chose.
    ///
    /// The chosen devices count as allocated from now on, even if the admission fails later. Only
    /// [`Self::restore_allocated`] and [`Self::retain_pods`] correct that (Kubernetes issue 130145).
    ///
    /// # Errors
    /// Returns an error if the resource has no healthy device, or if too few are available.
    pub(crate) fn choose(
        &mut self,
        request: DeviceRequest<'_>,
        reusable: Option<&BTreeSet<String>>,
        affinity: Option<NumaMask>,
    ) -> Result<Choice, AdmissionError> {
        let DeviceRequest {
            resource, count, ..
        } = request;
        let Some(list) = self.lists.get(resource) else {
            return Err(AdmissionError::Unregistered(resource.to_owned()));
        };
        if list.healthy.is_empty() {
            return Err(AdmissionError::NoHealthyDevice(resource.to_owned()));
        }
        let mut chosen = Vec::new();
        if let Some(reusable) = reusable {
            self.take(resource, &mut chosen, count, reusable);
        }
        if chosen.len() == count {
            return Ok(Choice::Complete(chosen));
        }
        let available = self.available(resource);
        let needed = count - chosen.len();
        if available.len() < needed {
            return Err(AdmissionError::TooFew {
                resource: resource.to_owned(),
                requested: needed,
                available: available.len(),
            });
        }
        let ByAffinity {
            aligned,
            unaligned,
            no_affinity,
        } = self.by_affinity(resource, &available, affinity);
        let (candidates, rest) = if needed < aligned.len() {
            (aligned.clone(), vec![aligned])
        } else {
            self.take(resource, &mut chosen, count, &aligned);
            (available, vec![unaligned, no_affinity])
        };
        if chosen.len() == count {
            return Ok(Choice::Complete(chosen));
        }
        Ok(Choice::Partial(PartialChoice {
            chosen,
            count,
            candidates,
            rest,
        }))
    }

    /// Completes a choice with the candidates that the plugin prefers, and then with others.
    pub(crate) fn complete(
        &mut self,
        resource: &str,
        choice: PartialChoice,
        preferred: &[String],
    ) -> Vec<String> {
        let PartialChoice {
            mut chosen,
            count,
            candidates,
            rest,
        } = choice;
        let preferred = preferred.iter().filter(|id| candidates.contains(*id));
        let preferred: BTreeSet<String> = preferred.cloned().collect();
        for ids in [preferred].iter().chain(&rest) {
            self.take(resource, &mut chosen, count, ids);
        }
        chosen
    }

    /// Takes devices from a set until `count` are chosen (`allocateRemainingFrom`). They are taken at random, because
    /// the kubelet's sets have no order that a plugin could rely on.
    fn take(
        &mut self,
        resource: &str,
        chosen: &mut Vec<String>,
        count: usize,
        ids: &BTreeSet<String>,
    ) {
        let known: BTreeSet<&String> = chosen.iter().collect();
        let mut ids: Vec<String> = ids
            .iter()
            .filter(|id| !known.contains(id))
            .cloned()
            .collect();
        fastrand::shuffle(&mut ids);
        ids.truncate(count - chosen.len());
        let allocated = self.allocated.entry(resource.to_owned()).or_default();
        allocated.extend(ids.iter().cloned());
        chosen.append(&mut ids);
    }

    /// Returns the healthy devices that are not allocated (`getAvailableDevices`).
    pub(super) fn available(&self, resource: &str) -> BTreeSet<String> {
        let healthy = self.lists.get(resource).map(|list| &list.healthy);
        let allocated = self.allocated.get(resource);
        let is_free = |id: &&String| !allocated.is_some_and(|ids| ids.contains(*id));
        let free = healthy.into_iter().flatten().filter(is_free);
        free.cloned().collect()
    }

    /// Assigns the chosen devices to the container, with the NUMA nodes of the current list.
    ///
    /// # Errors
    /// Returns a crash if a device is no longer in the list: the kubelet dereferences it without a nil check.
    pub(crate) fn assign(
        &mut self,
        request: DeviceRequest<'_>,
        ids: &[String],
        reusable: Option<&BTreeSet<String>>,
        response: v1beta1::ContainerAllocateResponse,
    ) -> Result<(), Crash> {
        let DeviceRequest {
            pod,
            container,
            resource,
            ..
        } = request;
        if let Some(id) = ids.iter().find(|id| !self.is_listed(resource, id)) {
            return Err(match reusable.filter(|ids| ids.contains(id)) {
                Some(_) => removed_before_reuse(request, id),
                None => Crash::RemovedDuringAllocation {
                    resource: resource.to_owned(),
                    id: id.clone(),
                },
            });
        }
        let mut devices: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
        for id in ids {
            for node in self.numa_nodes(resource, id) {
                devices.entry(node).or_default().insert(id.clone());
            }
        }
        self.assignments.push(Assignment {
            pod: pod.to_owned(),
            container: container.to_owned(),
            resource: resource.to_owned(),
            devices,
            response,
        });
        Ok(())
    }
}

pub(super) fn removed_before_reuse(request: DeviceRequest<'_>, id: &str) -> Crash {
    Crash::RemovedBeforeReuse {
        resource: request.resource.to_owned(),
        id: id.to_owned(),
        pod: request.pod.to_owned(),
        container: request.container.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_manager::tests::manager_with_devices;

    fn request(count: usize) -> DeviceRequest<'static> {
        DeviceRequest {
            pod: "p",
            container: "main",
            resource: "r",
            count,
        }
    }

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    /// Returns the devices that are chosen if the plugin prefers these.
    fn choose(
        manager: &mut DeviceManager<()>,
        count: usize,
        reusable: &[&str],
        preferred: &[&str],
    ) -> Result<BTreeSet<String>, AdmissionError> {
        let preferred: Vec<String> = set(preferred).into_iter().collect();
        let ids = match manager.choose(request(count), Some(&set(reusable)), None)? {
            Choice::Complete(ids) => ids,
            Choice::Partial(choice) => manager.complete("r", choice, &preferred),
        };
        Ok(ids.into_iter().collect())
    }

    #[test]
    fn preferred_devices_are_chosen_first_if_they_are_available() {
        let mut manager = manager_with_devices(&["a", "b", "c"]);
        let chosen = choose(&mut manager, 1, &[], &["b", "x"]);
        assert_eq!(chosen, Ok(set(&["b"])));
        let chosen = choose(&mut manager, 2, &[], &["b"]);
        assert_eq!(chosen, Ok(set(&["a", "c"])));
    }

    #[test]
    fn reusable_devices_are_chosen_before_others_and_must_be_included() {
        let mut manager = manager_with_devices(&["a", "b", "c"]);
        let reusable = choose(&mut manager, 1, &[], &["b"]).expect("a device");
        assert_eq!(reusable, set(&["b"]));
        assert_eq!(
            choose(&mut manager, 1, &["b"], &["a"]),
            Ok(reusable.clone())
        );
        let Ok(Choice::Partial(choice)) = manager.choose(request(2), Some(&reusable), None) else {
            panic!("the plugin is not asked");
        };
        let question = choice.question();
        assert_eq!(question.available, ["a", "b", "c"]);
        assert_eq!(question.must_include, ["b"]);
        assert_eq!(question.size, 2);
        let chosen: BTreeSet<String> = manager.complete("r", choice, &[]).into_iter().collect();
        assert!(chosen.contains("b"));
    }

    #[test]
    fn a_request_beyond_the_available_devices_counts_without_reused_ones() {
        let mut manager = manager_with_devices(&["a", "b", "c"]);
        choose(&mut manager, 2, &[], &["a", "b"]).expect("devices");
        let too_few = AdmissionError::TooFew {
            resource: "r".to_owned(),
            requested: 2,
            available: 1,
        };
        assert_eq!(choose(&mut manager, 3, &["a"], &[]), Err(too_few));
    }

    #[test]
    fn a_request_for_no_device_needs_a_healthy_one() {
        let mut manager = manager_with_devices(&["a"]);
        assert_eq!(choose(&mut manager, 0, &[], &[]), Ok(set(&[])));
        manager.plugin_disconnected("r", std::time::Instant::now());
        let unhealthy = AdmissionError::NoHealthyDevice("r".to_owned());
        assert_eq!(choose(&mut manager, 0, &[], &[]), Err(unhealthy));
    }

    #[test]
    fn a_forgotten_resource_is_refused_while_a_pod_holds_its_devices() {
        let mut manager = manager_with_devices(&["a"]);
        let response = v1beta1::ContainerAllocateResponse::default();
        let assigned = manager.assign(request(1), &["a".to_owned()], None, response);
        assigned.expect("no crash");
        manager.restore_allocated();
        let now = std::time::Instant::now();
        manager.plugin_disconnected("r", now);
        assert!(manager.expire_endpoints(now + std::time::Duration::from_secs(300)));
        assert!(manager.is_device_plugin_resource("r"));
        let unregistered = AdmissionError::Unregistered("r".to_owned());
        assert_eq!(choose(&mut manager, 1, &[], &[]), Err(unregistered));
        manager.retain_pods(|_| false);
        assert!(!manager.is_device_plugin_resource("r"));
    }

    #[test]
    fn chosen_devices_stay_allocated_until_the_devices_of_a_pod_are_freed() {
        let mut manager = manager_with_devices(&["a", "b", "c"]);
        let response = v1beta1::ContainerAllocateResponse::default;
        let mut hold = |pod, id: &str| {
            let request = DeviceRequest { pod, ..request(1) };
            let assigned = manager.assign(request, &[id.to_owned()], None, response());
            assigned.expect("no crash");
        };
        hold("gone", "a");
        hold("p", "b");
        manager.restore_allocated();
        // The admission of a pod fails after the choice.
        assert!(manager.choose(request(1), Some(&set(&["c"])), None).is_ok());
        manager.retain_pods(|_| true);
        assert_eq!(manager.available("r"), set(&[]));
        manager.retain_pods(|pod| pod == "p");
        assert_eq!(manager.available("r"), set(&["a", "c"]));
    }
}

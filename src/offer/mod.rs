//! The device list that a resource advertises to the kubelet. It combines the configuration, the overrides set at run
//! time, the faults that make devices Unhealthy, and the devices pending removal.
//!
//! The kubelet crashes if a device disappears from the list while a pod holds it or an Allocate in flight may pick it:
//! `devicemanager/manager.go` looks the device up without checking that it exists. A device that is no longer configured
//! is therefore advertised as Unhealthy until no pod can hold it.

mod changes;
mod list;
pub mod removal;
pub mod resource;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::device::{Device, Devices, Health, ListTooLarge};
use crate::offer::resource::Resource;

/// A resource with its overrides, faults and the resulting device list. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Offer {
    resource: Arc<Resource>,
    overrides: Overrides,
    fault_unhealthy: BTreeSet<Box<str>>,
    devices: Arc<Devices>,
    /// How many times an unchanged list was sent again.
    repeats: u64,
}

/// Settings made at run time, which override the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The number of devices. `None`: as configured.
    pub count: Option<usize>,
    /// The health of devices, by ID. The IDs of missing devices are kept: such a device may come back.
    pub health: BTreeMap<Box<str>, Health>,
}

/// Why the number of devices cannot be set at run time. The variants are part of the control protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "camelCase")]
pub enum CountError {
    #[error(
        "the number of devices cannot be set, because the config file lists each device: change the list there"
    )]
    Listed,
    #[error("expected {0}")]
    TooMany(#[from] ListTooLarge),
}

impl Offer {
    /// An offer of the resource as configured, without overrides or faults.
    pub fn new(resource: Resource) -> Self {
        Self {
            overrides: Overrides::default(),
            fault_unhealthy: BTreeSet::new(),
            repeats: 0,
            devices: Arc::clone(&resource.devices),
            resource: Arc::new(resource),
        }
    }

    /// The resource as configured.
    pub fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// The IDs of the devices that a fault makes Unhealthy.
    pub fn fault_unhealthy(&self) -> &BTreeSet<Box<str>> {
        &self.fault_unhealthy
    }

    /// The devices as advertised to the kubelet. Devices pending removal come last. If the list would be too large for
    /// the kubelet, new devices are left out until others are removed.
    pub fn devices(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// Returns an offer whose list is sent again although it is unchanged. Every list makes the kubelet write its checkpoint.
    #[must_use]
    pub(crate) fn repeated(&self) -> Self {
        Self {
            repeats: self.repeats + 1,
            ..self.clone()
        }
    }

    /// How many times an unchanged list was sent again. A stream sends the list whenever this number changes.
    pub(crate) fn repeats(&self) -> u64 {
        self.repeats
    }

    pub fn removing(&self) -> impl Iterator<Item = &Device> {
        self.devices
            .as_slice()
            .iter()
            .filter(|device| device.removing)
    }

    /// Replaces the configuration. Devices that are no longer configured become pending removal. Overrides are kept, except
    /// a device count if the new configuration lists each device.
    #[must_use]
    pub(crate) fn reconfigured(&self, resource: Resource) -> Self {
        let overrides = Overrides {
            count: self.overrides.count.filter(|_| resource.counted.is_some()),
            health: self.overrides.health.clone(),
        };
        Self {
            resource: resource.into(),
            overrides,
            ..self.clone()
        }
        .rebuilt()
    }

    /// Removes the overrides. Faults stay.
    #[must_use]
    pub(crate) fn without_overrides(&self) -> Self {
        Self {
            overrides: Overrides::default(),
            ..self.clone()
        }
        .rebuilt()
    }

    /// Adds the devices that pods hold. Those that are not configured are pending removal.
    #[must_use]
    pub(crate) fn with_held(&self, held: &[Device]) -> Self {
        let known: Vec<Device> = self.removing().chain(held).cloned().collect();
        self.clone().rebuilt_with(&known)
    }

    /// Removes the devices with these IDs that are pending removal. Adds configured devices that did not fit in the
    /// list before.
    #[must_use]
    pub(crate) fn without_removed(&self, removed: &BTreeSet<&str>) -> Self {
        let remains = |device: &&Device| !(device.removing && removed.contains(&*device.id));
        let remaining = self.devices.as_slice().iter().filter(remains).cloned();
        self.clone().rebuilt_with(&remaining.collect::<Vec<_>>())
    }

    /// Overrides the number of devices. Surplus devices become pending removal.
    ///
    /// # Errors
    /// Returns an error if the configuration lists each device, or if the list would be too large for the kubelet.
    pub(crate) fn with_count(&self, count: usize) -> Result<Self, CountError> {
        let counted = self.resource.counted.as_ref().ok_or(CountError::Listed)?;
        counted.list_size(count)?;
        let overrides = Overrides {
            count: Some(count),
            health: self.overrides.health.clone(),
        };
        Ok(Self {
            overrides,
            ..self.clone()
        }
        .rebuilt())
    }

    /// Overrides the health of the devices with these IDs.
    #[must_use]
    pub(crate) fn with_health<'a>(
        &self,
        ids: impl Iterator<Item = &'a str>,
        health: Health,
    ) -> Self {
        let mut overrides = self.overrides.clone();
        overrides.health.extend(ids.map(|id| (id.into(), health)));
        Self {
            overrides,
            ..self.clone()
        }
        .rebuilt()
    }

    /// Replaces the set of devices that a fault makes Unhealthy.
    #[must_use]
    pub(crate) fn with_fault_unhealthy(&self, fault_unhealthy: BTreeSet<Box<str>>) -> Self {
        Self {
            fault_unhealthy,
            ..self.clone()
        }
        .rebuilt()
    }

    /// Rebuilds the list. The devices of the current list may be known to the kubelet.
    fn rebuilt(self) -> Self {
        let known = Arc::clone(&self.devices);
        self.rebuilt_with(known.as_slice())
    }

    /// Rebuilds the list from all layers: configuration, then overrides, then faults. Devices in `known` that are not
    /// configured stay in the list as pending removal.
    fn rebuilt_with(mut self, known: &[Device]) -> Self {
        let mut wanted = match (self.overrides.count, &self.resource.counted) {
            (Some(count), Some(counted)) => Arc::new(counted.devices(count)),
            _ => Arc::clone(&self.resource.devices),
        };
        let overrides = self
            .overrides
            .health
            .iter()
            .map(|(id, health)| (id, *health));
        let by_fault = self
            .fault_unhealthy
            .iter()
            .map(|id| (id, Health::Unhealthy));
        for (id, health) in overrides.chain(by_fault) {
            if wanted.get(id).is_some_and(|device| device.health != health) {
                // Cannot fail: the device exists.
                let _ = Arc::make_mut(&mut wanted).set_health(id, health);
            }
        }
        self.devices = list::advertised_devices(&wanted, known);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, Host};
    use crate::model::device::CountedDevices;
    use crate::model::device::LIST_SIZE_MAX;
    use crate::model::numa::NumaNodes;

    fn resource(count: usize) -> Resource {
        let host = Host {
            hostname: Some("n".to_owned()),
            ..Host::default()
        };
        let config = Config::from_variables(&Environment::default(), &host);
        let mut resource = config.unwrap().plugins.resources.remove(0);
        resource.devices = CountedDevices::new("d", "n", NumaNodes::default())
            .devices(count)
            .into();
        resource
    }

    fn advertised(offer: &Offer) -> Vec<String> {
        let advertised =
            |device: &Device| format!("{} {}", device.id, device.advertised_health().as_str());
        offer.devices().as_slice().iter().map(advertised).collect()
    }

    #[test]
    fn a_device_pending_removal_is_unhealthy_until_it_is_removed() {
        let fewer = Offer::new(resource(3)).reconfigured(resource(1));
        assert_eq!(
            advertised(&fewer),
            ["d-n-0 Healthy", "d-n-1 Unhealthy", "d-n-2 Unhealthy"]
        );
        let removed = fewer.without_removed(&BTreeSet::from(["d-n-2", "d-n-0"]));
        assert_eq!(advertised(&removed), ["d-n-0 Healthy", "d-n-1 Unhealthy"]);
        assert_eq!(
            advertised(&removed.reconfigured(resource(0))),
            ["d-n-0 Unhealthy", "d-n-1 Unhealthy"]
        );
    }

    #[test]
    fn a_device_that_is_configured_again_is_healthy() {
        let back = Offer::new(resource(2))
            .reconfigured(resource(0))
            .reconfigured(resource(2));
        assert_eq!(advertised(&back), ["d-n-0 Healthy", "d-n-1 Healthy"]);
        assert_eq!(back.removing().count(), 0);
    }

    #[test]
    fn a_held_device_that_is_not_configured_is_advertised_as_unhealthy() {
        let held = ["d-n-0", "old"].map(|id| Device::new(id, 0, [1].into()));
        let offer = Offer::new(resource(1)).with_held(&held);
        assert_eq!(advertised(&offer), ["d-n-0 Healthy", "old Unhealthy"]);
        assert_eq!(*offer.devices().get("old").unwrap().numa, [1]);
        // A configured device keeps its configured NUMA nodes.
        assert!(offer.devices().get("d-n-0").unwrap().numa.is_empty());
    }

    #[test]
    fn a_health_override_survives_a_removal_and_a_reload() {
        let fewer = Offer::new(resource(3)).reconfigured(resource(2));
        let unhealthy = fewer.with_health(["d-n-0", "other"].into_iter(), Health::Unhealthy);
        assert_eq!(
            advertised(&unhealthy),
            ["d-n-0 Unhealthy", "d-n-1 Healthy", "d-n-2 Unhealthy"]
        );
        let removed = unhealthy.without_removed(&BTreeSet::from(["d-n-2"]));
        assert_eq!(advertised(&removed), ["d-n-0 Unhealthy", "d-n-1 Healthy"]);
        let again = removed.reconfigured(resource(1));
        assert_eq!(advertised(&again), ["d-n-0 Unhealthy", "d-n-1 Unhealthy"]);
        assert_eq!(
            advertised(&again.without_overrides()),
            ["d-n-0 Healthy", "d-n-1 Unhealthy"]
        );
        assert_eq!(*again.without_overrides().overrides(), Overrides::default());
    }

    #[test]
    fn a_count_override_takes_precedence_over_the_configuration() {
        let mut counted = resource(2);
        counted.counted = Some(CountedDevices::new("d", "n", NumaNodes::default()));
        let more = Offer::new(counted.clone()).with_count(3).unwrap();
        assert_eq!(
            advertised(&more),
            ["d-n-0 Healthy", "d-n-1 Healthy", "d-n-2 Healthy"]
        );
        let fewer = more.with_count(1).unwrap();
        assert_eq!(
            advertised(&fewer),
            ["d-n-0 Healthy", "d-n-1 Unhealthy", "d-n-2 Unhealthy"]
        );
        // A reload with another count keeps the override.
        let mut four = resource(4);
        four.counted.clone_from(&counted.counted);
        assert_eq!(
            advertised(&fewer.reconfigured(four.clone())),
            advertised(&fewer)
        );
        assert_eq!(
            fewer
                .reconfigured(four)
                .without_overrides()
                .removing()
                .count(),
            0
        );
        let too_many = more.with_count(1_000_000).unwrap_err();
        assert!(matches!(too_many, CountError::TooMany(_)), "{too_many}");
        let mut listed = resource(2);
        listed.counted = None;
        assert_eq!(
            Offer::new(listed.clone()).with_count(1).unwrap_err(),
            CountError::Listed
        );
        // A configuration that lists each device removes the override.
        assert_eq!(
            advertised(&fewer.reconfigured(listed)),
            ["d-n-0 Healthy", "d-n-1 Healthy", "d-n-2 Unhealthy"]
        );
    }

    #[test]
    fn new_devices_that_do_not_fit_are_added_once_others_are_removed() {
        let large = |prefix: &str| {
            let mut resource = resource(0);
            resource.devices = CountedDevices::new(prefix, &"n".repeat(100), NumaNodes::default())
                .devices(30_000)
                .into();
            resource
        };
        let both = Offer::new(large("a")).reconfigured(large("b"));
        let new = |offer: &Offer| {
            offer
                .devices()
                .as_slice()
                .iter()
                .filter(|d| !d.removing)
                .count()
        };
        assert_eq!(both.removing().count(), 30_000);
        assert!((1..30_000).contains(&new(&both)), "{}", new(&both));
        assert!(both.devices().list_size() <= LIST_SIZE_MAX);
        let removed: Vec<String> = both
            .removing()
            .take(20_000)
            .map(|d| d.id.to_string())
            .collect();
        let later = both.without_removed(&removed.iter().map(String::as_str).collect());
        assert!(new(&later) > new(&both));
        assert!(later.devices().list_size() <= LIST_SIZE_MAX);
    }

    #[test]
    fn a_fault_takes_precedence_over_a_health_override() {
        let fault_unhealthy = BTreeSet::from(["d-n-1".into()]);
        let offer = Offer::new(resource(2)).with_fault_unhealthy(fault_unhealthy);
        let expected = ["d-n-0 Healthy", "d-n-1 Unhealthy"];
        assert_eq!(advertised(&offer), expected);
        let overrides = offer.with_health(["d-n-1"].into_iter(), Health::Healthy);
        assert_eq!(advertised(&overrides), expected);
        assert_eq!(advertised(&overrides.reconfigured(resource(2))), expected);
        assert_eq!(advertised(&overrides.without_overrides()), expected);
        let healthy = overrides.with_fault_unhealthy(BTreeSet::new());
        assert_eq!(advertised(&healthy), ["d-n-0 Healthy", "d-n-1 Healthy"]);
    }
}

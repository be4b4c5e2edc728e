//! What the kubelet sees of a resource: the configured devices, over them what was set at run time and what faults make
//! Unhealthy, and the devices that are pending removal.
//!
//! A kubelet crashes when a device disappears from the list that a pod holds or an Allocate in flight may
//! pick (`devicemanager/manager.go` looks it up without asking whether it is there). So a device that the
//! configuration lacks is reported as Unhealthy until it is known that no pod has it.

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

/// A resource as it is offered now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Offer {
    resource: Arc<Resource>,
    overrides: Overrides,
    fault_unhealthy: BTreeSet<Box<str>>,
    devices: Arc<Devices>,
    /// How often the same list was to be sent once more.
    repeats: u64,
}

/// What was set at run time and overrides the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// How many devices there are.
    pub count: Option<usize>,
    /// The health of devices, by ID.
    pub health: BTreeMap<Box<str>, Health>,
}

/// Why the number of devices cannot be set at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "camelCase")]
pub enum CountError {
    /// The configuration names each device.
    #[error("the devices of this resource are a list, of which there is no other number")]
    Listed,
    #[error("expected {0}")]
    TooMany(#[from] ListTooLarge),
}

impl Offer {
    /// The resource as configured.
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

    /// What was set at run time.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// The devices that a fault makes Unhealthy.
    pub fn fault_unhealthy(&self) -> &BTreeSet<Box<str>> {
        &self.fault_unhealthy
    }

    /// The devices as reported to the kubelet: the wanted ones that there is room for, then those that are pending
    /// removal.
    pub fn devices(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// The same list to be sent once more: each makes the kubelet write its checkpoint.
    #[must_use]
    pub(crate) fn repeated(&self) -> Self {
        Self {
            repeats: self.repeats + 1,
            ..self.clone()
        }
    }

    /// How often the same list was to be sent once more.
    pub(crate) fn repeats(&self) -> u64 {
        self.repeats
    }

    /// The devices that are pending removal.
    pub fn removing(&self) -> impl Iterator<Item = &Device> {
        self.devices
            .as_slice()
            .iter()
            .filter(|device| device.removing)
    }

    /// Another configuration of the same resource: what it lacks is pending removal from here on. What was set at run time
    /// stays, but a count of devices that are a list now.
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

    /// As the configuration says, without overrides.
    #[must_use]
    pub(crate) fn as_configured(&self) -> Self {
        Self {
            overrides: Overrides::default(),
            ..self.clone()
        }
        .rebuilt()
    }

    /// What pods hold of this resource is in the list from the start, also where the configuration lacks it.
    #[must_use]
    pub(crate) fn with_held(&self, held: &[Device]) -> Self {
        let known: Vec<Device> = self.removing().chain(held).cloned().collect();
        self.clone().rebuilt_with(&known)
    }

    /// Without these of the devices that are pending removal; those that waited for room move up.
    #[must_use]
    pub(crate) fn without_dropped(&self, dropped: &BTreeSet<&str>) -> Self {
        let remains = |device: &&Device| !(device.removing && dropped.contains(&*device.id));
        let remaining = self.devices.as_slice().iter().filter(remains).cloned();
        self.clone().rebuilt_with(&remaining.collect::<Vec<_>>())
    }

    /// With this many devices, set at run time: those that are too many are pending removal from here on.
    ///
    /// # Errors
    /// When there cannot be so many.
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

    /// With this health of these devices, set at run time.
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

    /// With these devices, and no others, Unhealthy by a fault.
    #[must_use]
    pub(crate) fn with_fault_unhealthy(&self, fault_unhealthy: BTreeSet<Box<str>>) -> Self {
        Self {
            fault_unhealthy,
            ..self.clone()
        }
        .rebuilt()
    }

    /// Rebuilds the list, beside the devices that the kubelet knows.
    fn rebuilt(self) -> Self {
        let known = Arc::clone(&self.devices);
        self.rebuilt_with(known.as_slice())
    }

    /// The devices anew: what is configured, over it what was set at run time, over that what faults make Unhealthy; beside
    /// those that the kubelet may know.
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
                // It is there.
                let _ = Arc::make_mut(&mut wanted).set_health(id, health);
            }
        }
        self.devices = list::reported_devices(&wanted, known);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, Host};
    use crate::model::device::Counted;
    use crate::model::device::LIST_SIZE_MAX;
    use crate::model::numa::NumaNodes;

    fn resource(count: usize) -> Resource {
        let host = Host {
            hostname: Some("n".to_owned()),
            ..Host::default()
        };
        let config = Config::from_variables(&Environment::default(), &host);
        let mut resource = config.unwrap().plugins.resources.remove(0);
        resource.devices = Counted::new("d", "n", NumaNodes::default())
            .devices(count)
            .into();
        resource
    }

    fn reported(offer: &Offer) -> Vec<String> {
        let reported =
            |device: &Device| format!("{} {}", device.id, device.advertised_health().as_str());
        offer.devices().as_slice().iter().map(reported).collect()
    }

    #[test]
    fn what_goes_stays_as_unhealthy_until_it_is_dropped() {
        let fewer = Offer::new(resource(3)).reconfigured(resource(1));
        assert_eq!(
            reported(&fewer),
            ["d-n-0 Healthy", "d-n-1 Unhealthy", "d-n-2 Unhealthy"]
        );
        let dropped = fewer.without_dropped(&BTreeSet::from(["d-n-2", "d-n-0"]));
        assert_eq!(reported(&dropped), ["d-n-0 Healthy", "d-n-1 Unhealthy"]);
        assert_eq!(
            reported(&dropped.reconfigured(resource(0))),
            ["d-n-0 Unhealthy", "d-n-1 Unhealthy"]
        );
    }

    #[test]
    fn what_comes_back_is_healthy_again() {
        let back = Offer::new(resource(2))
            .reconfigured(resource(0))
            .reconfigured(resource(2));
        assert_eq!(reported(&back), ["d-n-0 Healthy", "d-n-1 Healthy"]);
        assert_eq!(back.removing().count(), 0);
    }

    #[test]
    fn what_pods_hold_is_told_though_nobody_configured_it() {
        let held = ["d-n-0", "old"].map(|id| Device::new(id, 0, [1].into()));
        let offer = Offer::new(resource(1)).with_held(&held);
        assert_eq!(reported(&offer), ["d-n-0 Healthy", "old Unhealthy"]);
        assert_eq!(*offer.devices().get("old").unwrap().numa, [1]);
        // What the configuration says of it counts.
        assert!(offer.devices().get("d-n-0").unwrap().numa.is_empty());
    }

    #[test]
    fn health_that_was_set_outlives_a_drop_and_a_reload() {
        let fewer = Offer::new(resource(3)).reconfigured(resource(2));
        let unhealthy = fewer.with_health(["d-n-0", "other"].into_iter(), Health::Unhealthy);
        assert_eq!(
            reported(&unhealthy),
            ["d-n-0 Unhealthy", "d-n-1 Healthy", "d-n-2 Unhealthy"]
        );
        let dropped = unhealthy.without_dropped(&BTreeSet::from(["d-n-2"]));
        assert_eq!(reported(&dropped), ["d-n-0 Unhealthy", "d-n-1 Healthy"]);
        let again = dropped.reconfigured(resource(1));
        assert_eq!(reported(&again), ["d-n-0 Unhealthy", "d-n-1 Unhealthy"]);
        assert_eq!(
            reported(&again.as_configured()),
            ["d-n-0 Healthy", "d-n-1 Unhealthy"]
        );
        assert_eq!(*again.as_configured().overrides(), Overrides::default());
    }

    #[test]
    fn a_count_that_was_set_lies_over_the_configuration() {
        let mut counted = resource(2);
        counted.counted = Some(Counted::new("d", "n", NumaNodes::default()));
        let more = Offer::new(counted.clone()).with_count(3).unwrap();
        assert_eq!(
            reported(&more),
            ["d-n-0 Healthy", "d-n-1 Healthy", "d-n-2 Healthy"]
        );
        let fewer = more.with_count(1).unwrap();
        assert_eq!(
            reported(&fewer),
            ["d-n-0 Healthy", "d-n-1 Unhealthy", "d-n-2 Unhealthy"]
        );
        // A reload with another count changes nothing of it.
        let mut four = resource(4);
        four.counted.clone_from(&counted.counted);
        assert_eq!(
            reported(&fewer.reconfigured(four.clone())),
            reported(&fewer)
        );
        assert_eq!(
            fewer.reconfigured(four).as_configured().removing().count(),
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
        // A list has no other number.
        assert_eq!(
            reported(&fewer.reconfigured(listed)),
            ["d-n-0 Healthy", "d-n-1 Healthy", "d-n-2 Unhealthy"]
        );
    }

    #[test]
    fn new_devices_wait_where_the_list_has_no_room_for_all() {
        let large = |prefix: &str| {
            let mut resource = resource(0);
            resource.devices = Counted::new(prefix, &"n".repeat(100), NumaNodes::default())
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
        let gone: Vec<String> = both
            .removing()
            .take(20_000)
            .map(|d| d.id.to_string())
            .collect();
        let later = both.without_dropped(&gone.iter().map(String::as_str).collect());
        assert!(new(&later) > new(&both));
        assert!(later.devices().list_size() <= LIST_SIZE_MAX);
    }

    #[test]
    fn a_fault_keeps_a_device_unhealthy_whatever_else_is_set() {
        let fault_unhealthy = BTreeSet::from(["d-n-1".into()]);
        let offer = Offer::new(resource(2)).with_fault_unhealthy(fault_unhealthy);
        let expected = ["d-n-0 Healthy", "d-n-1 Unhealthy"];
        assert_eq!(reported(&offer), expected);
        let overrides = offer.with_health(["d-n-1"].into_iter(), Health::Healthy);
        assert_eq!(reported(&overrides), expected);
        assert_eq!(reported(&overrides.reconfigured(resource(2))), expected);
        assert_eq!(reported(&overrides.as_configured()), expected);
        let healthy = overrides.with_fault_unhealthy(BTreeSet::new());
        assert_eq!(reported(&healthy), ["d-n-0 Healthy", "d-n-1 Healthy"]);
    }
}

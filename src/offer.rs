//! What the kubelet is told of a resource: the configured devices, and those that are going.
//!
//! A kubelet crashes when a device disappears from the list that a pod holds or an Allocate in flight may
//! pick (`devicemanager/manager.go` looks it up without asking whether it is there). So a device that the
//! configuration lacks is told as Unhealthy until it is known that nobody has it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::device::{Device, Devices, Health, LIST_SIZE_MAX, UnknownDevice};
use crate::resource::Resource;

/// A resource as it is offered now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Offer {
    resource: Arc<Resource>,
    devices: Arc<Devices>,
}

impl Offer {
    /// The resource as configured.
    pub fn new(resource: Resource) -> Self {
        Self {
            devices: Arc::clone(&resource.devices),
            resource: Arc::new(resource),
        }
    }

    /// The resource as configured.
    pub fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    /// The devices as the kubelet is told of them: the configured ones that there is room for, then those
    /// that are going.
    pub fn devices(&self) -> &Arc<Devices> {
        &self.devices
    }

    /// The devices that are going.
    pub fn going(&self) -> impl Iterator<Item = &Device> {
        self.devices.as_slice().iter().filter(|device| device.going)
    }

    /// Another configuration of the same resource: what it lacks is going from here on.
    #[must_use]
    pub fn reconfigured(&self, resource: Resource) -> Self {
        let devices = told(&resource.devices, self.devices.as_slice());
        Self {
            devices,
            resource: resource.into(),
        }
    }

    /// What pods hold of this resource is told from the start, also where the configuration lacks it.
    #[must_use]
    pub fn holding(&self, held: &[Device]) -> Self {
        let known: Vec<Device> = self.going().chain(held).cloned().collect();
        self.knowing(&known)
    }

    /// Without these of the devices that are going; those that waited for room move up.
    #[must_use]
    pub fn without(&self, gone: &BTreeSet<&str>) -> Self {
        let stays = |device: &&Device| !(device.going && gone.contains(&*device.id));
        let known = self.devices.as_slice().iter().filter(stays).cloned();
        self.knowing(&known.collect::<Vec<_>>())
    }

    /// The same configuration beside what the kubelet may know; health that was set stays.
    fn knowing(&self, known: &[Device]) -> Self {
        let mut configured = Arc::clone(&self.resource.devices);
        let stays = |device: &&Device| !device.going;
        for device in self.devices.as_slice().iter().filter(stays) {
            let differs = |known: &Device| known.health != device.health;
            if configured.get(&device.id).is_some_and(differs) {
                // It is there: both come of the same configuration.
                let _ = Arc::make_mut(&mut configured).set_health(&device.id, device.health);
            }
        }
        Self {
            devices: told(&configured, known),
            resource: Arc::clone(&self.resource),
        }
    }

    /// Sets a device's health; `None` where that changes nothing.
    ///
    /// # Errors
    /// When no device has this ID.
    pub fn with_health(&self, id: &str, health: Health) -> Result<Option<Self>, UnknownDevice> {
        let mut devices = Arc::clone(&self.devices);
        let changed = devices.get(id).is_none_or(|device| device.health != health)
            && Arc::make_mut(&mut devices).set_health(id, health)?;
        Ok(changed.then(|| Self {
            devices,
            resource: Arc::clone(&self.resource),
        }))
    }
}

/// The configured devices that there is room for, and the known ones that the configuration lacks.
fn told(configured: &Arc<Devices>, known: &[Device]) -> Arc<Devices> {
    let mut ids = BTreeSet::new();
    let lacking = known
        .iter()
        .filter(|device| configured.get(&device.id).is_none() && ids.insert(&device.id));
    let going: Vec<Device> = lacking
        .map(|device| Device {
            going: true,
            ..device.clone()
        })
        .collect();
    if going.is_empty() {
        return Arc::clone(configured);
    }
    beside(configured, going, &Devices::from_list(known.to_vec())).into()
}

/// The configured devices that fit beside those that are going; the kubelet cannot receive more than
/// [`LIST_SIZE_MAX`]. Those that it knows come first.
fn beside(configured: &Devices, going: Vec<Device>, known: &Devices) -> Devices {
    let is_known = |device: &&Device| known.get(&device.id).is_some();
    let configured = configured.as_slice();
    let mut size: usize = configured
        .iter()
        .filter(is_known)
        .chain(&going)
        .map(Device::list_size)
        .sum();
    let mut fits = |device: &&Device| {
        let room = size + device.list_size() <= LIST_SIZE_MAX;
        size += if room { device.list_size() } else { 0 };
        room
    };
    let told = configured
        .iter()
        .filter(|device| is_known(device) || fits(device));
    Devices::from_list(told.cloned().chain(going).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, Host};
    use crate::device::Counted;
    use crate::numa::NumaNodes;

    fn resource(count: usize) -> Resource {
        let host = Host {
            hostname: Some("n".to_owned()),
            ..Host::default()
        };
        let config = Config::from_variables(&Environment::default(), &host);
        let mut resource = config.unwrap().resources.remove(0);
        resource.devices = Counted::new("d", "n", NumaNodes::default())
            .devices(count)
            .into();
        resource
    }

    fn told(offer: &Offer) -> Vec<String> {
        let told = |device: &Device| format!("{} {}", device.id, device.told_health().as_str());
        offer.devices().as_slice().iter().map(told).collect()
    }

    #[test]
    fn what_goes_stays_as_unhealthy_until_it_is_dropped() {
        let fewer = Offer::new(resource(3)).reconfigured(resource(1));
        assert_eq!(
            told(&fewer),
            ["d-n-0 Healthy", "d-n-1 Unhealthy", "d-n-2 Unhealthy"]
        );
        let dropped = fewer.without(&BTreeSet::from(["d-n-2", "d-n-0"]));
        assert_eq!(told(&dropped), ["d-n-0 Healthy", "d-n-1 Unhealthy"]);
        assert_eq!(
            told(&dropped.reconfigured(resource(0))),
            ["d-n-0 Unhealthy", "d-n-1 Unhealthy"]
        );
    }

    #[test]
    fn what_comes_back_is_healthy_again() {
        let back = Offer::new(resource(2))
            .reconfigured(resource(0))
            .reconfigured(resource(2));
        assert_eq!(told(&back), ["d-n-0 Healthy", "d-n-1 Healthy"]);
        assert_eq!(back.going().count(), 0);
    }

    #[test]
    fn what_pods_hold_is_told_though_nobody_configured_it() {
        let held = ["d-n-0", "old"].map(|id| Device::new(id, 0, [1].into()));
        let offer = Offer::new(resource(1)).holding(&held);
        assert_eq!(told(&offer), ["d-n-0 Healthy", "old Unhealthy"]);
        assert_eq!(*offer.devices().get("old").unwrap().numa, [1]);
        // What the configuration says of it counts.
        assert!(offer.devices().get("d-n-0").unwrap().numa.is_empty());
    }

    #[test]
    fn health_that_was_set_outlives_a_drop() {
        let fewer = Offer::new(resource(3)).reconfigured(resource(2));
        let ill = fewer
            .with_health("d-n-0", Health::Unhealthy)
            .unwrap()
            .unwrap();
        let dropped = ill.without(&BTreeSet::from(["d-n-2"]));
        assert_eq!(told(&dropped), ["d-n-0 Unhealthy", "d-n-1 Healthy"]);
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
                .filter(|d| !d.going)
                .count()
        };
        assert_eq!(both.going().count(), 30_000);
        assert!((1..30_000).contains(&new(&both)), "{}", new(&both));
        assert!(both.devices().list_size() <= LIST_SIZE_MAX);
        let gone: Vec<String> = both
            .going()
            .take(20_000)
            .map(|d| d.id.to_string())
            .collect();
        let later = both.without(&gone.iter().map(String::as_str).collect());
        assert!(new(&later) > new(&both));
        assert!(later.devices().list_size() <= LIST_SIZE_MAX);
    }
}

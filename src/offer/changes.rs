//! How a resource's offer changes while the program runs. Each change is sent on every open stream.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::device::{Device, Health};
use crate::model::selection::{SelectionError, select};
use crate::offer::Offer;
use crate::offer::resource::Resource;
use crate::util::watch_cell::WatchCell;

impl WatchCell<Arc<Offer>> {
    /// Another configuration of the same resource; nothing happens where it is the same.
    pub fn reconfigure(&self, resource: &Resource) {
        self.change(|offer| {
            (**offer.resource() != *resource).then(|| offer.reconfigured(resource.clone()))
        });
    }

    /// Adds the devices that pods hold to the list, also where the configuration lacks them.
    pub fn add_held(&self, held: &[Device]) {
        let has_unknown = |offer: &Offer| {
            held.iter()
                .any(|device| offer.devices().get(&device.id).is_none())
        };
        self.change(|offer| has_unknown(offer).then(|| offer.with_held(held)));
    }

    /// Sends the same list once more.
    pub fn repeat(&self) {
        self.change(|offer| Some(offer.repeated()));
    }

    /// Drops these of the devices that are pending removal.
    pub(crate) fn drop_removing(&self, ids: &BTreeSet<&str>) {
        self.change(|offer| {
            offer
                .removing()
                .any(|device| ids.contains(&*device.id))
                .then(|| offer.without_dropped(ids))
        });
    }

    /// Sets something at run time. Where that changes nothing, nothing is sent: every message makes the kubelet
    /// write its checkpoint.
    ///
    /// # Errors
    /// What `set` has against it; then nothing changed.
    pub fn set<E>(&self, set: impl FnOnce(&Offer) -> Result<Offer, E>) -> Result<(), E> {
        let mut outcome = Ok(());
        self.change(|offer| match set(offer) {
            Ok(changed) => (changed.overrides() != offer.overrides()).then_some(changed),
            Err(error) => {
                outcome = Err(error);
                None
            }
        });
        outcome
    }

    /// Sets the health of the devices that are meant (see [`select`]), and returns their IDs.
    ///
    /// # Errors
    /// When no such device is there.
    pub fn set_health(
        &self,
        selection: &str,
        health: Health,
    ) -> Result<Vec<Box<str>>, SelectionError> {
        let mut ids = Vec::new();
        self.set(|offer| {
            let selected = select(offer.devices(), selection)?;
            ids = selected.iter().map(|device| device.id.clone()).collect();
            Ok(offer.with_health(ids.iter().map(|id| &**id), health))
        })?;
        Ok(ids)
    }

    /// Makes these devices, and no others, Unhealthy by a fault.
    pub(crate) fn set_fault_unhealthy(&self, fault_unhealthy: BTreeSet<Box<str>>) {
        self.change(|offer| {
            (*offer.fault_unhealthy() != fault_unhealthy)
                .then(|| offer.with_fault_unhealthy(fault_unhealthy))
        });
    }

    fn change(&self, change: impl FnOnce(&Offer) -> Option<Offer>) {
        self.replace(|offer| change(offer).map(Arc::new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, Host};

    #[test]
    fn only_a_change_is_sent() {
        let host = Host {
            hostname: Some("n".to_owned()),
            ..Host::default()
        };
        let config = Config::from_variables(&Environment::default(), &host).unwrap();
        let offer = Offer::new(config.plugins.resources[0].clone());
        let cell = WatchCell::new(Arc::new(offer));
        let mut offer = cell.subscribe();
        let known = offer.borrow().devices().as_slice().to_vec();
        assert!(cell.set_health("other", Health::Unhealthy).is_err());
        cell.reconfigure(&config.plugins.resources[0]);
        cell.add_held(&known);
        cell.drop_removing(&BTreeSet::from(["simple-device-n-0"]));
        assert!(!offer.has_changed().unwrap());
        cell.set_health("simple-device-n-1", Health::Unhealthy)
            .unwrap();
        assert!(offer.has_changed().unwrap());
        offer.mark_unchanged();
        cell.set_health("1", Health::Unhealthy).unwrap();
        assert!(!offer.has_changed().unwrap());
        let devices = Arc::clone(offer.borrow().devices());
        assert_eq!(
            devices.get("simple-device-n-1").unwrap().health,
            Health::Unhealthy
        );
    }
}

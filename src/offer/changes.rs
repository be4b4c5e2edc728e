//! The changes of an offer at run time. Every open ListAndWatch stream sends each changed list.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::device::{Device, Health};
use crate::model::selection::{SelectionError, select};
use crate::offer::Offer;
use crate::offer::resource::Resource;
use crate::util::watch_cell::WatchCell;

impl WatchCell<Arc<Offer>> {
    /// Replaces the configuration of the resource, if it differs.
    pub fn reconfigure(&self, resource: &Resource) {
        self.change(|offer| {
            (**offer.resource() != *resource).then(|| offer.reconfigured(resource.clone()))
        });
    }

    /// Adds the devices that pods hold to the list. Those that are not configured are pending removal.
    pub fn add_held(&self, held: &[Device]) {
        let has_unknown = |offer: &Offer| {
            held.iter()
                .any(|device| offer.devices().get(&device.id).is_none())
        };
        self.change(|offer| has_unknown(offer).then(|| offer.with_held(held)));
    }

    /// Sends the same list again, which makes the kubelet write its checkpoint.
    pub fn repeat(&self) {
        self.change(|offer| Some(offer.repeated()));
    }

    /// Removes the devices with these IDs that are pending removal.
    pub(crate) fn remove_pending(&self, ids: &BTreeSet<&str>) {
        self.change(|offer| {
            offer
                .removing()
                .any(|device| ids.contains(&*device.id))
                .then(|| offer.without_removed(ids))
        });
    }

    /// Changes the overrides. If `set` returns the same overrides, no list is sent: every list makes the kubelet write its
    /// checkpoint.
    ///
    /// # Errors
    /// Returns the error of `set`. The offer is unchanged then.
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

    /// Overrides the health of the selected devices (see [`select`]), and returns their IDs.
    ///
    /// # Errors
    /// Returns an error if a part of the selection matches no device.
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

    /// Replaces the set of devices that a fault makes Unhealthy.
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
    fn an_unchanged_list_is_not_sent() {
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
        cell.remove_pending(&BTreeSet::from(["simple-device-n-0"]));
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

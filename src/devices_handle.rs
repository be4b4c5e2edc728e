//! A resource's devices while the program runs: change them here, and every open stream tells the kubelet.

use std::sync::Arc;

use tokio::sync::watch;

use crate::device::{Devices, Health, UnknownDevice};

/// The one place where a resource's devices change. A clone is another handle to the same devices.
#[derive(Clone, Debug)]
pub struct DevicesHandle(watch::Sender<Arc<Devices>>);

impl DevicesHandle {
    /// Starts with these devices.
    pub fn new(devices: Devices) -> Self {
        Self(watch::Sender::new(Arc::new(devices)))
    }

    /// Follows the devices.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Devices>> {
        self.0.subscribe()
    }

    /// Sets a device's health. Where that changes nothing, nothing is sent: every message makes the
    /// kubelet write its checkpoint.
    ///
    /// # Errors
    /// When no device has this ID.
    pub fn set_health(&self, id: &str, health: Health) -> Result<(), UnknownDevice> {
        let mut outcome = Ok(false);
        self.0.send_if_modified(|devices| {
            let known = devices
                .get(id)
                .is_some_and(|device| device.health == health);
            if !known {
                outcome = Arc::make_mut(devices).set_health(id, health);
            }
            outcome == Ok(true)
        });
        outcome.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numa::NumaNodes;

    #[test]
    fn only_a_change_is_sent() {
        let handle = DevicesHandle::new(Devices::counted("d", "n", 2, &NumaNodes::default()));
        let devices = handle.subscribe();
        handle.set_health("d-n-0", Health::Healthy).unwrap();
        assert_eq!(
            handle.set_health("d-n-7", Health::Unhealthy),
            Err(UnknownDevice)
        );
        assert!(!devices.has_changed().unwrap());
        handle.set_health("d-n-1", Health::Unhealthy).unwrap();
        assert!(devices.has_changed().unwrap());
        assert_eq!(
            devices.borrow().get("d-n-1").unwrap().health,
            Health::Unhealthy
        );
    }
}

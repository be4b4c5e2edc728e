//! Resolves the faults of a resource.

use super::Resolver;
use crate::config::error::{Reported, all};
use crate::config::settings::{At, ResourceSettings};
use crate::fault::{FAULTS_MAX, FLAPS_MAX, Fault, InjectionPoint};
use crate::model::device::Devices;
use crate::model::selection::SelectionError;

const KEY: &str = "faults";

impl Resolver<'_> {
    pub(super) fn faults(
        &mut self,
        settings: &ResourceSettings,
        devices: Option<&Devices>,
    ) -> Result<Vec<Fault>, Reported> {
        let faults = settings.faults.as_deref().unwrap_or_default();
        if let Some(beyond) = faults.get(FAULTS_MAX) {
            let expected = format!("at most {FAULTS_MAX} faults");
            return Err(self.errors.add_at(&beyond.origin, KEY, None, expected));
        }
        let flaps = |at: &&At<Fault>| at.value.point() == InjectionPoint::Health;
        if let Some(beyond) = faults.iter().filter(flaps).nth(FLAPS_MAX) {
            let expected = format!("at most {FLAPS_MAX} faults with on: health");
            return Err(self.errors.add_at(&beyond.origin, KEY, None, expected));
        }
        all(faults.iter().map(|at| self.fault(at, devices)))
    }

    /// Checks the devices that the fault names, unless the resource's devices are invalid.
    fn fault(&mut self, at: &At<Fault>, devices: Option<&Devices>) -> Result<Fault, Reported> {
        let fault = &at.value;
        match devices.map_or(Ok(()), |devices| fault.check_devices(devices)) {
            // The fault may be meant for nodes with more devices. It applies to the existing ones.
            Ok(()) | Err(SelectionError::NoIndex { .. }) => Ok(fault.clone()),
            Err(error) => {
                let expected = match error {
                    SelectionError::Unknown(element) => format!(
                        "a comma-separated list of device IDs, indexes (0) or ranges (0-3), or all; there is no device {element:?}"
                    ),
                    other => format!("a valid selection of devices: {other}"),
                };
                let words = fault.to_string();
                Err(self.errors.add_at(&at.origin, KEY, Some(&words), expected))
            }
        }
    }
}

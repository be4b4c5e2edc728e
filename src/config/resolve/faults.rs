//! The faults of a resource.

use super::Resolver;
use crate::config::error::{Reported, all};
use crate::config::settings::{At, ResourceSettings};
use crate::fault::{FAULTS_MAX, FLAPS_MAX, Fault, FaultSpec, SpecError, Target};
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
        let flaps = |at: &&At<FaultSpec>| at.value.rpc == Target::Health;
        if let Some(beyond) = faults.iter().filter(flaps).nth(FLAPS_MAX) {
            let expected = format!("at most {FLAPS_MAX} faults of health");
            return Err(self.errors.add_at(&beyond.origin, KEY, None, expected));
        }
        all(faults.iter().map(|at| self.fault(at, devices)))
    }

    /// Its devices are evaluated where those of the resource are known.
    fn fault(&mut self, at: &At<FaultSpec>, devices: Option<&Devices>) -> Result<Fault, Reported> {
        let words = at.value.to_string();
        let fault = match at.value.clone().fault(devices) {
            // Another node may have more of them: those that are there flap.
            Err(SpecError::Devices(SelectionError::NoIndex { .. })) => at.value.clone().fault(None),
            evaluated => evaluated,
        };
        fault.map_err(|error| self.errors.add_at(&at.origin, KEY, Some(&words), error))
    }
}

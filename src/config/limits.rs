//! Limits of a configuration, whether it comes from variables or a file. They bound memory and time: what is beyond them is
//! refused, not slow.

/// Each resource is a plugin with a socket, a stream and a task of its own.
pub(super) const RESOURCES_MAX: usize = 1000;

/// The devices of all resources together. A list of one resource has another limit, the kubelet's: see
/// [`LIST_SIZE_MAX`](crate::model::device::LIST_SIZE_MAX).
const DEVICES_MAX: usize = 300_000;

/// In bytes, for an ID, a path, a prefix or an attribute: as long as a path can be on Linux (`PATH_MAX`).
const TEXT_MAX: usize = 4096;

/// Devices times outputs, for one resource: each is made once to be checked.
pub(super) const OUTPUTS_MAX: usize = 2_000_000;

/// Env, annotations, device files, mounts and CDI devices of all resources together, each as it is written: each is some
/// hundred bytes of memory, also where an alias repeats it.
pub(super) const RULES_MAX: usize = 50_000;

/// What is expected where there are more than [`DEVICES_MAX`] devices.
pub(super) fn devices_expected() -> String {
    format!("at most {DEVICES_MAX} devices, of all resources together")
}

/// # Errors
/// What was expected, where the text is longer than [`TEXT_MAX`].
pub(super) fn check_text(text: &str) -> Result<(), String> {
    if text.len() <= TEXT_MAX {
        return Ok(());
    }
    Err(format!("at most {TEXT_MAX} bytes"))
}

/// The devices of the resources that were read so far.
#[derive(Default)]
pub(super) struct DeviceCount(usize);

impl DeviceCount {
    /// Adds the devices of one resource.
    ///
    /// # Errors
    /// What was expected, where there are more than [`DEVICES_MAX`] now.
    pub(super) fn add(&mut self, count: usize) -> Result<(), String> {
        self.0 = self.0.saturating_add(count);
        if self.0 <= DEVICES_MAX {
            return Ok(());
        }
        Err(devices_expected())
    }
}

//! Limits of a configuration, the same for variables and config files. They bound memory and time: a larger configuration
//! is refused.

/// Each resource has its own plugin, with a socket, a stream and a task.
pub(super) const RESOURCES_MAX: usize = 1000;

/// For the devices of all resources together. The kubelet limits the list of one resource, see
/// [`LIST_SIZE_MAX`](crate::model::device::LIST_SIZE_MAX).
const DEVICES_MAX: usize = 300_000;

/// In bytes, for an ID, path, prefix or attribute. This is the longest path on Linux (`PATH_MAX`).
const TEXT_MAX: usize = 4096;

/// For the product of devices and outputs of one resource. Each combination is generated once for validation.
pub(super) const OUTPUTS_MAX: usize = 2_000_000;

/// For the environment variables, annotations, device files, mounts and CDI devices of all resources together, before they
/// are multiplied by devices. Each takes some hundred bytes of memory, even if a YAML alias repeats it.
pub(super) const RULES_MAX: usize = 50_000;

/// Returns what was expected instead of more than [`DEVICES_MAX`] devices.
pub(super) fn devices_expected() -> String {
    format!("at most {DEVICES_MAX} devices for all resources together")
}

/// # Errors
/// Returns what was expected if the text is longer than [`TEXT_MAX`].
pub(super) fn check_text(text: &str) -> Result<(), String> {
    if text.len() <= TEXT_MAX {
        return Ok(());
    }
    Err(format!("at most {TEXT_MAX} bytes"))
}

/// The number of devices of the resources read so far.
#[derive(Default)]
pub(super) struct DeviceCount(usize);

impl DeviceCount {
    /// # Errors
    /// Returns what was expected if the sum exceeds [`DEVICES_MAX`].
    pub(super) fn add(&mut self, count: usize) -> Result<(), String> {
        self.0 = self.0.saturating_add(count);
        if self.0 <= DEVICES_MAX {
            return Ok(());
        }
        Err(devices_expected())
    }
}

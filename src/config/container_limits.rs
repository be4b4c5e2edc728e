//! Warns if one container cannot use all devices of a resource because of a size limit.

use std::cmp::Reverse;

use crate::model::allocation::{
    ENV_OVERHEAD, ENV_SIZE_MAX, ENVIRONMENT_SIZE_MAX, Outputs, most_within,
};
use crate::model::device::Device;
use crate::model::template::Template;
use crate::offer::resource::Resource;
use crate::util::sanitize::sanitize;

/// Returns a warning for each limit that a container with all devices would exceed. This takes bounded time, because
/// [`most_within`] generates no output far above a limit.
pub(crate) fn warnings(resource: &Resource) -> Vec<String> {
    let mut devices: Vec<&Device> = resource.devices.as_slice().iter().collect();
    if devices.is_empty() {
        return Vec::new();
    }
    // The devices with the longest IDs come first, so that the count fits for any choice of devices.
    devices.sort_by_key(|device| Reverse(device.id.len()));
    let outputs = &resource.outputs;
    let long = outputs.envs.iter();
    let long = long.filter_map(|(env, value)| long_variable(resource, &devices, env, value));
    let response = large_response(resource, &devices);
    response
        .into_iter()
        .chain(large_environment(resource, &devices))
        .chain(long)
        .collect()
}

fn large_response(resource: &Resource, devices: &[&Device]) -> Option<String> {
    let (name, count) = (&resource.name, devices.len());
    let fit = resource.outputs.max_devices_in_response(devices);
    (fit < count).then(|| {
        format!(
            "{name}: Allocate may refuse a container that requests more than {fit} of the {count} devices: \
             its response may exceed the 4 MiB that a kubelet can receive"
        )
    })
}

fn large_environment(resource: &Resource, devices: &[&Device]) -> Option<String> {
    let (name, count) = (&resource.name, devices.len());
    let envs = Outputs {
        envs: resource.outputs.envs.clone(),
        ..Outputs::default()
    };
    let size = |count: usize| {
        let given = envs.of(&devices[..count]).envs;
        let sizes = given
            .iter()
            .map(|(env, value)| env.len() + value.len() + ENV_OVERHEAD);
        sizes.sum()
    };
    let fit = most_within(ENVIRONMENT_SIZE_MAX, count, size);
    (fit < count).then(|| {
        format!(
            "{name}: a container with more than {fit} of the {count} devices may not start: its environment would \
             exceed 2 MiB (\"argument list too long\")"
        )
    })
}

/// Warns about an environment variable whose name or value lists all devices of the container.
fn long_variable(
    resource: &Resource,
    devices: &[&Device],
    env: &Template,
    value: &Template,
) -> Option<String> {
    if !value.uses_all_devices() && !env.uses_all_devices() {
        return None;
    }
    let size = |count: usize| {
        let devices = &devices[..count];
        "=\0".len() + env.of(devices, 0).len() + value.of(devices, 0).len()
    };
    let (name, count) = (&resource.name, devices.len());
    let fit = most_within(ENV_SIZE_MAX, count, size);
    (fit < count).then(|| {
        let env = sanitize(&env.of(devices, 0));
        format!(
            "{name}: a container with more than {fit} of the {count} devices may not start: the environment variable {env} \
             would exceed 128 KiB (\"argument list too long\")"
        )
    })
}

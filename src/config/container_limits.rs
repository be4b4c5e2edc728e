//! How many devices one container can get, where that is fewer than the resource has.

use std::cmp::Reverse;

use crate::allocation::{
    ANSWER_SIZE_MAX, Allocation, ENV_OVERHEAD, ENV_SIZE_MAX, ENVIRONMENT_SIZE_MAX, most_within,
};
use crate::device::Device;
use crate::foreign::foreign;
use crate::resource::Resource;
use crate::template::Template;

/// A warning for each limit that a container with all devices would pass.
pub fn warnings(resource: &Resource) -> Vec<String> {
    let devices: Vec<&Device> = resource.devices.as_slice().iter().collect();
    if devices.is_empty() {
        return Vec::new();
    }
    let (name, outputs) = (&resource.name, &resource.outputs);
    let alone = |device: &Device| outputs.of(&[device]);
    // What each device gives by itself is small, so that all of it together need not be made to see that it fits.
    let sum = |size: fn(&Allocation) -> usize| -> usize {
        devices.iter().map(|device| size(&alone(device))).sum()
    };
    let mut warnings = Vec::new();
    let count = devices.len();
    if outputs.is_quadratic() || sum(Allocation::size) > ANSWER_SIZE_MAX {
        let devices = largest_first(&devices, |device| alone(device).size());
        let fit = outputs.most_in_an_answer(&devices);
        warnings.extend((fit < count).then(|| {
            format!(
                "{name}: Allocate can refuse a container that asks for more than {fit} of its {count} devices: \
                 the answer can be larger than the 4 MiB that a kubelet can receive"
            )
        }));
    }
    if !outputs.is_quadratic() && sum(environment_size) > ENVIRONMENT_SIZE_MAX {
        let devices = largest_first(&devices, |device| environment_size(&alone(device)));
        let size = |count: usize| environment_size(&outputs.of(&devices[..count]));
        let fit = most_within(ENVIRONMENT_SIZE_MAX, count, size);
        warnings.extend((fit < count).then(|| {
            format!(
                "{name}: a container with more than {fit} of its {count} devices cannot start: its environment would \
                 be over 2 MiB (\"argument list too long\")"
            )
        }));
    }
    let of_all = outputs.envs.iter().filter(|(_, value)| value.is_of_all());
    warnings
        .extend(of_all.filter_map(|(env, value)| long_variable(resource, &devices, env, value)));
    warnings
}

/// A variable that says something of all devices of the container.
fn long_variable(
    resource: &Resource,
    devices: &[&Device],
    env: &Template,
    value: &Template,
) -> Option<String> {
    let devices = largest_first(devices, |device| value.of(&[device], 0).len());
    let size = |count: usize| {
        let devices = &devices[..count];
        "=\0".len() + env.of(devices, 0).len() + value.of(devices, 0).len()
    };
    let (name, count) = (&resource.name, devices.len());
    let fit = most_within(ENV_SIZE_MAX, count, size);
    (fit < count).then(|| {
        let env = foreign(&env.of(&devices, 0));
        format!(
            "{name}: a container with more than {fit} of its {count} devices cannot start: the env {env} would be over \
             128 KiB (\"argument list too long\")"
        )
    })
}

fn environment_size(given: &Allocation) -> usize {
    let sizes = given.envs.iter();
    let sizes = sizes.map(|(env, value)| env.len() + value.len() + ENV_OVERHEAD);
    sizes.sum()
}

/// So that of any devices as many fit as of these.
fn largest_first<'a>(devices: &[&'a Device], size: impl Fn(&Device) -> usize) -> Vec<&'a Device> {
    let mut devices = devices.to_vec();
    devices.sort_by_cached_key(|device| Reverse(size(device)));
    devices
}

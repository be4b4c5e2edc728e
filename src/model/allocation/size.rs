//! The encoded size of an Allocate response, and the limits of the kubelet and of Linux.

use super::{Allocation, DeviceFile, Mount, Outputs};
use crate::model::device::{Device, LIST_SIZE_MAX, delimited};

/// In bytes. The kubelet's gRPC client accepts no larger Allocate response.
pub(crate) const RESPONSE_SIZE_MAX: usize = LIST_SIZE_MAX;

/// In bytes. The maximum size of one environment variable of a new process on Linux, as `NAME=value` with the
/// terminating NUL (`MAX_ARG_STRLEN` in `binfmts.h`, with pages of 4 KiB).
pub(crate) const ENV_SIZE_MAX: usize = 128 * 1024;

/// In bytes. The maximum size of all arguments and environment variables of a new process on Linux: a quarter of the
/// stack limit of 8 MiB (`fs/exec.c`).
pub(crate) const ENVIRONMENT_SIZE_MAX: usize = 2 * 1024 * 1024;

/// In bytes. What each variable counts towards [`ENVIRONMENT_SIZE_MAX`] besides its name and value: `=`, the terminating
/// NUL and a pointer.
pub(crate) const ENV_OVERHEAD: usize = 2 + size_of::<*const u8>();

/// Returns `count` if its size is within the limit. Otherwise returns a smaller count that fits, close to the largest
/// one. `size` must not decrease as the count grows.
pub(crate) fn most_within(limit: usize, count: usize, size: impl Fn(usize) -> usize) -> usize {
    let (mut fits, mut fits_size) = (0, 0);
    // Doubling avoids sizes far above the limit, because computing a size can build the whole response.
    let mut tried = 1.min(count);
    let (mut over, mut over_size) = loop {
        let tried_size = size(tried);
        if tried_size > limit {
            break (tried, tried_size);
        }
        if tried == count {
            return count;
        }
        (fits, fits_size) = (tried, tried_size);
        tried = count.min(tried * 2);
    };
    // Interpolate, because sizes grow almost linearly.
    for _ in 0..8 {
        let between = (limit - fits_size) * (over - fits) / (over_size - fits_size);
        if between == 0 || fits + between == over {
            break;
        }
        let tried = fits + between;
        let tried_size = size(tried);
        if tried_size > limit {
            (over, over_size) = (tried, tried_size);
        } else {
            (fits, fits_size) = (tried, tried_size);
        }
    }
    fits
}

impl Outputs {
    /// Returns how many of these devices, counted from the first, fit in one Allocate response.
    pub(crate) fn max_devices_in_response(&self, devices: &[&Device]) -> usize {
        let size = |count| self.of(&devices[..count]).size();
        most_within(RESPONSE_SIZE_MAX, devices.len(), size)
    }
}

impl Allocation {
    /// Returns the encoded size, in bytes, of an Allocate response that has only this container.
    pub fn size(&self) -> usize {
        let text = |text: &str| match text.len() {
            0 => 0,
            len => delimited(len),
        };
        let pair = |(name, value): &(String, String)| delimited(text(name) + text(value));
        let file = |file: &DeviceFile| {
            let paths = text(&file.container_path) + text(&file.host_path);
            delimited(paths + text(&file.permissions))
        };
        let mount = |mount: &Mount| {
            let paths = text(&mount.container_path) + text(&mount.host_path);
            delimited(paths + if mount.read_only { 2 } else { 0 })
        };
        let pairs = self.envs.iter().chain(&self.annotations).map(pair);
        let files = self.device_files.iter().map(file);
        let mounts = self.mounts.iter().map(mount);
        let cdi_devices = self.cdi_devices.iter().map(|name| delimited(text(name)));
        delimited(pairs.chain(files).chain(mounts).chain(cdi_devices).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_within_is_close_to_the_largest_count_that_fits() {
        for (limit, count, expected) in [
            (100, 10, 10),
            (100, 11, 10),
            (99, 11, 9),
            (9, 5, 0),
            (0, 0, 0),
        ] {
            assert_eq!(
                most_within(limit, count, |n| n * 10),
                expected,
                "{limit} {count}"
            );
        }
        let squares = most_within(1_000_000, 5000, |n| n * n);
        assert!((990..=1000).contains(&squares), "{squares}");
    }
}

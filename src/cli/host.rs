//! The facts about this machine that the configuration depends on.

use std::path::{Path, PathBuf};

use crate::config::Host;
use crate::model::numa;

const ONLINE_NUMA_NODES: &str = "/sys/devices/system/node/online";

/// Reads this machine's hostname and NUMA nodes. A value that cannot be read is `None`.
pub(crate) fn this_machine() -> Host {
    let hostname = hostname::get().ok();
    let online = std::fs::read_to_string(ONLINE_NUMA_NODES).ok();
    Host {
        hostname: hostname.and_then(|name| name.into_string().ok()),
        numa: online.and_then(|list| numa::parse_kernel_list(&list)),
        resolve: Some(without_symlinks),
    }
}

/// Resolves the symlinks in the part of the path that exists. Returns `None` for a dangling symlink: in a container its
/// target may exist on the host only.
fn without_symlinks(path: &Path) -> Option<PathBuf> {
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return Some(real.join(path.strip_prefix(ancestor).ok()?));
        }
        if ancestor.is_symlink() {
            return None;
        }
    }
    Some(path.to_owned())
}

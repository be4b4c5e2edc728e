//! What the configuration needs to know of this machine.

use std::path::{Path, PathBuf};

use crate::config::Host;
use crate::model::numa;

const ONLINE_NUMA_NODES: &str = "/sys/devices/system/node/online";

/// Reads this machine's name and NUMA nodes; what cannot be read is not known.
pub(crate) fn this_machine() -> Host {
    let hostname = hostname::get().ok();
    let online = std::fs::read_to_string(ONLINE_NUMA_NODES).ok();
    Host {
        hostname: hostname.and_then(|name| name.into_string().ok()),
        numa: online.and_then(|list| numa::parse_kernel_list(&list)),
        resolve: Some(without_symlinks),
    }
}

/// Resolves as much of the path as there is; in a container the host's symlinks cannot be seen.
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

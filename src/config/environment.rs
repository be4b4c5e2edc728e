//! What the configuration is read from: the variables as a process gets them, and the machine.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::ConfigErrors;
use crate::config::host_paths::Resolve;
use crate::model::numa::NumaNodes;

/// Variables by name. The values may be anything.
pub type Environment = BTreeMap<String, OsString>;

/// What the configuration needs to know of the machine.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Names the node where `NODE_NAME` does not.
    pub hostname: Option<String>,
    /// The NUMA nodes that are online; `None` where that is not known.
    pub numa: Option<NumaNodes>,
    /// Resolves symlinks; `None`: there are none.
    pub resolve: Option<Resolve>,
}

/// The value as text; what is not UTF-8 is an error and shown as well as it can be.
pub fn utf8(name: &str, value: &OsString, errors: &mut ConfigErrors) -> String {
    let text = value.to_string_lossy();
    if value.to_str().is_none() {
        errors.add(name, &text, "text in UTF-8");
    }
    text.into_owned()
}

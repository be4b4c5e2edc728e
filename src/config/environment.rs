//! The inputs of the configuration: environment variables, and facts about the host.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::error::ConfigErrors;
use crate::config::host_paths::Resolve;
use crate::model::numa::NumaNodes;

/// Variables by name. A value may be invalid UTF-8.
pub type Environment = BTreeMap<String, OsString>;

/// Facts about the host that the configuration depends on.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The node's name if `NODE_NAME` is not set, except in a pod.
    pub hostname: Option<String>,
    /// The online NUMA nodes, or `None` if unknown.
    pub numa: Option<NumaNodes>,
    /// Resolves symlinks. With `None`, paths are compared as written.
    pub resolve: Option<Resolve>,
}

/// Returns the value as text. Invalid UTF-8 is reported, and replaced by U+FFFD in the result.
pub fn utf8(name: &str, value: &OsString, errors: &mut ConfigErrors) -> String {
    let text = value.to_string_lossy();
    if value.to_str().is_none() {
        errors.add_not_utf8(name, &text);
    }
    text.into_owned()
}

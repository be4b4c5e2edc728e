//! Reads the config file, which is YAML, into the settings of one node.

#[cfg(test)]
mod tests;
mod tree;
mod typed;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigErrors;
use super::settings::{At, Origin, ResourceSettings, Settings};
use crate::offer::resource::REMOVAL_GRACE_DEFAULT;
use crate::util::sanitize::sanitize;

/// The lower limit leaves the kubelet time to record a device that it has just allocated. The upper limit only catches typos.
const REMOVAL_GRACE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// The config file of simple-device-plugin.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a mapping with the key resources, and optionally nodes and removalGrace"
)]
pub struct File {
    /// The minimum time that a device is advertised as Unhealthy before it is removed. Default: 30s.
    pub removal_grace: Option<At<String>>,
    /// The extended resources on every node.
    pub resources: Vec<ResourceSettings>,
    /// Differences on some nodes. Only the first entry that matches a node applies.
    #[serde(default)]
    pub nodes: Vec<NodeSettings>,
}

/// Differences on the nodes that match.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a mapping with the keys match and resources"
)]
pub(crate) struct NodeSettings {
    /// Name of a node, or a glob such as gpu-* or worker[0-4].
    #[serde(rename = "match")]
    pub matches: At<String>,
    /// Keys that replace those of the resource with the same name. A new name adds a resource.
    pub resources: Vec<ResourceSettings>,
}

/// A config file as read from disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileText {
    /// The path as given in `CONFIG_FILE`.
    pub name: String,
    /// The bytes of the file, or the reason why it cannot be read.
    pub content: Result<Vec<u8>, String>,
}

impl FileText {
    /// In bytes. A ConfigMap cannot be larger.
    pub const SIZE_MAX: usize = 1 << 20;
}

/// Reads the settings for this node, or returns `None` if the errors leave no settings to resolve.
pub fn read(file: &FileText, node: &str, errors: &mut ConfigErrors) -> Option<Settings> {
    errors.set_file(&file.name);
    let tree = tree::parse(text(file, errors)?, errors)?;
    let path = &file.name;
    let file: File = typed::read(tree, errors)?;
    Some(Settings {
        removal_grace: removal_grace(file.removal_grace.as_ref(), errors),
        warnings: repeated_matches(path, &file.nodes),
        resources: of_node(file, node, errors),
    })
}

fn text<'a>(file: &'a FileText, errors: &mut ConfigErrors) -> Option<&'a str> {
    let expected = match &file.content {
        Err(error) => format!("a readable file: {error}"),
        Ok(content) if content.len() > FileText::SIZE_MAX => {
            format!("a file of at most {} bytes", FileText::SIZE_MAX)
        }
        Ok(content) => match std::str::from_utf8(content) {
            Ok(text) => return Some(text),
            Err(error) => format!("valid UTF-8; it is invalid at byte {}", error.valid_up_to()),
        },
    };
    errors.add("CONFIG_FILE", &file.name, expected);
    None
}

fn removal_grace(given: Option<&At<String>>, errors: &mut ConfigErrors) -> Duration {
    let Some(given) = given else {
        return REMOVAL_GRACE_DEFAULT;
    };
    let parsed = humantime::parse_duration(&given.value).ok();
    let grace = parsed.filter(|grace| REMOVAL_GRACE.contains(grace));
    if grace.is_none() {
        let expected = "a duration from 1s to 24h, as in 30s or 5m";
        errors.add_text("removalGrace", given, expected);
    }
    grace.unwrap_or_default()
}

/// Returns a warning for each entry of `nodes` that has the same `match` as an earlier entry.
fn repeated_matches(path: &str, nodes: &[NodeSettings]) -> Vec<String> {
    let mut first: BTreeMap<&str, &Origin> = BTreeMap::new();
    let mut warnings = Vec::new();
    for NodeSettings { matches, .. } in nodes {
        let (origin, value) = (&matches.origin, &*matches.value);
        let Some(earlier) = first.get(value) else {
            first.insert(value, origin);
            continue;
        };
        let (path, value) = (sanitize(path), sanitize(value));
        warnings.push(format!(
            "{path}: the entry of nodes in {origin} has no effect: {earlier} has the same match, {value}"
        ));
    }
    warnings
}

/// Returns the file's resources, with the keys of the first entry of `nodes` that matches this node.
fn of_node(file: File, node: &str, errors: &mut ConfigErrors) -> Vec<ResourceSettings> {
    for entry in &file.nodes {
        if let Some(expected) = invalid_glob(&entry.matches.value) {
            errors.add_text("match", &entry.matches, expected);
        }
    }
    let mut resources = file.resources;
    let matching = file
        .nodes
        .into_iter()
        .find(|entry| fast_glob::glob_match(&entry.matches.value, node));
    let overrides = matching.map(|entry| entry.resources).unwrap_or_default();
    let mut is_replaced = vec![false; resources.len()];
    for keys in overrides {
        let position = resources
            .iter()
            .position(|resource| resource.name.value == keys.name.value);
        match position {
            // A second entry for the same resource is kept as a resource, so that it is reported as a duplicate.
            Some(position) if is_replaced.get(position) == Some(&false) => {
                is_replaced[position] = true;
                resources[position] = keys.over(resources[position].clone());
            }
            _ => resources.push(keys),
        }
    }
    resources
}

/// Returns what was expected if the glob is empty, negated or malformed.
fn invalid_glob(glob: &str) -> Option<String> {
    if glob.is_empty() {
        return Some("the name of a node or a glob, as in gpu-*".to_owned());
    }
    if glob.starts_with('!') {
        return Some("a name or a glob that does not start with '!'".to_owned());
    }
    let error = fast_glob::validate(glob).err()?;
    Some(format!("a valid glob: {error}"))
}

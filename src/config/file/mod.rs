//! The config file: YAML to the settings of one node.

#[cfg(test)]
mod tests;
mod tree;
mod typed;

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigErrors;
use super::settings::{At, ResourceSettings, Settings};
use crate::offer::resource::REMOVAL_GRACE_DEFAULT;

/// Shorter, and the kubelet may still be booking what it picked; longer, and nobody waits for it.
const REMOVAL_GRACE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);

/// The config file of simple-device-plugin.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "the keys resources, nodes and removalGrace"
)]
pub struct File {
    /// How long a device pending removal stays Unhealthy at least before it is dropped, as in 30s, the default.
    pub removal_grace: Option<At<String>>,
    /// The extended resources of every node.
    pub resources: Vec<ResourceSettings>,
    /// What is different on some nodes; the first entry that matches a node counts.
    #[serde(default)]
    pub nodes: Vec<NodeSettings>,
}

/// What is different on the nodes that match.
#[derive(Clone, Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "an entry with the keys match and resources"
)]
pub(crate) struct NodeSettings {
    /// A node's name, or a glob: `gpu-*`, `worker[0-4]`.
    #[serde(rename = "match")]
    pub matches: At<String>,
    /// The keys that each names replace those of the resource with its name; a new name adds a resource.
    pub resources: Vec<ResourceSettings>,
}

/// A config file as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileText {
    /// As `CONFIG_FILE` names it.
    pub name: String,
    /// What is in it, or why it cannot be read.
    pub content: Result<Vec<u8>, String>,
}

impl FileText {
    /// In bytes; no ConfigMap is larger.
    pub const SIZE_MAX: usize = 1 << 20;
}

/// What the file says for this node; `None` where nothing is left of it.
pub fn read(file: &FileText, node: &str, errors: &mut ConfigErrors) -> Option<Settings> {
    errors.in_file(&file.name);
    let tree = tree::parse(text(file, errors)?, errors)?;
    let file: File = typed::read(tree, errors)?;
    Some(Settings {
        removal_grace: removal_grace(file.removal_grace.as_ref(), errors),
        resources: of_node(file, node, errors),
    })
}

fn text<'a>(file: &'a FileText, errors: &mut ConfigErrors) -> Option<&'a str> {
    let expected = match &file.content {
        Err(error) => format!("a file that can be read: {error}"),
        Ok(content) if content.len() > FileText::SIZE_MAX => {
            format!("a file of at most {} bytes", FileText::SIZE_MAX)
        }
        Ok(content) => match std::str::from_utf8(content) {
            Ok(text) => return Some(text),
            Err(error) => format!("text in UTF-8; byte {} is none", error.valid_up_to()),
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
        let expected = "a time from 1s to 24h, as in 30s or 5m";
        errors.add_text("removalGrace", given, expected);
    }
    grace.unwrap_or_default()
}

/// The file's resources with what its first matching entry of `nodes` puts over them.
fn of_node(file: File, node: &str, errors: &mut ConfigErrors) -> Vec<ResourceSettings> {
    for entry in &file.nodes {
        if let Some(expected) = wrong_glob(&entry.matches.value) {
            errors.add_text("match", &entry.matches, expected);
        }
    }
    let mut resources = file.resources;
    let matching = file
        .nodes
        .into_iter()
        .find(|entry| fast_glob::glob_match(&entry.matches.value, node));
    let overrides = matching.map(|entry| entry.resources).unwrap_or_default();
    let mut replaced = vec![false; resources.len()];
    for keys in overrides {
        let place = resources
            .iter()
            .position(|resource| resource.name.value == keys.name.value);
        match place {
            // Each once: a second override of one is a second resource of that name, and reported as such.
            Some(place) if replaced.get(place) == Some(&false) => {
                replaced[place] = true;
                resources[place] = keys.over(resources[place].clone());
            }
            _ => resources.push(keys),
        }
    }
    resources
}

/// What is expected instead of a glob that can match nothing, or more than it seems to.
fn wrong_glob(glob: &str) -> Option<String> {
    if glob.is_empty() {
        return Some("a node's name or a glob, as in gpu-*".to_owned());
    }
    if glob.starts_with('!') {
        return Some("a name or a glob that does not start with '!'".to_owned());
    }
    let error = fast_glob::validate(glob).err()?;
    Some(format!("a valid glob: {error}"))
}

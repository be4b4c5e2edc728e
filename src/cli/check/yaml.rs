//! Prints a config file that is equivalent to the variables, for `check --yaml`.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::iter;

use crate::config::{At, ByNode, DevicesSetting, ResourceSettings};

/// Words that a parser of YAML 1.1 or 1.2 does not read as a string.
const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];

/// Above this, the host paths are not listed. A common directory would be shorter, but may contain files that must not be
/// allowed.
const HOST_PATHS_MAX: usize = 1000;

/// Prints the resources of all nodes, then the differences of each node that variables name. `nodes` in a file cannot remove
/// a resource. So if the nodes differ in the names of their resources, each node gets a complete entry.
pub fn print(nodes: &ByNode, out: &mut impl Write) -> io::Result<()> {
    for warning in &nodes.warnings {
        writeln!(out, "# warning: {warning}")?;
    }
    print_host_paths(&nodes.host_paths, out)?;
    let others = &*nodes.others;
    let mut named = nodes.named.values();
    let have_same_names = named.all(|resources| names(resources).eq(names(others)));
    let base = if have_same_names { others } else { &[] };
    print_resources(base, &[], "", out)?;

    let named = nodes.named.iter();
    let named = named.map(|(node, resources)| (glob_of(node), &**resources));
    let other_nodes = (!have_same_names).then(|| ("*".to_owned(), others));
    let mut entries: Vec<_> = named.chain(other_nodes).collect();
    entries.retain(|(_, resources)| !differences(resources, base).is_empty());
    if !entries.is_empty() {
        writeln!(out, "nodes:")?;
    }
    for (glob, resources) in entries {
        writeln!(out, "  - match: {}", scalar(&glob))?;
        print_resources(resources, base, "    ", out)?;
    }
    Ok(())
}

fn names(resources: &[ResourceSettings]) -> impl Iterator<Item = &str> {
    resources.iter().map(|resource| &*resource.name.value)
}

fn print_host_paths(paths: &BTreeSet<String>, out: &mut impl Write) -> io::Result<()> {
    let count = paths.len();
    if count > HOST_PATHS_MAX {
        writeln!(
            out,
            "# This file uses {count} host paths, which must be allowed. Set"
        )?;
        return writeln!(
            out,
            "# ALLOWED_HOST_PATHS to a directory that contains only these."
        );
    }
    if count == 0 {
        return Ok(());
    }
    let list = paths
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(",");
    let are_plain = paths.iter().all(|path| is_plain(path));
    let list = if are_plain { list } else { quoted(&list) };
    writeln!(out, "# This file uses host paths that must be allowed. Set")?;
    writeln!(out, "# ALLOWED_HOST_PATHS={list}")
}

fn print_resources(
    resources: &[ResourceSettings],
    base: &[ResourceSettings],
    indent: &str,
    out: &mut impl Write,
) -> io::Result<()> {
    if resources.is_empty() {
        return writeln!(out, "{indent}resources: []");
    }
    writeln!(out, "{indent}resources:")?;
    for (name, keys) in differences(resources, base) {
        writeln!(out, "{indent}  - name: {name}")?;
        for (key, value) in keys {
            writeln!(out, "{indent}    {key}: {value}")?;
        }
    }
    Ok(())
}

type Keys = Vec<(&'static str, String)>;

/// Returns the name of each resource that differs from the one at its index in `base`, with the keys that differ. A resource
/// without a counterpart has all its keys.
fn differences(resources: &[ResourceSettings], base: &[ResourceSettings]) -> Vec<(String, Keys)> {
    let base = base.iter().map(Some).chain(iter::repeat(None));
    let named = iter::zip(resources, base).map(|(resource, base)| {
        let name = scalar(&resource.name.value);
        (name, different_keys(resource, base))
    });
    named.filter(|(_, keys)| !keys.is_empty()).collect()
}

fn different_keys(resource: &ResourceSettings, base: Option<&ResourceSettings>) -> Keys {
    let base = base.map(keys);
    let different = |(index, (key, value, none)): (usize, Key)| match &base {
        None => Some((key, value?)),
        Some(base) if base[index].1 == value => None,
        Some(_) => Some((key, value.unwrap_or(none.to_owned()))),
    };
    let keys = keys(resource).into_iter().enumerate();
    keys.filter_map(different).collect()
}

/// A key, its value if it is set, and the value that means unset.
type Key = (&'static str, Option<String>, &'static str);

/// Returns every key that variables can set, except the name.
fn keys(resource: &ResourceSettings) -> [Key; 9] {
    const EMPTY: &str = "\"\"";
    let text = |at: &Option<At<String>>| at.as_ref().map(|at| scalar(&at.value));
    let count = match resource.devices.as_ref().map(|at| &at.value) {
        Some(DevicesSetting::Count(count)) => Some(count.to_string()),
        _ => None,
    };
    let numa = resource.numa_nodes.as_ref();
    let numa = numa.map(|nodes| format!("{:?}", nodes.as_slice()));
    let policy = resource.preferred_allocation;
    let policy = policy.map(|policy| policy.as_str().to_owned());
    [
        ("devices", count, EMPTY),
        ("deviceIdPrefix", text(&resource.device_id_prefix), EMPTY),
        ("pluginName", text(&resource.plugin_name), EMPTY),
        ("numaNodes", numa, "[]"),
        ("preferredAllocation", policy, "none"),
        ("envPrefix", text(&resource.env_prefix), EMPTY),
        ("annotationPrefix", text(&resource.annotation_prefix), EMPTY),
        (
            "deviceFilePrefix",
            text(&resource.device_file_prefix),
            EMPTY,
        ),
        (
            "deviceFileHostPath",
            text(&resource.device_file_host_path),
            EMPTY,
        ),
    ]
}

/// Escapes the name so that the glob matches only this node.
fn glob_of(node: &str) -> String {
    let mut glob = String::new();
    for c in node.chars() {
        glob.extend(r"\?*[{!".contains(c).then_some('\\'));
        glob.push(c);
    }
    glob
}

/// Quotes the text, unless every YAML parser reads it as a string without quotes.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

fn is_plain(text: &str) -> bool {
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || "/_".contains(c));
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "/_.-".contains(c);
    let is_word = WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    starts && text.chars().all(is_safe) && !is_word
}

/// Puts the text in double quotes, with the escapes of JSON.
fn quoted(text: &str) -> String {
    let json = serde_json::to_string(text).expect("a string can be serialized");
    let escaped = |c: char| match c {
        // Characters that YAML does not allow in a string, or reads as the end of a line.
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => true,
        c => c.is_control(),
    };
    let quoted = json.chars().map(|c| {
        if escaped(c) {
            format!("\\u{:04x}", u32::from(c))
        } else {
            c.to_string()
        }
    });
    quoted.collect()
}

#[cfg(test)]
mod tests;

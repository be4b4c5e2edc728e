//! `check --yaml`: the config file that equals the variables.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::iter;

use crate::config::{At, ByNode, DevicesSetting, ResourceSettings};

/// What some reader of YAML 1.1 or 1.2 takes for something else than a text.
const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];

/// More host paths are not listed: a directory is shorter, but only who knows what else is in it can allow that.
const HOST_PATHS_MAX: usize = 1000;

/// Prints what all nodes have, then for each node that variables name what is different. The file cannot take a resource
/// from a node: where nodes differ in their resources, all is said for each of them.
pub fn print(nodes: &ByNode, out: &mut impl Write) -> io::Result<()> {
    print_host_paths(&nodes.host_paths, out)?;
    let others = &*nodes.others;
    let mut named = nodes.named.values();
    let have_same_names = named.all(|resources| names(resources).eq(names(others)));
    let base = if have_same_names { others } else { &[] };
    print_resources(base, &[], "", out)?;

    let named = nodes.named.iter();
    let named = named.map(|(node, resources)| (glob_of(node), &**resources));
    let rest = (!have_same_names).then(|| ("*".to_owned(), others));
    let mut entries: Vec<_> = named.chain(rest).collect();
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
            "# {count} files of the host must be allowed: set ALLOWED_HOST_PATHS to a"
        )?;
        return writeln!(out, "# directory that has them and nothing else");
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
    writeln!(out, "# The host's files below must be allowed: set")?;
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

/// The name of each resource that differs from the one in its place in `base`, with the keys that do. Where there is none in
/// its place, all keys do.
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
    let different = |(place, (key, value, none)): (usize, Key)| match &base {
        None => Some((key, value?)),
        Some(base) if base[place].1 == value => None,
        Some(_) => Some((key, value.unwrap_or(none.to_owned()))),
    };
    let keys = keys(resource).into_iter().enumerate();
    keys.filter_map(different).collect()
}

/// A key, its value if there is one, and the value that says that there is none.
type Key = (&'static str, Option<String>, &'static str);

/// All that variables can say of a resource beside its name.
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

/// The name as a glob that matches nothing else.
fn glob_of(node: &str) -> String {
    let mut glob = String::new();
    for c in node.chars() {
        glob.extend(r"\?*[{!".contains(c).then_some('\\'));
        glob.push(c);
    }
    glob
}

/// The text without quotes where every reader takes it for a text.
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

/// In double quotes, as in JSON.
fn quoted(text: &str) -> String {
    let json = serde_json::to_string(text).expect("a text is JSON");
    let escaped = |c: char| match c {
        // No part of a text to YAML, or the end of a line.
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

//! Warnings about unknown variables whose names resemble known ones. The program ignores them.

use strsim::osa_distance;

use super::environment::Environment;
use super::program::PROGRAM_VARIABLES;
use super::variables::names::{Form, RESOURCE_VARIABLES};
use crate::util::sanitize::sanitize;

/// How many variables are named. The others are only counted.
const NAMED_MAX: usize = 20;

/// Names shorter than this may differ by one edit, and others by two.
const LONG_NAME: usize = 12;

/// Names that other programs use for the same purpose, and the variables that were probably meant.
const ALIASES: [(&str, &str); 6] = [
    ("NUM_DEVICES", "NUMBER_DEVICES"),
    ("NUMBER_OF_DEVICES", "NUMBER_DEVICES"),
    ("DEVICE_COUNT", "NUMBER_DEVICES"),
    ("RESOURCE", "RESOURCE_NAME"),
    ("HTTP_ADDR", "HTTP_ADDRESS"),
    ("LOG_LEVEL", "RUST_LOG"),
];

/// Returns a warning for each misspelled variable, and one with the number of further ones.
pub(crate) fn warnings(environment: &Environment) -> Vec<String> {
    let names = environment.keys().map(String::as_str);
    let mut misspelled = names.filter_map(|name| Some((name, likely_name(name)?)));
    let named = misspelled.by_ref().take(NAMED_MAX);
    let mut warnings: Vec<String> = named
        .map(|(name, likely)| {
            let (name, likely) = (sanitize(name), sanitize(&likely));
            format!("{name}: unknown variable, ignored; did you mean {likely}?")
        })
        .collect();
    let more = misspelled.count();
    if more > 0 {
        warnings.push(format!(
            "{more} more unknown variables with names like those of known variables are ignored"
        ));
    }
    warnings
}

/// Returns the name that was probably meant, or `None` if the name is known or unlike every known name.
fn likely_name(name: &str) -> Option<String> {
    if Form::of(name).is_some() || PROGRAM_VARIABLES.contains(&name) || is_service_link(name) {
        return None;
    }
    let (stem, node) = split_node(name);
    let stem = stem.to_ascii_uppercase();
    let without_index = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let index = &stem[without_index.len()..];
    let base = without_index.trim_end_matches(['_', '-']);
    let alias = ALIASES.iter().find(|(alias, _)| *alias == base);
    let variable = alias
        .map(|(_, variable)| *variable)
        .or_else(|| nearest(base, &PROGRAM_VARIABLES))
        .or_else(|| nearest(base, &RESOURCE_VARIABLES))?;
    let mut likely = variable.to_owned();
    if PROGRAM_VARIABLES.contains(&variable) {
        return Some(likely);
    }
    if !index.is_empty() {
        let digits = index.trim_start_matches('0');
        likely.push('_');
        likely.push_str(if digits.is_empty() { "0" } else { digits });
    }
    if let Some(node) = node {
        likely.push('.');
        likely.push_str(node);
    }
    Some(likely)
}

/// Splits off the node, also if `_` separates it instead of `.`: `NUMBER_DEVICES_worker2`. The names of variables are upper
/// case, and those of nodes are lower case.
fn split_node(name: &str) -> (&str, Option<&str>) {
    let is_upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let continued = name.trim_start_matches(is_upper);
    let start = &name[..name.len() - continued.len()];
    match start.strip_suffix('_') {
        Some(stem)
            if continued.starts_with(|c: char| c.is_ascii_lowercase()) && !stem.is_empty() =>
        {
            (stem, Some(continued))
        }
        _ => name
            .split_once('.')
            .map_or((name, None), |(stem, node)| (stem, Some(node))),
    }
}

/// Returns the known name that is nearest to this name, if it is near enough. The first letters must be equal, because
/// other programs have variables such as `POD_NAME`, which is near `NODE_NAME`.
pub(super) fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let distance = |known: &'static str| {
        let most = if known.len() < LONG_NAME { 1 } else { 2 };
        // Skips the costly comparison of a long name: the distance is at least the difference of the lengths.
        let is_comparable =
            name.len().abs_diff(known.len()) <= most && name.chars().next() == known.chars().next();
        let distance = is_comparable.then(|| osa_distance(name, known))?;
        (distance <= most).then_some((distance, known))
    };
    let nearest = known.iter().copied().filter_map(distance).min();
    nearest.map(|(_, known)| known)
}

/// Returns whether the kubelet may have set the variable for a Service: `<NAME>_SERVICE_HOST`, `<NAME>_SERVICE_PORT`,
/// `<NAME>_SERVICE_PORT_<PORT>`, `<NAME>_PORT` or `<NAME>_PORT_<N>_<PROTOCOL>…`.
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST") || name.ends_with("_PORT") || name.contains("_PORT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Environment {
        let names = names.into_iter().map(Into::into);
        names.map(|name| (name, "x".into())).collect()
    }

    #[test]
    fn suggests_the_likely_name() {
        for (name, likely) in [
            ("NUMBER_DEVICE", "NUMBER_DEVICES"),
            ("NUBMER_DEVICES", "NUMBER_DEVICES"),
            ("NUMBER_DEVICE_3.worker2", "NUMBER_DEVICES_3.worker2"),
            ("NUMBER_DEVICE_worker2", "NUMBER_DEVICES.worker2"),
            ("NUMBER_DEVICES_worker2", "NUMBER_DEVICES.worker2"),
            (
                "NUMBER_DEVICES_worker-2.example.com",
                "NUMBER_DEVICES.worker-2.example.com",
            ),
            ("NUMBER_DEVICES_0_worker2", "NUMBER_DEVICES_0.worker2"),
            ("NUMBER_DEVICES_00", "NUMBER_DEVICES_0"),
            ("NUMBER_DEVICES_012.n", "NUMBER_DEVICES_12.n"),
            ("NUMBER_DEVICES0", "NUMBER_DEVICES_0"),
            ("NUMBER_DEVICES-1", "NUMBER_DEVICES_1"),
            ("NUMBER_DEVICES_", "NUMBER_DEVICES"),
            ("number_devices", "NUMBER_DEVICES"),
            ("number_devices_1.worker2", "NUMBER_DEVICES_1.worker2"),
            ("Number_Devices", "NUMBER_DEVICES"),
            ("RESOURCE_NAMES", "RESOURCE_NAME"),
            ("RESOURCES_NAMES", "RESOURCE_NAME"),
            ("ENVPREFIX", "ENV_PREFIX"),
            ("HTTP_ADRESS", "HTTP_ADDRESS"),
            ("HTTP_ADDRESS_0", "HTTP_ADDRESS"),
            ("HTTP_ADDRESS.worker2", "HTTP_ADDRESS"),
            ("LOG_FORMATS", "LOG_FORMAT"),
            ("NODE_NAMES", "NODE_NAME"),
            ("node_name", "NODE_NAME"),
            ("NUM_DEVICES_1.worker2", "NUMBER_DEVICES_1.worker2"),
            ("RESOURCE", "RESOURCE_NAME"),
            ("LOG_LEVEL", "RUST_LOG"),
        ] {
            assert_eq!(likely_name(name).as_deref(), Some(likely), "{name}");
        }
    }

    #[test]
    fn does_not_suggest_a_name_for_known_and_unrelated_variables() {
        let known = PROGRAM_VARIABLES.into_iter().chain(RESOURCE_VARIABLES);
        let others = [
            "NUMBER_DEVICES_0",
            "NUMBER_DEVICES.0",
            "NUMBER_DEVICES.00",
            "NUMBER_DEVICES_0.worker_2",
            "NUMBER_DEVICES_MAX",
            "DEVICES",
            "PREFIX",
            "RUST_LOG_STYLE",
            "RUST_LIB",
            "RUST_BACKTRACE",
            "POD_NAMESPACE",
            "POD_NAME",
            "POD_IP",
            "HOSTNAME",
            "HOST_NAME",
            "NODE_IP",
            "CONFIG_DIR",
            "PATH",
            "HOME",
            "http_proxy",
            "KUBERNETES_SERVICE_HOST",
            "KUBERNETES_PORT_443_TCP_ADDR",
            "_",
            "",
            "ü",
        ];
        for name in known.chain(others) {
            assert_eq!(likely_name(name), None, "{name}");
        }
    }

    #[test]
    fn does_not_warn_about_service_links() {
        for service in [
            "NUMBER_DEVICES",
            "NODE_NAME",
            "PLUGIN_NAME_0",
            "HTTP_ADRESS",
        ] {
            let suffixes = [
                "SERVICE_HOST",
                "SERVICE_PORT",
                "SERVICE_PORT_HTTP",
                "PORT",
                "PORT_80_TCP",
                "PORT_80_TCP_PROTO",
                "PORT_80_TCP_PORT",
                "PORT_80_TCP_ADDR",
            ];
            let names = suffixes.map(|suffix| format!("{service}_{suffix}"));
            assert_eq!(warnings(&environment(names)), [""; 0]);
        }
    }

    #[test]
    fn names_at_most_20_variables() {
        let names = (0..5000).map(|index| format!("NUMBER_DEVICE_{index}"));
        let warnings = warnings(&environment(names));
        assert_eq!(warnings.len(), 21);
        assert_eq!(
            warnings[0],
            "NUMBER_DEVICE_0: unknown variable, ignored; did you mean NUMBER_DEVICES_0?"
        );
        assert_eq!(
            warnings[20],
            "4980 more unknown variables with names like those of known variables are ignored"
        );
    }

    #[test]
    fn escapes_names() {
        let warnings = warnings(&environment(["NUMBER_DEVICE.a\nb"]));
        assert_eq!(
            warnings,
            [r"NUMBER_DEVICE.a\nb: unknown variable, ignored; did you mean NUMBER_DEVICES.a\nb?"]
        );
    }
}

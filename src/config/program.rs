//! The variables of the program itself, which do not depend on its resources.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;

use serde::Deserialize;
use tracing_subscriber::filter::Targets;

use super::environment::{Environment, Host, utf8};
use super::error::ConfigErrors;
use super::values::{self, HttpAddress, LogFormat};
use crate::config::host_paths::AllowedHostPaths;

#[derive(Clone, Debug)]
pub struct Logs {
    /// `None` if `RUST_LOG` is not set.
    pub(crate) levels: Option<Targets>,
    pub format: LogFormat,
}

impl Logs {
    /// Reads only the variables that configure the log.
    ///
    /// # Errors
    /// Returns the errors in these variables, and in any program variable that is not UTF-8.
    pub fn from_variables(environment: &Environment) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let set = ProgramVariables::read(environment, &mut errors);
        let logs = logs(&set, &mut errors);
        errors.into_result(Some(logs))
    }
}

/// A variable that is unset, empty, or has a value.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(transparent)]
struct OptionalText(Option<String>);

impl OptionalText {
    /// An empty value turns some features off.
    fn is_set_but_empty(&self) -> bool {
        self.0.as_deref() == Some("")
    }

    fn text(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.is_empty())
    }

    fn parsed<T, E: Display>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
        errors: &mut ConfigErrors,
    ) -> Option<T> {
        let text = self.text()?;
        parse(text)
            .map_err(|expected| errors.add(name, text, expected))
            .ok()
    }
}

/// The trimmed values. envy reads each variable into the field with its name in lower case.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct ProgramVariables {
    namespace: OptionalText,
    node_name: OptionalText,
    device_plugin_path: OptionalText,
    allowed_host_paths: OptionalText,
    rust_log: OptionalText,
    log_format: OptionalText,
    http_address: OptionalText,
    control_socket: OptionalText,
    pod_resources_socket: OptionalText,
    kubernetes_service_host: OptionalText,
}

impl ProgramVariables {
    /// Reports a value that is not UTF-8, unless the variable is unknown.
    fn read(environment: &Environment, errors: &mut ConfigErrors) -> Self {
        let text = |(name, value): (&String, &OsString)| {
            let text = value.to_str().map(|text| text.trim().to_owned());
            if text.is_none() && Self::is_known(name) {
                utf8(name, value, errors);
            }
            Some((name.clone(), text?))
        };
        Self::of(environment.iter().filter_map(text))
    }

    fn is_known(name: &str) -> bool {
        Self::of([(name.to_owned(), String::new())]) != Self::default()
    }

    fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        // envy ignores case, and refuses duplicates.
        let is_upper = |c: char| c.is_ascii_uppercase() || c == '_';
        let upper = variables
            .into_iter()
            .filter(|(name, _)| name.chars().all(is_upper));
        envy::from_iter(upper).expect("every field is an optional string")
    }
}

/// The variables that configure the program.
pub(super) const PROGRAM_VARIABLES: [&str; 10] = [
    "NAMESPACE",
    "NODE_NAME",
    "DEVICE_PLUGIN_PATH",
    "CONFIG_FILE",
    "ALLOWED_HOST_PATHS",
    "HTTP_ADDRESS",
    "CONTROL_SOCKET",
    "POD_RESOURCES_SOCKET",
    "RUST_LOG",
    "LOG_FORMAT",
];

const PLUGIN_DIR_DEFAULT: &str = "/var/lib/kubelet/device-plugins";
const POD_RESOURCES_SOCKET_DEFAULT: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";

#[derive(Debug)]
pub(crate) struct Program {
    pub namespace: String,
    pub node: String,
    pub plugin_dir: PathBuf,
    pub logs: Logs,
    pub allowed: AllowedHostPaths,
    pub http: Option<HttpAddress>,
    pub control: Option<PathBuf>,
    pub pod_resources: Option<PathBuf>,
}

/// Returns the path of the config file, if `CONFIG_FILE` is set and not empty.
pub fn config_file(environment: &Environment) -> Option<PathBuf> {
    let path = environment.get("CONFIG_FILE")?;
    (!path.to_string_lossy().trim().is_empty()).then(|| path.into())
}

/// Reads the program's variables. An empty value turns a socket or the HTTP server off; other empty variables count as unset.
pub fn read(environment: &Environment, host: &Host, errors: &mut ConfigErrors) -> Program {
    let set = ProgramVariables::read(environment, errors);
    Program {
        logs: logs(&set, errors),
        node: node(&set, host, errors),
        allowed: allowed(&set, host, errors),
        http: http(&set, errors),
        control: control(&set, errors),
        pod_resources: pod_resources(&set, errors),
        namespace: set
            .namespace
            .text()
            .unwrap_or("simple-device-plugin")
            .to_owned(),
        plugin_dir: plugin_dir(&set, errors),
    }
}

fn allowed(set: &ProgramVariables, host: &Host, errors: &mut ConfigErrors) -> AllowedHostPaths {
    let paths = set.allowed_host_paths.text().into_iter();
    let paths = paths.flat_map(|list| list.split(',')).filter_map(|path| {
        let parsed = values::host_path(path.trim());
        parsed
            .map_err(|expected| errors.add("ALLOWED_HOST_PATHS", path, expected))
            .ok()
    });
    AllowedHostPaths::new(paths.map(PathBuf::from), host.resolve)
}

fn http(set: &ProgramVariables, errors: &mut ConfigErrors) -> Option<HttpAddress> {
    let address = set.http_address.parsed("HTTP_ADDRESS", str::parse, errors);
    (!set.http_address.is_set_but_empty()).then(|| address.unwrap_or_default())
}

/// Returns the path of the control socket, or `None` if `CONTROL_SOCKET` is empty, which turns it off.
///
/// # Errors
/// Returns an error if the path is invalid, or a program variable is not UTF-8.
pub fn control_socket(environment: &Environment) -> Result<Option<PathBuf>, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let set = ProgramVariables::read(environment, &mut errors);
    let socket = control(&set, &mut errors);
    errors.into_result(Some(socket))
}

fn control(set: &ProgramVariables, errors: &mut ConfigErrors) -> Option<PathBuf> {
    let given = &set.control_socket;
    let path = given.parsed("CONTROL_SOCKET", values::socket_path, errors);
    let default = || "/run/simple-device-plugin/control.sock".into();
    (!given.is_set_but_empty()).then(|| path.unwrap_or_else(default))
}

fn plugin_dir(set: &ProgramVariables, errors: &mut ConfigErrors) -> PathBuf {
    let given = &set.device_plugin_path;
    let path = given.parsed("DEVICE_PLUGIN_PATH", values::plugin_dir, errors);
    path.unwrap_or_else(|| PLUGIN_DIR_DEFAULT.into())
}

fn pod_resources(set: &ProgramVariables, errors: &mut ConfigErrors) -> Option<PathBuf> {
    let given = &set.pod_resources_socket;
    let path = given.parsed("POD_RESOURCES_SOCKET", values::socket_path, errors);
    // Another device plugin directory belongs to another kubelet. The default socket belongs to the node's kubelet,
    // which does not know the pods of the other one.
    let is_default_dir = set
        .device_plugin_path
        .text()
        .is_none_or(|dir| dir.trim_end_matches('/') == PLUGIN_DIR_DEFAULT);
    let has_default = is_default_dir && !given.is_set_but_empty();
    path.or_else(|| has_default.then(|| POD_RESOURCES_SOCKET_DEFAULT.into()))
}

fn logs(set: &ProgramVariables, errors: &mut ConfigErrors) -> Logs {
    let levels = set.rust_log.parsed("RUST_LOG", values::log_levels, errors);
    let format = set.log_format.parsed("LOG_FORMAT", str::parse, errors);
    Logs {
        levels,
        format: format.unwrap_or_default(),
    }
}

/// Returns the node's name: `NODE_NAME`, or else the hostname. In a pod, only `NODE_NAME` is used, because the hostname and
/// thus the device IDs would change with every new pod.
fn node(set: &ProgramVariables, host: &Host, errors: &mut ConfigErrors) -> String {
    if let Some(name) = set.node_name.text() {
        if !is_node_name(name) {
            let expected =
                format!("the name of a node, of at most {NODE_NAME_MAX} bytes and without spaces");
            errors.add("NODE_NAME", name, expected);
        }
        return name.to_owned();
    }
    let hostname = host.hostname.as_deref().unwrap_or_default().trim();
    if set.kubernetes_service_host.text().is_some() {
        let expected = "the name of the node; in a pod, set it from the field spec.nodeName";
        errors.add("NODE_NAME", "", expected);
    } else if hostname.is_empty() {
        errors.add(
            "NODE_NAME",
            "",
            "the name of the node, because this host has no hostname",
        );
    }
    hostname.to_lowercase()
}

/// In bytes. A node's name is a DNS subdomain.
const NODE_NAME_MAX: usize = 253;

pub(crate) fn is_node_name(name: &str) -> bool {
    (1..=NODE_NAME_MAX).contains(&name.len())
        && !name.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_of(pairs: &[(&str, &str)], hostname: Option<&str>) -> Result<String, String> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), value.into());
        let environment = pairs.iter().map(owned).collect();
        let host = Host {
            hostname: hostname.map(str::to_owned),
            numa: None,
            ..Host::default()
        };
        let mut errors = ConfigErrors::default();
        let program = read(&environment, &host, &mut errors);
        let node = program.node;
        errors
            .into_result(Some(node))
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn node_name_comes_from_the_variable_or_the_hostname() {
        let host = Some(" Worker.Example ");
        assert_eq!(node_of(&[], host), Ok("worker.example".into()));
        assert_eq!(
            node_of(&[("NODE_NAME", " ")], host),
            Ok("worker.example".into())
        );
        assert_eq!(node_of(&[("NODE_NAME", "n1 ")], host), Ok("n1".into()));
    }

    /// The default socket belongs to the node's kubelet, which does not know the pods of the kubelet of another
    /// directory.
    #[test]
    fn pod_resources_socket_has_no_default_for_another_plugin_directory() {
        let socket = |pairs: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), value.into());
            let environment = pairs.iter().map(owned).collect();
            let program = read(&environment, &Host::default(), &mut ConfigErrors::default());
            program.pod_resources.map(|path| path.display().to_string())
        };
        let default = Some(POD_RESOURCES_SOCKET_DEFAULT.to_owned());
        let own_dir = ("DEVICE_PLUGIN_PATH", "/var/lib/kubelet/device-plugins/");
        assert_eq!(socket(&[]), default);
        assert_eq!(socket(&[own_dir]), default);
        assert_eq!(socket(&[own_dir, ("POD_RESOURCES_SOCKET", "")]), None);
        let other_dir = ("DEVICE_PLUGIN_PATH", "/tmp/plugins");
        assert_eq!(socket(&[other_dir]), None);
        let named = ("POD_RESOURCES_SOCKET", "/tmp/pods.sock");
        assert_eq!(
            socket(&[other_dir, named]),
            Some("/tmp/pods.sock".to_owned())
        );
    }

    #[test]
    fn program_variables_are_known() {
        // CONFIG_FILE is a path, which may be invalid UTF-8.
        for name in PROGRAM_VARIABLES {
            let is_known = ProgramVariables::is_known(name);
            assert_eq!(is_known, name != "CONFIG_FILE", "{name}");
        }
    }

    #[test]
    fn ignores_variables_whose_names_differ_in_case_or_script() {
        let names = [
            "node_name",
            "Node_Name",
            "KUBERNETES_SERVICE_HOST",
            "\u{212a}UBERNETES_SERVICE_HOST",
        ];
        let pairs = names.map(|name| (name, "x"));
        assert_eq!(
            node_of(
                &[("NODE_NAME", "n1"), pairs[0], pairs[1], pairs[2], pairs[3]],
                None
            ),
            Ok("n1".into())
        );
        assert_eq!(
            node_of(&[pairs[0], pairs[1], pairs[3]], Some("n2")),
            Ok("n2".into())
        );
    }

    #[test]
    fn requires_node_name_in_a_pod() {
        let pod = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        assert_eq!(node_of(&[pod, ("NODE_NAME", "n1")], None), Ok("n1".into()));
        for refused in [node_of(&[pod], Some("host")), node_of(&[], None)] {
            assert!(refused.unwrap_err().starts_with("NODE_NAME=\"\": expected"));
        }
    }
}

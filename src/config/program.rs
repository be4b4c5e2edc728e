//! The variables that the program has once, whatever its resources.

use std::path::PathBuf;

use serde::Deserialize;
use tracing_subscriber::filter::Targets;

use super::environment::{Environment, Host, utf8};
use super::error::ConfigErrors;
use super::values::{self, HttpAddress, LogFormat};
use crate::config::host_paths::AllowedHostPaths;

/// What is logged, and how.
#[derive(Clone, Debug)]
pub struct Logs {
    /// Which lines to log; `None`: the default.
    pub(crate) levels: Option<Targets>,
    /// How log lines look.
    pub format: LogFormat,
}

impl Logs {
    /// Reads the variables of the log alone.
    ///
    /// # Errors
    /// Every error in them.
    pub fn from_variables(environment: &Environment) -> Result<Self, ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let texts = texts(environment, &mut errors);
        let logs = logs(&texts, &mut errors);
        errors.unless_any(Some(logs))
    }
}

/// As the variables have them.
#[derive(Debug, Default, Deserialize)]
struct Texts {
    namespace: Option<String>,
    node_name: Option<String>,
    device_plugin_path: Option<String>,
    allowed_host_paths: Option<String>,
    rust_log: Option<String>,
    log_format: Option<String>,
    http_address: Option<String>,
    control_socket: Option<String>,
    pod_resources_socket: Option<String>,
    kubernetes_service_host: Option<String>,
}

const VARIABLES: [&str; 10] = [
    "NAMESPACE",
    "NODE_NAME",
    "DEVICE_PLUGIN_PATH",
    "ALLOWED_HOST_PATHS",
    "RUST_LOG",
    "LOG_FORMAT",
    "HTTP_ADDRESS",
    "CONTROL_SOCKET",
    "POD_RESOURCES_SOCKET",
    "KUBERNETES_SERVICE_HOST",
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

/// The config file that the variables name.
pub fn config_file(environment: &Environment) -> Option<PathBuf> {
    const NAME: &str = "CONFIG_FILE";
    let path = environment.get(NAME)?;
    (!is_blank(environment, NAME)).then(|| path.into())
}

/// Reads the program's variables; what is set but empty counts as not set.
pub fn read(environment: &Environment, host: &Host, errors: &mut ConfigErrors) -> Program {
    let texts = texts(environment, errors);
    Program {
        logs: logs(&texts, errors),
        node: node(&texts, host, errors),
        allowed: allowed(&texts, host, errors),
        http: http(environment, &texts, errors),
        control: control(environment, &texts, errors),
        pod_resources: pod_resources(environment, &texts, errors),
        namespace: texts
            .namespace
            .unwrap_or_else(|| "simple-device-plugin".to_owned()),
        plugin_dir: texts
            .device_plugin_path
            .unwrap_or_else(|| PLUGIN_DIR_DEFAULT.to_owned())
            .into(),
    }
}

fn allowed(texts: &Texts, host: &Host, errors: &mut ConfigErrors) -> AllowedHostPaths {
    let paths = texts
        .allowed_host_paths
        .iter()
        .flat_map(|list| list.split(','));
    let paths = paths.filter_map(|path| {
        let parsed = values::host_path(path.trim());
        parsed
            .map_err(|expected| errors.add("ALLOWED_HOST_PATHS", path, expected))
            .ok()
    });
    AllowedHostPaths::new(paths.map(PathBuf::from), host.resolve)
}

/// Set but empty is off.
fn http(
    environment: &Environment,
    texts: &Texts,
    errors: &mut ConfigErrors,
) -> Option<HttpAddress> {
    const NAME: &str = "HTTP_ADDRESS";
    if is_blank(environment, NAME) {
        return None;
    }
    let address = parsed(NAME, texts.http_address.as_deref(), str::parse, errors);
    Some(address.unwrap_or_default())
}

/// Whether it is set, and to nothing.
fn is_blank(environment: &Environment, name: &str) -> bool {
    let value = environment.get(name);
    value.is_some_and(|value| value.to_string_lossy().trim().is_empty())
}

/// Where a client finds the program, and the program listens for it; set but empty: nowhere.
///
/// # Errors
/// What is wrong with it.
pub fn control_socket(environment: &Environment) -> Result<Option<PathBuf>, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    let texts = texts(environment, &mut errors);
    let socket = control(environment, &texts, &mut errors);
    errors.unless_any(Some(socket))
}

fn control(environment: &Environment, texts: &Texts, errors: &mut ConfigErrors) -> Option<PathBuf> {
    const NAME: &str = "CONTROL_SOCKET";
    let set = texts.control_socket.as_deref();
    let path = parsed(NAME, set, values::socket_path, errors);
    let path = path.unwrap_or_else(|| "/run/simple-device-plugin/control.sock".into());
    (!is_blank(environment, NAME)).then_some(path)
}

fn pod_resources(
    environment: &Environment,
    texts: &Texts,
    errors: &mut ConfigErrors,
) -> Option<PathBuf> {
    const NAME: &str = "POD_RESOURCES_SOCKET";
    let set = texts.pod_resources_socket.as_deref();
    let path = parsed(NAME, set, values::socket_path, errors);
    // In another directory there is another kubelet, of whose pods the node's own kubelet knows nothing.
    let is_default_dir = texts
        .device_plugin_path
        .as_deref()
        .is_none_or(|dir| dir.trim_end_matches('/') == PLUGIN_DIR_DEFAULT);
    let default = || is_default_dir.then(|| POD_RESOURCES_SOCKET_DEFAULT.into());
    path.or_else(default)
        .filter(|_| !is_blank(environment, NAME))
}

fn logs(texts: &Texts, errors: &mut ConfigErrors) -> Logs {
    let levels = parsed(
        "RUST_LOG",
        texts.rust_log.as_deref(),
        values::log_levels,
        errors,
    );
    let format = parsed(
        "LOG_FORMAT",
        texts.log_format.as_deref(),
        str::parse,
        errors,
    );
    Logs {
        levels,
        format: format.unwrap_or_default(),
    }
}

fn texts(environment: &Environment, errors: &mut ConfigErrors) -> Texts {
    let mut set = Vec::new();
    for name in VARIABLES {
        if let Some(value) = environment.get(name) {
            let text = utf8(name, value, errors).trim().to_owned();
            if !text.is_empty() && value.to_str().is_some() {
                set.push((name.to_owned(), text));
            }
        }
    }
    envy::from_iter(set).expect("every field is an optional text")
}

fn parsed<T, E: std::fmt::Display>(
    name: &str,
    text: Option<&str>,
    parse: impl FnOnce(&str) -> Result<T, E>,
    errors: &mut ConfigErrors,
) -> Option<T> {
    let text = text?;
    parse(text)
        .map_err(|expected| errors.add(name, text, expected))
        .ok()
}

/// The node's name. A pod's hostname is another after every rollout, and with it the devices' IDs
/// would be others, so inside a pod only `NODE_NAME` counts.
fn node(texts: &Texts, host: &Host, errors: &mut ConfigErrors) -> String {
    if let Some(name) = &texts.node_name {
        if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            errors.add("NODE_NAME", name, "a node's name, without blanks");
        }
        return name.clone();
    }
    let hostname = host.hostname.as_deref().unwrap_or_default().trim();
    if texts.kubernetes_service_host.is_some() {
        let expected =
            "the node's name: set it from the field spec.nodeName, since a pod's hostname changes";
        errors.add("NODE_NAME", "", expected);
    } else if hostname.is_empty() {
        errors.add("NODE_NAME", "", "the node's name, since this host has none");
    }
    hostname.to_lowercase()
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
        errors.unless_any(Some(node)).map_err(|m| m.to_string())
    }

    #[test]
    fn the_node_is_named_by_variable_or_host() {
        let host = Some(" Worker.Example ");
        assert_eq!(node_of(&[], host), Ok("worker.example".into()));
        assert_eq!(
            node_of(&[("NODE_NAME", " ")], host),
            Ok("worker.example".into())
        );
        assert_eq!(node_of(&[("NODE_NAME", "n1 ")], host), Ok("n1".into()));
    }

    /// What the node's own kubelet says of its pods frees devices that pods of another kubelet hold.
    #[test]
    fn another_directory_has_no_default_for_the_pod_resources() {
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
    fn a_pod_needs_node_name() {
        let pod = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");
        assert_eq!(node_of(&[pod, ("NODE_NAME", "n1")], None), Ok("n1".into()));
        for refused in [node_of(&[pod], Some("host")), node_of(&[], None)] {
            assert!(refused.unwrap_err().starts_with("NODE_NAME=\"\": expected"));
        }
    }
}

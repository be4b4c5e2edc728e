//! Names of plugins and of their sockets. A socket's file name is the `endpoint` of its registration.

use std::fmt;
use std::hash::Hasher;

use thiserror::Error;

use crate::model::resource_name::ResourceName;

/// File name of the kubelet's registration socket in the device plugin directory.
pub const KUBELET_SOCKET: &str = "kubelet.sock";

/// In bytes. The size of `sockaddr_un.sun_path` without its terminating NUL.
pub(crate) const SOCKET_PATH_MAX: usize = 107;

/// In bytes. A Unix socket path has at most 107 bytes, and `/var/lib/kubelet/device-plugins/` takes 32 of them.
const SOCKET_NAME_MAX: usize = 75;
const SUFFIX: &str = ".sock";
const STEM_MAX: usize = SOCKET_NAME_MAX - SUFFIX.len();
const HASH_DIGITS: usize = 16;

/// A socket's file name in the device plugin directory, for example `simple-device-plugin.sock`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketName(String);

/// A valid `PLUGIN_NAME`. It never contains a path separator and never names the kubelet's own socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PluginName(String);

/// Why a `PLUGIN_NAME` is invalid. Each message completes the sentence `expected …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum PluginNameError {
    #[error("a file name of letters, digits, '.', '_' and '-' that starts with a letter or digit")]
    NotAFileName,
    #[error("another name: kubelet.sock is the kubelet's own socket")]
    KubeletSocket,
    #[error(
        "at most {STEM_MAX} characters, because the path of a Unix socket has at most {SOCKET_PATH_MAX} bytes"
    )]
    TooLong,
}

impl Default for PluginName {
    fn default() -> Self {
        Self("simple-device-plugin".to_owned())
    }
}

impl PluginName {
    /// Parses a name that matches `[A-Za-z0-9][A-Za-z0-9._-]*` and is not `kubelet`.
    ///
    /// # Errors
    /// Returns an error if the name does not match.
    pub fn parse(name: &str) -> Result<Self, PluginNameError> {
        let valid_start = name.starts_with(|c: char| c.is_ascii_alphanumeric());
        let valid_characters = name
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
        if !valid_start || !valid_characters {
            return Err(PluginNameError::NotAFileName);
        }
        if name == "kubelet" {
            return Err(PluginNameError::KubeletSocket);
        }
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the socket of a resource that has this name alone: `<PLUGIN_NAME>.sock`.
    ///
    /// # Errors
    /// Returns [`PluginNameError::TooLong`] if the socket's path would be too long for the kubelet to dial.
    pub fn own_socket(&self) -> Result<SocketName, PluginNameError> {
        if self.0.len() > STEM_MAX {
            return Err(PluginNameError::TooLong);
        }
        Ok(SocketName(format!("{}{SUFFIX}", self.0)))
    }

    /// Returns the socket of one of the resources that share this name: `<PLUGIN_NAME>-<resource>.sock`.
    pub(crate) fn shared_socket(&self, resource: &ResourceName) -> SocketName {
        SocketName(self.with_resource(resource).0 + SUFFIX)
    }

    /// Returns the name of one of the resources that share this name: `<PLUGIN_NAME>-<resource>` with `_` in place of
    /// `/`. A name that is too long is cut and ends in a hash of the whole name. The hash is the same in every version.
    pub(crate) fn with_resource(&self, resource: &ResourceName) -> Self {
        let mut stem = format!("{}-{}", self.0, resource.as_str().replace('/', "_"));
        if stem.len() > STEM_MAX {
            let mut hasher = fnv::FnvHasher::default();
            hasher.write(stem.as_bytes());
            stem.truncate(STEM_MAX - HASH_DIGITS - 1);
            stem = format!("{stem}-{:0HASH_DIGITS$x}", hasher.finish());
        }
        Self(stem)
    }
}

impl SocketName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shared(plugin: &str, resource: &str) -> String {
        let resource = ResourceName::parse(resource).unwrap();
        PluginName::parse(plugin)
            .unwrap()
            .shared_socket(&resource)
            .0
    }

    #[test]
    fn accepts_only_valid_file_names() {
        for (name, expected) in [
            ("widget", Ok("widget.sock")),
            ("a.b_c-1", Ok("a.b_c-1.sock")),
            ("", Err(PluginNameError::NotAFileName)),
            (".hidden", Err(PluginNameError::NotAFileName)),
            ("../up", Err(PluginNameError::NotAFileName)),
            ("/run/x", Err(PluginNameError::NotAFileName)),
            ("ü", Err(PluginNameError::NotAFileName)),
            ("kubelet", Err(PluginNameError::KubeletSocket)),
            (&"x".repeat(71), Err(PluginNameError::TooLong)),
        ] {
            let socket = PluginName::parse(name).and_then(|name| name.own_socket());
            assert_eq!(
                socket.as_ref().map(SocketName::as_str),
                expected.as_ref().copied()
            );
        }
    }

    #[test]
    fn shared_names_contain_the_resource() {
        assert_eq!(
            shared("simple-device-plugin", "example.com/gpu"),
            "simple-device-plugin-example.com_gpu.sock"
        );
    }

    /// The name must never change: a reload or an upgrade must not move a socket.
    #[test]
    fn long_names_end_in_a_stable_hash() {
        let socket = shared(
            "simple-device-plugin",
            &format!("example.com/{}", "g".repeat(63)),
        );
        assert_eq!(socket.len(), 75);
        assert_eq!(
            socket,
            "simple-device-plugin-example.com_gggggggggggggggggggg-7b8ee8bf33bc08bc.sock"
        );
    }

    proptest! {
        #[test]
        fn shared_names_fit_into_a_socket_path_and_are_unique(
            plugin in "[A-Za-z0-9][A-Za-z0-9._-]{0,90}",
            one in "[a-z0-9]{1,60}/[A-Za-z0-9]{1,63}",
            other in "[a-z0-9]{1,60}/[A-Za-z0-9]{1,63}",
        ) {
            prop_assume!(plugin != "kubelet" && one != other);
            let socket = shared(&plugin, &one);
            prop_assert!(socket.len() <= SOCKET_NAME_MAX);
            prop_assert!(!socket.contains('/'));
            prop_assert_ne!(socket, shared(&plugin, &other));
        }
    }
}

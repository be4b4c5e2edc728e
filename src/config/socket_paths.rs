//! Validates the paths of sockets, which depend on several settings together.

use std::path::Path;

use super::error::ConfigErrors;
use crate::model::socket_name::{KUBELET_SOCKET, SOCKET_PATH_MAX};
use crate::offer::resource::Resource;

/// Reports an error if the longest socket path in the device plugin directory, including the kubelet's, exceeds the
/// limit of Linux.
pub(crate) fn validate(dir: &Path, resources: &[Resource], errors: &mut ConfigErrors) {
    let names = resources.iter().map(|resource| resource.socket.as_str());
    let longest = names.chain([KUBELET_SOCKET]).max_by_key(|name| name.len());
    let Some(longest) = longest else { return };
    let length = dir.join(longest).as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let expected = format!(
            "a directory with a shorter path: {longest} in it would have a path of {length} bytes, and a socket can have at most \
             {SOCKET_PATH_MAX}"
        );
        errors.add("DEVICE_PLUGIN_PATH", &dir.to_string_lossy(), expected);
    }
}

/// Reports an error if the control socket has the path of a plugin's socket or of the kubelet's.
pub(crate) fn validate_control(
    control: Option<&Path>,
    dir: &Path,
    resources: &[Resource],
    errors: &mut ConfigErrors,
) {
    let names = resources.iter().map(|resource| resource.socket.as_str());
    let mut others = names.chain([KUBELET_SOCKET]).map(|name| dir.join(name));
    if let Some(control) = control.filter(|control| others.any(|other| other == *control)) {
        let expected = "a path other than those of the kubelet's socket and the plugins' sockets";
        errors.add("CONTROL_SOCKET", &control.to_string_lossy(), expected);
    }
}

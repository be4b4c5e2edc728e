//! The paths of sockets: what the configuration makes of them together.

use std::path::Path;

use super::error::ConfigErrors;
use crate::model::socket_name::{KUBELET_SOCKET, SOCKET_PATH_MAX};
use crate::offer::resource::Resource;

/// Reports where the longest of the sockets' paths, the kubelet's among them, is too long for a socket.
pub(crate) fn validate(dir: &Path, resources: &[Resource], errors: &mut ConfigErrors) {
    let names = resources.iter().map(|resource| resource.socket.as_str());
    let longest = names.chain([KUBELET_SOCKET]).max_by_key(|name| name.len());
    let Some(longest) = longest else { return };
    let length = dir.join(longest).as_os_str().len();
    if length > SOCKET_PATH_MAX {
        let expected = format!(
            "a directory in which {longest} has a path of at most {SOCKET_PATH_MAX} bytes, not {length}"
        );
        errors.add("DEVICE_PLUGIN_PATH", &dir.to_string_lossy(), expected);
    }
}

/// Reports where the control socket has the path of another one.
pub(crate) fn validate_control(
    control: Option<&Path>,
    dir: &Path,
    resources: &[Resource],
    errors: &mut ConfigErrors,
) {
    let names = resources.iter().map(|resource| resource.socket.as_str());
    let mut others = names.chain([KUBELET_SOCKET]).map(|name| dir.join(name));
    if let Some(control) = control.filter(|control| others.any(|other| other == *control)) {
        let expected = "a path that is neither the kubelet's socket nor a plugin's";
        errors.add("CONTROL_SOCKET", &control.to_string_lossy(), expected);
    }
}

//! The device plugin directory of a test, and the sockets and the checkpoint in it.

use std::path::{Path, PathBuf};

use simple_device_plugin::node::checkpoint_file;
use tempfile::TempDir;

/// Creates a temporary device plugin directory.
pub fn plugin_dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Returns the path as text, for a variable or an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Returns the sockets in the directory without `kubelet.sock`, sorted.
pub fn sockets(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("the device plugin directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut sockets: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|e| e == "sock"))
        .filter(|path| !path.ends_with("kubelet.sock"))
        .collect();
    sockets.sort();
    sockets
}

/// Returns whether the directory has `count` sockets and each of them accepts connections.
pub fn all_served(dir: &Path, count: usize) -> bool {
    let sockets = sockets(dir);
    let served = |socket: &PathBuf| std::os::unix::net::UnixStream::connect(socket).is_ok();
    sockets.len() == count && sockets.iter().all(served)
}

/// Writes a kubelet checkpoint with these registered resources and their devices, and without pods.
pub fn write_checkpoint(dir: &Path, registered: &[(&str, &[&str])]) {
    let lists = registered
        .iter()
        .map(|(resource, ids)| format!("{resource:?}: {ids:?}"));
    let lists = lists.collect::<Vec<_>>().join(", ");
    let text = format!(
        "{{\"Data\": {{\"PodDeviceEntries\": null, \"RegisteredDevices\": {{{lists}}}}}, \"Checksum\": 1}}"
    );
    replace_checkpoint(dir, &text);
}

/// Replaces the kubelet's checkpoint file atomically.
pub fn replace_checkpoint(dir: &Path, text: &str) {
    let new = dir.join("checkpoint.new");
    std::fs::write(&new, text).expect("a file");
    std::fs::rename(new, dir.join(checkpoint_file::FILE)).expect("a file in its place");
}

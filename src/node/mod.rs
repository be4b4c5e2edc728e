//! The kubelet's side of the node: its plugin dir, kubelet.sock and who answers there, its checkpoint, its pod-resources API.

pub mod channel;
pub mod checkpoint;
pub mod checkpoint_file;
pub(crate) mod holders;
pub mod plugin_dir;
pub mod pod_resources;
pub(crate) mod registration;
pub mod watcher;

//! The kubelet's interfaces on the node: the device plugin directory, kubelet.sock, the checkpoint and the
//! pod-resources API.

pub mod channel;
pub mod checkpoint;
pub mod checkpoint_file;
pub(crate) mod holders;
pub mod plugin_dir;
pub mod pod_resources;
pub(crate) mod registration;
pub mod watcher;

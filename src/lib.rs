//! A device plugin manager for Kubernetes: one small daemon that turns environment variables, or a
//! config file, into extended resources. The modules stand in reading order: each imports only from those above it.

// Pure: names, devices, decisions. No I/O, no clock, no runtime.
mod foreign;
mod grpc_code;
pub mod numa;
pub mod device;
pub mod template;
pub mod resource_name;
pub mod socket_name;
pub mod allocation;
pub mod preference;
pub mod selection;
pub mod fault;
pub mod checkpoint;
pub mod resource;
mod host_paths;
pub mod config;
pub mod offer;
pub mod retirement;
mod backoff;

// The edge: the API on the wire, sockets and files.
mod lock;
mod regular_file;
pub mod wire;
pub mod plugin_dir;
mod dir_lock;
mod user_namespace;
pub mod own_socket;
mod connections;
mod channel;
mod registration;
pub mod checkpoint_file;
pub mod pod_resources;
mod holders;
pub mod watcher;

// The life of a plugin, and of all of them.
pub mod record;
pub mod offer_handle;
pub mod fault_handle;
pub mod plugin;
pub mod supervisor;
pub mod config_file;

// What there is to see of it.
pub mod observer;
mod readiness;
mod metrics;
pub mod status;
mod guests;
pub mod http;
pub mod control;

// A kubelet to try it all on.
pub mod kubelet;

// The program.
mod host;
mod logging;
mod signals;
pub mod commands;

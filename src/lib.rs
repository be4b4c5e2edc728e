//! A device plugin manager for Kubernetes: one small daemon that turns environment variables, or a
//! config file, into extended resources.

pub mod api;
pub mod model;
pub mod util;
// The edge: sockets of ours, and the kubelet's side of the node.
pub mod net;
pub mod node;
// What is configured, what is offered of it, and what goes wrong with it on purpose.
pub mod config;
pub mod fault;
pub mod offer;
// The life of a plugin, and of all of them.
pub mod plugin;
pub mod supervisor;
// What there is to see of it, and how it is steered.
pub mod control;
pub mod observe;
// The program.
pub mod cli;

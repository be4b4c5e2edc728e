//! Shared test helpers: a device plugin directory, a simulated kubelet, and the daemon in the process of the test or as
//! a process.

pub mod client;
pub mod control;
pub mod fake_kubelet;
pub mod fake_plugin;
pub mod http;
pub mod process;
pub mod running_node;
pub mod soak;

mod directory;
mod kubelets;
mod manager;
mod new_socket;
mod resources;
mod waits;

pub use directory::*;
pub use kubelets::*;
pub use manager::*;
pub use new_socket::*;
pub use resources::*;
pub use waits::*;

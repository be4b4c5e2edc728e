//! The helpers that these tests share with the daemon's tests.

#![allow(dead_code, reason = "these tests use only a part of each file")]

#[path = "../../../../tests/it/support/client.rs"]
pub mod client;
#[path = "../../../../tests/it/support/fake_plugin.rs"]
pub mod fake_plugin;
#[path = "../../../../tests/it/support/process.rs"]
pub mod process;

#[path = "../../../../tests/it/support/directory.rs"]
mod directory;
#[path = "../../../../tests/it/support/kubelets.rs"]
mod kubelets;
#[path = "../../../../tests/it/support/resources.rs"]
mod resources;
#[path = "../../../../tests/it/support/waits.rs"]
mod waits;

pub use directory::*;
pub use kubelets::*;
pub use resources::*;
pub use waits::*;

//! The simulated kubelet, and its program as its users meet it.

#[path = "../../../../tests/it/support/mod.rs"]
mod support;

mod demo;
mod device_manager;
mod run;

//! The simulated kubelet, and its program as its users meet it.

#[path = "../../../../tests/it/support/mod.rs"]
mod support;

mod admission;
mod checkpoint;
mod crash;
mod demo;
mod registration;
mod run;

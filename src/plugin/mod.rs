//! One device plugin: a run from the connection to the kubelet to the removal of its socket.

mod faults;
mod handle;
pub mod record;
mod register;
mod run;
mod run_end;
mod server;
mod service;
mod stream;

pub use handle::PluginHandle;
pub(crate) use register::Settle;
pub(crate) use run::{Connected, PluginInstance, RunStart};
#[cfg(test)]
pub(crate) use run_end::NotRegistered;
pub(crate) use run_end::RunEnd;
#[cfg(test)]
pub(crate) use stream::{EndedStream, StreamKubelet};

//! The device plugin of one resource: its gRPC server, its registration with the kubelet, and its injected faults.

mod handle;
mod injector;
pub mod record;
mod register;
mod run;
mod run_end;
mod server;
mod service;
mod settle;
mod snapshot;
mod stream;

pub use handle::PluginHandle;
pub(crate) use run::{Connected, PluginInstance, RunStart};
pub(crate) use run_end::RunEnd;
#[cfg(test)]
pub(crate) use run_end::{NotRegistered, ServedByAnother};
pub(crate) use settle::{Settle, SettleTime};
pub use snapshot::PluginSnapshot;
#[cfg(test)]
pub(crate) use stream::{EndedStream, StreamKubelet};

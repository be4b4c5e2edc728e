//! A simulated kubelet for device plugins: the device manager of a real one, without a cluster.
//!
//! It keeps the structure of the original (`pkg/kubelet/cm/devicemanager`, Kubernetes 1.36), because the defects that a
//! device plugin has to avoid follow from that structure.
//!
//! - [`Kubelet`] serves the registration socket and the pod-resources API, admits pods and restarts.
//! - [`KubeletSettings`] sets its directory and its timeouts.
//! - [`Event`] is what it reports about plugins, [`Crash`] how a plugin made it crash.
//! - [`checkpoint`] reads the file in which it keeps device assignments over a restart.

mod admission;
mod authority;
pub mod checkpoint;
mod crash;
mod device_manager;
mod event;
mod kubelet;
mod plugin_client;
mod plugin_handler;
mod pod_resources;
mod registration;
mod settings;
mod state;

pub use admission::{AdmissionError, Pod};
pub use crash::Crash;
pub use device_manager::{Assignment, NodeResources, Quantities};
pub use event::{DeviceChange, DeviceState, Event, EventKind};
pub use kubelet::Kubelet;
pub use settings::{Behavior, KubeletSettings, RegistrationMode, TopologyPolicy};

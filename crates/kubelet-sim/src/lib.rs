//! A simulated kubelet for testing device plugins without a cluster.
//!
//! The code mirrors the kubelet's device manager (`pkg/kubelet/cm/devicemanager`, Kubernetes 1.36), because the kubelet
//! bugs that a device plugin must avoid follow from its structure.
//!
//! - [`Kubelet`] serves the registration socket and the pod-resources API, admits pods and restarts.
//! - [`KubeletSettings`] sets its directory and its timeouts.
//! - [`Event`] reports what a plugin did, and [`Crash`] how a plugin made the kubelet crash.
//! - [`conformance`] evaluates a device plugin by what a kubelet would do to it.
//! - [`checkpoint`] reads the file that keeps device assignments across kubelet restarts.

mod admission;
mod admission_error;
mod authority;
pub mod checkpoint;
pub mod conformance;
mod crash;
mod device_manager;
mod event;
mod kubelet;
mod plugin_client;
mod plugin_handler;
mod pod;
mod pod_resources;
mod readmission;
mod registration;
mod settings;
mod state;
mod topology_manager;

pub use admission_error::AdmissionError;
pub use crash::Crash;
pub use device_manager::{Assignment, NodeResources, Quantities};
pub use event::{DeviceChange, DeviceState, Event, EventKind};
pub use kubelet::Kubelet;
pub use pod::{Container, ContainerKind, DEFAULT_CONTAINER, Pod};
pub use settings::{Behavior, KubeletSettings, RegistrationMode, TopologyPolicy};

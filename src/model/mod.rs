//! The nouns of the device plugin API, as values that the kubelet will accept, and the decisions about them.

pub mod allocation;
pub mod device;
pub mod numa;
pub mod preference;
pub mod resource_name;
pub mod selection;
pub mod socket_name;
pub mod template;

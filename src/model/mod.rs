//! The nouns of the device plugin API, as values that the kubelet will accept, and the decisions about them.

pub mod numa;
pub mod device;
pub mod template;
pub mod resource_name;
pub mod socket_name;
pub mod allocation;
pub mod preference;
pub mod selection;

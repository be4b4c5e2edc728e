//! Devices, resource and socket names, and the logic of Allocate and GetPreferredAllocation. Pure: no I/O, no clock.
//! A parsed name is always one that the kubelet accepts.

pub mod allocation;
pub mod device;
pub mod numa;
pub mod preference;
pub mod resource_name;
pub mod selection;
pub mod socket_name;
pub mod template;

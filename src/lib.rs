//! A device plugin manager for Kubernetes: one small daemon that turns environment variables into
//! extended resources. The modules stand in reading order: each imports only from those above it.

// Pure: names, devices, decisions. No I/O, no clock, no runtime.
mod foreign;
pub mod numa;
pub mod device;
pub mod resource_name;
pub mod socket_name;
pub mod allocation;
pub mod preference;
pub mod resource;
pub mod config;

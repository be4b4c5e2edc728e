//! A Kubernetes device plugin manager: one daemon that advertises simulated devices as extended resources, configured by
//! environment variables or a config file. ARCHITECTURE.md describes each module.

pub mod util;

pub mod model;

pub mod api;

pub mod fault;

pub mod offer;

pub mod config;

pub mod net;

pub mod node;

pub mod plugin;

pub mod supervisor;

pub mod observe;

pub mod control;

pub mod cli;

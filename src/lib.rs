//! A device plugin manager for Kubernetes: one small daemon that turns environment variables, or a
//! config file, into extended resources. ARCHITECTURE.md says what each module is for.

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

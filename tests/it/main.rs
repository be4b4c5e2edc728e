//! The daemon as its users meet it, over the simulated kubelet or as a process. Each file is a promise.

mod support;

mod config_file;
mod example_scripts;
mod examples;
mod faults;
mod growth;
mod http;
mod life;
mod metrics;
mod node_behaviour;
mod overrides;
mod program;
mod readiness;
mod reload;
mod reload_soak;
mod soak;
mod status;
mod steer_soak;

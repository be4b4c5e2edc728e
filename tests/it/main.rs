//! Integration tests of the daemon, with the simulated kubelet. Each file tests one subject.

mod support;

mod addresses;
mod check_yaml;
mod command_soak;
mod config_file;
mod connections;
mod control_socket;
mod docs;
mod example_scripts;
mod examples;
mod fault_calls;
mod fault_settings;
mod fault_streams;
mod growth;
mod http;
mod layout;
mod limited_host;
mod metrics;
mod node_behavior;
mod overrides;
mod plugin_socket;
mod program;
mod readiness;
mod recovery;
mod registration;
mod reload;
mod reload_soak;
mod removal;
mod settle;
mod shutdown;
mod soak;
mod status;
mod takeover;

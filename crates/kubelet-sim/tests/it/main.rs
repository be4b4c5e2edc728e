//! Tests of the simulated kubelet, as a library and as the program `kubelet-sim`.

mod support;

mod admission;
mod checkpoint;
mod containers;
mod crash;
mod demo;
mod node_status;
mod pod_resources;
mod registration;
mod restart;
mod run;
mod topology;

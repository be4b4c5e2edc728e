//! The simulated kubelet behaves like a real one, and its program does what its users expect.

mod support;

mod admission;
mod checkpoint;
mod crash;
mod demo;
mod registration;
mod restart;
mod run;

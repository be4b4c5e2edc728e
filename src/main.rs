//! The simple-device-plugin program.

fn main() {}

//! The helpers that these tests share with the daemon's tests.

#![allow(dead_code, reason = "these tests use only a part of each file")]

#[path = "../../../../tests/it/support/client.rs"]
pub mod client;
#[path = "../../../../tests/it/support/fake_plugin.rs"]
pub mod fake_plugin;
#[path = "../../../../tests/it/support/process.rs"]
pub mod process;

#[path = "../../../../tests/it/support/directory.rs"]
mod directory;
#[path = "../../../../tests/it/support/kubelets.rs"]
mod kubelets;
#[path = "../../../../tests/it/support/resources.rs"]
mod resources;
#[path = "../../../../tests/it/support/waits.rs"]
mod waits;

pub use directory::*;
pub use kubelets::*;
pub use resources::*;
pub use waits::*;

use kubelet_sim::{Container, ContainerKind, Pod};

/// Returns a container with these requests.
pub fn container(kind: ContainerKind, name: &str, requests: &[(&str, usize)]) -> Container {
    let requests = requests.iter().map(|(r, n)| ((*r).to_owned(), *n));
    Container {
        kind,
        ..Container::app(name, requests)
    }
}

/// Returns the pod `p` with these containers.
pub fn pod_of(containers: impl IntoIterator<Item = Container>) -> Pod {
    Pod {
        name: "p".to_owned(),
        containers: containers.into_iter().collect(),
    }
}

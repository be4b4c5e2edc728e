//! Checks that kubelet restarts leak no task, file descriptor or socket.

use std::path::Path;

use crate::support::process::run_in_own_process;
use crate::support::soak::{alive_tasks, descriptors};
use crate::support::{
    Manager, held, kubelet, plugin_dir, pod, registrations, sockets, until, wait_for_node,
};

const RESTARTS: usize = 200;
const RESOURCES: [&str; 3] = ["example.com/a", "example.com/b", "example.com/c"];

/// Open file descriptors and live tasks of this process, and sockets in the device plugin directory.
#[derive(Debug, PartialEq)]
struct Usage {
    descriptors: usize,
    tasks: usize,
    sockets: usize,
}

fn usage(dir: &Path) -> Usage {
    Usage {
        descriptors: descriptors(),
        tasks: alive_tasks(),
        sockets: sockets(dir).len(),
    }
}

#[tokio::test]
async fn kubelet_restarts_leak_nothing() {
    if !run_in_own_process("growth::kubelet_restarts_leak_nothing") {
        return;
    }
    let dir = plugin_dir();
    let mut kubelet = kubelet(dir.path());
    let names = RESOURCES.join(",");
    let manager = Manager::start(
        dir.path(),
        &[("RESOURCE_NAME", &names), ("NUMBER_DEVICES", "3")],
    );
    for resource in RESOURCES {
        wait_for_node(&kubelet, resource, 3, 3).await;
    }
    kubelet
        .admit(&pod("p", &RESOURCES.map(|r| (r, 2))))
        .await
        .expect("admitted");
    let assigned = held(&kubelet, "p");

    let mut after_first = None;
    for _ in 0..RESTARTS {
        kubelet = kubelet.restart().await.expect("a kubelet");
        for resource in RESOURCES {
            wait_for_node(&kubelet, resource, 3, 3).await;
            assert_eq!(registrations(&kubelet, resource), 1);
        }
        after_first.get_or_insert_with(|| usage(dir.path()));
    }
    assert_eq!(held(&kubelet, "p"), assigned);

    // The runtime may still have to poll tasks that the last restart ended.
    let after_first = after_first.expect("a restart");
    until("the tasks to end", || {
        usage(dir.path()).tasks <= after_first.tasks
    })
    .await;
    let after_last = usage(dir.path());
    assert!(
        after_last.descriptors <= after_first.descriptors,
        "{after_first:?} grew to {after_last:?}"
    );
    assert_eq!(after_last.sockets, RESOURCES.len());
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
}

//! 200 restarts of the kubelet leak no task, file descriptor or socket.

use std::path::Path;

use crate::support::process::is_alone;
use crate::support::soak::{alive_tasks, descriptors};
use crate::support::{
    Manager, held, kubelet, plugin_dir, pod, registrations, shows, sockets, until,
};

const RESTARTS: usize = 200;
const RESOURCES: [&str; 3] = ["example.com/a", "example.com/b", "example.com/c"];

/// What this process holds: open file descriptors, live tasks and sockets in the plugin directory.
#[derive(Debug, PartialEq)]
struct Held {
    descriptors: usize,
    tasks: usize,
    sockets: usize,
}

fn count(dir: &Path) -> Held {
    Held {
        descriptors: descriptors(),
        tasks: alive_tasks(),
        sockets: sockets(dir).len(),
    }
}

#[tokio::test]
async fn restarts_leave_nothing_behind() {
    if !is_alone("growth::restarts_leave_nothing_behind") {
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
        shows(&kubelet, resource, 3, 3).await;
    }
    kubelet
        .admit(&pod("p", &RESOURCES.map(|r| (r, 2))))
        .await
        .expect("admitted");
    let assigned = held(&kubelet, "p");

    let mut at_first = None;
    for _ in 0..RESTARTS {
        kubelet = kubelet.restart().await.expect("a new life");
        for resource in RESOURCES {
            shows(&kubelet, resource, 3, 3).await;
            assert_eq!(registrations(&kubelet, resource), 1);
        }
        at_first.get_or_insert_with(|| count(dir.path()));
    }
    assert_eq!(held(&kubelet, "p"), assigned);

    // Tasks that a restart ended may still need a turn of the runtime.
    let at_first = at_first.expect("a restart");
    until("the tasks to end", || {
        count(dir.path()).tasks <= at_first.tasks
    })
    .await;
    let at_last = count(dir.path());
    assert!(
        at_last.descriptors <= at_first.descriptors,
        "{at_first:?} grew to {at_last:?}"
    );
    assert_eq!(at_last.sockets, RESOURCES.len());
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
}

//! Restarts of a simulated kubelet within one process.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{kubelet, plugin_dir};

/// Between fork and exec, a child process has a copy of every socket of its parent, including sockets that the parent
/// closed in the meantime.
#[tokio::test]
async fn restarts_while_other_threads_start_processes() {
    let dir = plugin_dir();
    let mut kubelet = kubelet(dir.path());
    let is_over = Arc::new(AtomicBool::new(false));
    let starting = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::Relaxed) {
                let started = Command::new("true").status();
                assert!(started.is_ok(), "{started:?}");
            }
        }
    });
    for _ in 0..300 {
        kubelet = kubelet.restart().await.expect("a kubelet");
    }
    is_over.store(true, Ordering::Relaxed);
    starting.join().expect("the thread");
}

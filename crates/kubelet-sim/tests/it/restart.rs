//! The restart of a simulated kubelet within one process.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{kubelet, plugin_dir};

/// Between fork and exec a child process holds every socket of its parent, also one that was just closed.
#[tokio::test]
async fn processes_that_start_meanwhile_do_not_keep_the_socket() {
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

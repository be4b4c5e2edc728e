//! Waiting until a plugin binds a new socket.

use std::path::Path;

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use simple_device_plugin::util::file_id::FileVersion;

use super::within;

/// Waits until there is a socket at the path, and it is not the socket `before`.
#[track_caller]
pub fn new_socket(path: &Path, before: Option<FileVersion>) -> impl Future<Output = ()> {
    let inotify = Inotify::init().expect("inotify");
    let dir = path.parent().expect("a directory");
    inotify
        .watches()
        .add(dir, WatchMask::CREATE)
        .expect("a watch");
    let mut events = inotify.into_event_stream([0; 1024]).expect("events");
    within("a new socket", async move {
        loop {
            let now = FileVersion::of_socket(path).expect("no error");
            if now.is_some() && now != before {
                return;
            }
            events.next().await.expect("an event").expect("no error");
        }
    })
}

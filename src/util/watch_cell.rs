//! A shared value whose changes can be awaited.

use tokio::sync::watch;

/// A shared value with change notifications. Clones are handles to the same value.
#[derive(Clone, Debug, Default)]
pub struct WatchCell<T>(watch::Sender<T>);

impl<T> WatchCell<T> {
    pub fn new(value: T) -> Self {
        Self(watch::Sender::new(value))
    }

    /// Returns a read lock on the current value. It blocks every update, so drop it quickly and never hold it across an
    /// await.
    pub fn borrow(&self) -> watch::Ref<'_, T> {
        self.0.borrow()
    }

    /// Returns a read-only receiver, which stays open as long as any handle exists.
    pub fn subscribe(&self) -> watch::Receiver<T> {
        self.0.subscribe()
    }

    /// Changes the value and notifies the receivers.
    pub fn update<R>(&self, update: impl FnOnce(&mut T) -> R) -> R {
        self.apply(update, true)
    }

    /// Changes the value without notifying the receivers.
    pub fn update_silently<R>(&self, update: impl FnOnce(&mut T) -> R) -> R {
        self.apply(update, false)
    }

    /// Replaces the value and notifies the receivers if `next` returns a new value.
    pub fn replace(&self, next: impl FnOnce(&T) -> Option<T>) {
        self.0.send_if_modified(|value| {
            let next = next(value);
            let is_changed = next.is_some();
            if let Some(next) = next {
                *value = next;
            }
            is_changed
        });
    }

    fn apply<R>(&self, update: impl FnOnce(&mut T) -> R, notify: bool) -> R {
        let mut result = None;
        self.0.send_if_modified(|value| {
            result = Some(update(value));
            notify
        });
        result.expect("send_if_modified always calls its closure")
    }
}

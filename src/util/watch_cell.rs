//! A value that one side changes and others follow.

use tokio::sync::watch;

/// The one place where a value changes. A clone is another handle to the same value.
#[derive(Clone, Debug, Default)]
pub struct WatchCell<T>(watch::Sender<T>);

impl<T> WatchCell<T> {
    pub fn new(value: T) -> Self {
        Self(watch::Sender::new(value))
    }

    /// The value as it is now. Nobody can change it while the reference lives: hold it briefly, and never across an await.
    pub fn borrow(&self) -> watch::Ref<'_, T> {
        self.0.borrow()
    }

    /// Follows the value, without a way to change it. The receiver is never closed while a handle lives.
    pub fn subscribe(&self) -> watch::Receiver<T> {
        self.0.subscribe()
    }

    /// Changes the value, and wakes those who follow it.
    pub fn update<R>(&self, update: impl FnOnce(&mut T) -> R) -> R {
        self.apply(update, true)
    }

    /// Changes what nobody waits for, and wakes no one.
    pub fn update_silently<R>(&self, update: impl FnOnce(&mut T) -> R) -> R {
        self.apply(update, false)
    }

    /// Replaces the value, and wakes those who follow it, where `next` returns another one.
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

    fn apply<R>(&self, update: impl FnOnce(&mut T) -> R, wake: bool) -> R {
        let mut result = None;
        self.0.send_if_modified(|value| {
            result = Some(update(value));
            wake
        });
        result.expect("a watch runs the update once")
    }
}

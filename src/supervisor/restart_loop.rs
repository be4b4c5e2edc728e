//! Runs one plugin repeatedly, with a back-off between runs. Only this loop keeps state between runs, counts restarts
//! and logs how runs end.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::fault::Evaluated;
use crate::net::own_socket::BindError;
use crate::node::registration::NoKubelet;
use crate::node::watcher::KubeletSocket;
use crate::offer::Offer;
use crate::offer::resource::Resource;
use crate::plugin::record::{Cause, Record, Step};
use crate::plugin::{Connected, PluginInstance, RunEnd, RunStart};
use crate::supervisor::run_memory::RunMemory;
use crate::util::sanitize::sanitize;

/// Runs one plugin repeatedly until `stop` is canceled.
pub(super) async fn run(plugin: PluginInstance, memory: RunMemory, stop: CancellationToken) {
    let handle = plugin.handle.clone();
    let mut offers = handle.offers();
    let mut attempts = Attempts {
        kubelet: plugin.kubelet.clone(),
        plugin,
        memory,
    };
    while !stop.is_cancelled() {
        let resource = Arc::clone(offers.borrow().resource());
        let (end, restart_cause) = attempts
            .run_until_restart(&resource, &mut offers, &stop)
            .await;
        if stop.is_cancelled() {
            return;
        }
        let pause = attempts.ended(&end, &resource);
        let restart_cause = match restart_cause {
            Some(cause) => Some(cause),
            None => attempts.pause(pause, &resource, &mut offers, &stop).await,
        };
        if let Some(cause) = restart_cause {
            attempts.memory.prepare_restart(cause);
            log_restart(&resource, cause);
            // A restart is counted once, by its first cause.
            if end.cause().is_none() {
                handle.update_record(|record, _| record.restarted(cause));
            }
        }
    }
}

struct Attempts {
    plugin: PluginInstance,
    memory: RunMemory,
    /// The identity of kubelet.sock.
    kubelet: watch::Receiver<KubeletSocket>,
}

impl Attempts {
    /// Runs one attempt. Stops it early if the plugin must restart because of the configuration, or because
    /// the kubelet does not have its devices.
    /// Returns how the attempt ended, and the cause if it was stopped early.
    async fn run_until_restart(
        &mut self,
        resource: &Arc<Resource>,
        offers: &mut watch::Receiver<Arc<Offer>>,
        stop: &CancellationToken,
    ) -> (RunEnd, Option<Cause>) {
        let handle = self.plugin.handle.clone();
        let attempt_stop = stop.child_token();
        let attempt = catch_panic(self.attempt(resource, &attempt_stop));
        tokio::pin!(attempt);
        let restart_cause = tokio::select! {
            end = &mut attempt => return (end, None),
            () = reconfigured(offers, resource) => Cause::Configuration,
            cause = handle.must_restart() => cause,
        };
        attempt_stop.cancel();
        (attempt.await, Some(restart_cause))
    }

    /// Remembers, records and logs how a run ended. Returns the pause before the next run.
    fn ended(&mut self, end: &RunEnd, resource: &Resource) -> Duration {
        self.memory.ended(end);
        let pause = self.memory.pause(end, fastrand::f64());
        self.plugin
            .handle
            .update_record(|record, now| record_run_end(record, end, now));
        log_run_end(resource, end, &mut self.memory, pause);
        pause
    }

    /// Waits for the pause, or less if `stop` is canceled or a new kubelet or configuration appears. Returns the
    /// cause of the restart in the case of a new configuration.
    async fn pause(
        &mut self,
        pause: Duration,
        resource: &Resource,
        offers: &mut watch::Receiver<Arc<Offer>>,
        stop: &CancellationToken,
    ) -> Option<Cause> {
        tokio::select! {
            () = stop.cancelled() => None,
            () = sleep(pause) => None,
            () = new_kubelet_socket(&mut self.kubelet, self.memory.last_kubelet()) => None,
            () = reconfigured(offers, resource) => Some(Cause::Configuration),
        }
    }

    async fn attempt(&mut self, resource: &Arc<Resource>, stop: &CancellationToken) -> RunEnd {
        let mut evaluated = Evaluated::new();
        let connected = tokio::select! {
            connected = self.connect(&mut evaluated) => connected,
            () = stop.cancelled() => return RunEnd::Stopped(None),
        };
        let connected = match connected {
            Ok(connected) => connected,
            Err(error) => return RunEnd::NoKubelet(error),
        };
        let start = RunStart {
            resource: Arc::clone(resource),
            connected,
            settle: self.memory.settle(),
            evaluated,
        };
        self.plugin.run(start, stop).await
    }

    /// Connects to the kubelet when no fault suspends the registration. Each fault is evaluated once per registration.
    async fn connect(&mut self, evaluated: &mut Evaluated) -> Result<Connected, NoKubelet> {
        let handle = self.plugin.handle.clone();
        loop {
            let suspensions = self.memory.suspensions();
            if suspensions
                .iter()
                .any(|by| handle.injector().is_suspended_by(by))
            {
                handle.update_record(|record, now| record.entered(Step::Suspended, now));
                for by in suspensions {
                    handle.injector().suspension_ended(by).await;
                }
            }
            self.memory
                .attempt_started(*self.kubelet.borrow_and_update());
            // Boxed because its memory is needed only for a short time.
            let connected = Box::pin(self.plugin.connect()).await?;
            if let Some(cause) = self.memory.connected(connected.kubelet.identity()) {
                handle.update_record(|record, _| record.restarted(cause));
            }
            // This is the registration that was suspended, so the same faults are not evaluated again.
            evaluated.extend(self.memory.suspensions().iter().map(|by| by.id));
            self.memory
                .set_suspensions(handle.injector().suspend(evaluated));
            if self.memory.suspensions().is_empty() {
                return Ok(connected);
            }
        }
    }
}

/// Waits until the configuration changes something that the kubelet reads only at registration.
async fn reconfigured(offers: &mut watch::Receiver<Arc<Offer>>, resource: &Resource) {
    // Cannot fail: the plugin's handle keeps the sender alive.
    let _ = offers
        .wait_for(|offer| !offer.resource().registers_like(resource))
        .await;
}

/// Waits for a kubelet.sock other than that of the last attempt. Values from before the attempt are ignored, because
/// the attempt may have seen a newer socket than the watch.
async fn new_kubelet_socket(
    kubelet: &mut watch::Receiver<KubeletSocket>,
    last_kubelet: KubeletSocket,
) {
    while kubelet.changed().await.is_ok() {
        let socket = *kubelet.borrow_and_update();
        if socket.is_some() && socket != last_kubelet {
            return;
        }
    }
    // The watcher has ended, so the program will soon end too.
    std::future::pending::<()>().await;
}

fn record_run_end(record: &mut Record, end: &RunEnd, now: SystemTime) {
    if let Some(cause) = end.cause() {
        record.restarted(cause);
    }
    match end {
        RunEnd::Stopped(_) => {}
        RunEnd::StreamEnded(_) | RunEnd::StreamDropped(_) | RunEnd::Suspended(..) => {
            record.stream_ended(end.to_string(), now);
        }
        _ => record.failed(end.to_string(), end.registration(), now),
    }
}

/// Logs one line per run. While the plugin keeps waiting for the same thing, later failures are logged at debug level.
fn log_run_end(resource: &Resource, end: &RunEnd, memory: &mut RunMemory, pause: Duration) {
    let (resource, endpoint) = (&resource.name, &resource.socket);
    let attempt = memory.failures();
    let retry_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    match end {
        RunEnd::Stopped(_) => {}
        RunEnd::StreamEnded(stream) | RunEnd::StreamDropped(stream) => {
            warn!(%resource, seconds = stream.open_for.as_secs(), "{end}; registering again");
        }
        RunEnd::Suspended(stream, _) => {
            warn!(%resource, seconds = stream.open_for.as_secs(), "{end}; registering again when the fault ends");
        }
        RunEnd::Panicked(error) => {
            error!(%resource, error, attempt, retry_ms, "the plugin panicked, please report this bug");
        }
        error => {
            let what = waiting_for(error);
            match (what, memory.is_new_reason(what)) {
                (Some(what), true) => warn!(%resource, %endpoint, %error, "{what}"),
                (Some(what), false) => {
                    debug!(%resource, %endpoint, %error, attempt, retry_ms, "still {what}");
                }
                (None, _) => {
                    warn!(%resource, %endpoint, %error, attempt, retry_ms, "not registered; trying again");
                }
            }
        }
    }
}

/// Returns what the plugin waits for, if the wait can be long.
fn waiting_for(end: &RunEnd) -> Option<&'static str> {
    match end {
        RunEnd::NoKubelet(_) => Some("waiting for the kubelet"),
        RunEnd::NotBound(BindError::Taken) => Some("waiting for the socket"),
        RunEnd::ServedByAnother(_) => Some("waiting for another plugin of the resource to stop"),
        _ => None,
    }
}

fn log_restart(resource: &Resource, cause: Cause) {
    let resource = &resource.name;
    match cause {
        Cause::Checkpoint => {
            warn!(%resource, "the kubelet has no devices of the resource although ListAndWatch is open; registering again");
        }
        Cause::Takeover => {
            info!(%resource, "the plugin that had taken the resource over has stopped; registering again");
        }
        _ => info!(%resource, "the registration options or the socket changed; registering again"),
    }
}

/// Turns a panic of a run into a [`RunEnd`], because a bug in one run must not end the loop.
fn catch_panic(run: impl Future<Output = RunEnd>) -> impl Future<Output = RunEnd> {
    let run = AssertUnwindSafe(run).catch_unwind();
    run.map(|ended| ended.unwrap_or_else(|panic| RunEnd::Panicked(panic_message(&*panic))))
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    sanitize(text.unwrap_or("no message"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::EndedStream;
    use crate::util::file_id::FileVersion;

    /// A watch that lags behind still has the socket from before the attempt, which is not a new kubelet.
    #[tokio::test]
    async fn only_a_socket_seen_after_the_attempt_is_a_new_kubelet() {
        let dir = tempfile::tempdir().unwrap();
        let [old, last_kubelet, new] = ["a", "b", "c"].map(|name| {
            let path = dir.path().join(name);
            std::os::unix::net::UnixListener::bind(&path).unwrap();
            FileVersion::of_socket(&path).unwrap()
        });
        let sockets = watch::Sender::new(old);
        let mut kubelet = sockets.subscribe();
        kubelet.mark_unchanged();
        assert!(
            new_kubelet_socket(&mut kubelet, last_kubelet)
                .now_or_never()
                .is_none()
        );
        for not_new in [last_kubelet, None] {
            sockets.send_replace(not_new);
            assert!(
                new_kubelet_socket(&mut kubelet, last_kubelet)
                    .now_or_never()
                    .is_none()
            );
        }
        sockets.send_replace(new);
        assert!(
            new_kubelet_socket(&mut kubelet, last_kubelet)
                .now_or_never()
                .is_some()
        );
    }

    #[tokio::test]
    async fn a_panic_ends_the_run_with_its_message() {
        let index = 3;
        let panicked = catch_panic(async move { RunEnd::Panicked(["a"][index].to_owned()) });
        let end = panicked.await.to_string();
        assert!(end.contains("out of bounds"), "{end}");
    }

    /// Returns the state, what the plugin waits for, and the restarts by faults and panics, after a run ended this way.
    fn recorded(end: &RunEnd) -> (&'static str, Option<String>, [u64; 2]) {
        let mut record = Record::new(SystemTime::UNIX_EPOCH);
        record.registered(SystemTime::UNIX_EPOCH);
        record_run_end(&mut record, end, SystemTime::UNIX_EPOCH);
        let restarts = [Cause::Fault, Cause::Panic].map(|cause| record.restarts[cause]);
        (record.state(), record.waits_for(), restarts)
    }

    #[test]
    fn records_how_a_run_ended() {
        let stream = EndedStream {
            open_for: Duration::ZERO,
            kubelet: None,
            listed_healthy: false,
        };
        for (end, waits_for, restarts) in [
            (
                RunEnd::StreamEnded(stream),
                "the ListAndWatch stream ended",
                [0, 0],
            ),
            (
                RunEnd::StreamDropped(stream),
                "a stream fault closed ListAndWatch",
                [1, 0],
            ),
            (
                RunEnd::Suspended(stream, Vec::new()),
                "a registration fault closed ListAndWatch",
                [1, 0],
            ),
        ] {
            let expected = Some(format!("registers again: {waits_for}"));
            assert_eq!(recorded(&end), ("waiting", expected, restarts));
        }
        let (state, waits_for, restarts) = recorded(&RunEnd::Panicked("index".to_owned()));
        assert_eq!((state, restarts), ("waiting", [0, 1]));
        assert!(waits_for.is_some_and(|what| what.ends_with("please report this bug: index")));
        assert_eq!(
            recorded(&RunEnd::Stopped(Some(stream))),
            ("registered", None, [0, 0])
        );
    }
}

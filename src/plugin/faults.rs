//! What injected faults do to a plugin.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use crate::fault::handle::FaultHandle;
use crate::fault::{BOUNDS, Delays, Evaluated, FaultId, Flaps, Grant, InjectionPoint, Suspension};

use super::PluginHandle;
use super::outcome::StreamEnd;

/// Each list makes the kubelet write its checkpoint: devices that flap make no more than two a second.
const LISTS_APART: Duration = Duration::from_millis(500);

impl PluginHandle {
    /// What comes before a call is evaluated: a delay, or instead of an answer a refusal. Nobody waits on once it is
    /// `ending`, or all that delays the call are cleared.
    ///
    /// # Errors
    /// The refusal.
    pub(super) async fn before(
        &self,
        point: InjectionPoint,
        ending: &CancellationToken,
    ) -> Result<(), Status> {
        let injected = self.faults.call(point);
        if !injected.delays.is_empty() {
            self.delay(point, &injected.delays, ending).await;
        }
        match injected.refusal {
            // It may have been cleared meanwhile.
            Some((id, refusal)) if self.faults.has(id) => {
                self.injected(point, format_args!("refused with {}", refusal.code));
                Err(Status::new(refusal.code.number().into(), refusal.message))
            }
            _ => Ok(()),
        }
    }

    async fn delay(
        &self,
        point: InjectionPoint,
        delays: &[(FaultId, Duration)],
        ending: &CancellationToken,
    ) {
        let wanted: Duration = delays.iter().map(|(_, delay)| *delay).sum();
        let ids: Vec<FaultId> = delays.iter().map(|(id, _)| *id).collect();
        let _until_answered = Delayed {
            faults: &self.faults,
            ids: &ids,
        };
        let granted = GrantedDelay::new(Arc::clone(&self.delays), wanted);
        let length = granted.grant.length;
        if length < wanted {
            let (resource, fault) = (self.name(), point.as_str());
            warn!(%resource, fault, ?wanted, granted = ?length, "a delay is cut: {BOUNDS}");
        }
        if length.is_zero() {
            return self.faults.take_back(&ids);
        }
        for _ in &ids {
            self.injected(point, format_args!("delayed, in all by {length:?}"));
        }
        tokio::select! {
            () = sleep(length) => {}
            () = ending.cancelled() => {}
            () = self.faults.gone(&ids) => {}
        }
    }

    /// What suspends the next registration.
    pub(super) fn suspend(&self, evaluated: &mut Evaluated) -> Vec<Suspension> {
        let suspensions = self.faults.registration(evaluated);
        for each in &suspensions {
            let how_long = each
                .until
                .map_or("until it is cleared".to_owned(), |until| {
                    format!("for {:.0?}", until.duration_since(Instant::now()))
                });
            self.injected(
                InjectionPoint::Registration,
                format_args!("suspended {how_long}"),
            );
        }
        suspensions
    }

    /// Whether this still suspends a registration.
    pub(super) fn is_suspended_by(&self, by: &Suspension) -> bool {
        by.until.is_none_or(|until| until > Instant::now()) && self.faults.has(by.id)
    }

    /// Waits until this suspends a registration no more.
    pub(super) async fn suspension_ended(&self, suspension: &Suspension) {
        let ids = [suspension.id];
        tokio::select! {
            () = until(suspension.until) => {}
            () = self.faults.gone(&ids) => {}
        }
    }

    /// Waits until a fault ends the open stream. Each is evaluated once for each stream, as soon as it is there.
    pub(super) async fn end_stream(&self, evaluated: &mut Evaluated) -> StreamEnd {
        let mut changes = self.faults.subscribe();
        loop {
            changes.mark_unchanged();
            evaluated.retain(|id| self.faults.has(*id));
            let suspensions = self.suspend(evaluated);
            if !suspensions.is_empty() {
                return StreamEnd::Suspended(suspensions);
            }
            let dropped = self.faults.stream(evaluated);
            for _ in 0..dropped {
                self.injected(InjectionPoint::Stream, format_args!("dropped"));
            }
            if dropped > 0 {
                return StreamEnd::Dropped;
            }
            // Never closed: the handle is ours.
            let _ = changes.changed().await;
        }
    }

    /// Lets devices flap for as long as it is polled.
    pub async fn flap(&self) -> Infallible {
        let mut flaps = Flaps::default();
        let mut changes = self.faults.subscribe();
        loop {
            changes.mark_unchanged();
            let offer = self.offer.now();
            for count in self.faults.flap(&mut flaps, offer.devices()) {
                let devices = if count == 1 {
                    "device becomes"
                } else {
                    "devices become"
                };
                self.injected(
                    InjectionPoint::Health,
                    format_args!("{count} {devices} Unhealthy"),
                );
            }
            self.offer.set_fault_unhealthy(flaps.unhealthy());
            if flaps.next().is_some() {
                sleep(LISTS_APART).await;
            }
            tokio::select! {
                () = until(flaps.next()) => {}
                // Never closed: the handle is ours.
                _ = changes.changed() => {}
            }
        }
    }

    /// Counts and logs an injection.
    fn injected(&self, point: InjectionPoint, how: std::fmt::Arguments) {
        self.note(|record, _| record.injected(point));
        warn!(resource = %self.name(), fault = point.as_str(), "fault injected: {how}");
    }

    fn name(&self) -> String {
        self.offer.now().resource().name.to_string()
    }
}

/// A call that waits, until it is answered or given up.
struct Delayed<'a> {
    faults: &'a FaultHandle,
    ids: &'a [FaultId],
}

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        self.faults.delayed(self.ids);
    }
}

/// A delay that was granted; what is not used is given back, however the call ends.
struct GrantedDelay {
    delays: Arc<Mutex<Delays>>,
    grant: Grant,
}

impl GrantedDelay {
    fn new(delays: Arc<Mutex<Delays>>, wanted: Duration) -> Self {
        let grant = delays.lock().grant(wanted, Instant::now());
        Self { delays, grant }
    }
}

impl Drop for GrantedDelay {
    fn drop(&mut self) {
        self.delays.lock().over(&self.grant, Instant::now());
    }
}

/// That moment, or never.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

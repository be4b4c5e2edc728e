//! What injected faults do to a plugin.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::warn;

use crate::fault::{
    CallInjections, DELAY_LIMITS, Delays, Evaluated, Fault, FaultId, Faults, Flaps, Grant,
    InjectionPoint, Suspension, TooManyFaults,
};
use crate::model::resource_name::ResourceName;
use crate::offer::Offer;
use crate::plugin::record::Record;
use crate::util::watch_cell::WatchCell;

use super::stream::StreamEnd;

/// Each list makes the kubelet write its checkpoint: devices that flap make no more than two a second.
const LISTS_APART: Duration = Duration::from_millis(500);

/// Seeds that are made up are short, to be given again.
const SEEDS: u64 = 1_000_000;

/// Injects the faults of one plugin, counts and logs them. A clone injects the same ones.
#[derive(Clone, Debug)]
pub(crate) struct FaultInjector {
    resource: ResourceName,
    faults: WatchCell<Faults>,
    /// How long calls may be delayed, of all plugins together.
    delays: Arc<Mutex<Delays>>,
    record: WatchCell<Record>,
}

impl FaultInjector {
    /// Without faults.
    pub fn new(
        resource: ResourceName,
        delays: Arc<Mutex<Delays>>,
        record: WatchCell<Record>,
    ) -> Self {
        Self {
            resource,
            faults: WatchCell::default(),
            delays,
            record,
        }
    }

    /// The faults as they are now.
    pub fn faults(&self) -> Faults {
        self.faults.borrow().clone()
    }

    /// Adds a fault at run time; returns it with its seed.
    ///
    /// # Errors
    /// When there are too many.
    pub fn set(&self, fault: Fault) -> Result<Fault, TooManyFaults> {
        let set = |faults: &mut Faults| faults.set(fault, seed()).map(|armed| armed.fault.clone());
        self.faults.update(set)
    }

    /// Replaces the configured faults by others: see [`Faults::configure`].
    pub fn configure(&self, configured: &[Fault]) {
        if self.faults.borrow().are_configured(configured) {
            return;
        }
        let new = self
            .faults
            .update(|faults| faults.configure(configured, seed));
        for fault in new {
            // So that failures can be explained.
            warn!(resource = %self.resource, fault = fault.to_string(), "a fault is configured");
        }
    }

    /// Back to the configured faults, from their beginning.
    pub fn reset(&self) {
        self.faults.update(|faults| faults.reset(seed));
    }

    /// Removes all faults, the configured ones too; returns how many.
    pub fn clear(&self) -> usize {
        self.faults.update(Faults::clear)
    }

    /// What comes before a call is evaluated: a delay, or instead of an answer a refusal. Nobody waits on once it is
    /// `ending`, or all that delays the call are cleared.
    ///
    /// # Errors
    /// The refusal.
    pub async fn before_call(
        &self,
        point: InjectionPoint,
        ending: &CancellationToken,
    ) -> Result<(), Status> {
        let injected = self.call(point);
        if !injected.delays.is_empty() {
            // Boxed: every call would carry its size, and hardly any is delayed.
            Box::pin(self.delay(point, &injected.delays, ending)).await;
        }
        match injected.refusal {
            // It may have been cleared meanwhile.
            Some((id, refusal)) if self.has(id) => {
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
            let (resource, fault) = (&self.resource, point.as_str());
            warn!(%resource, fault, ?wanted, granted = ?length, "a delay is cut: {DELAY_LIMITS}");
        }
        if length.is_zero() {
            return self.faults.update_silently(|faults| faults.uncount(&ids));
        }
        for _ in &ids {
            self.injected(point, format_args!("delayed, in all by {length:?}"));
        }
        tokio::select! {
            () = sleep(length) => {}
            () = ending.cancelled() => {}
            () = self.gone(&ids) => {}
        }
    }

    /// What suspends the next registration.
    pub(crate) fn suspend(&self, evaluated: &mut Evaluated) -> Vec<Suspension> {
        let suspensions = self
            .faults
            .update_silently(|faults| faults.registration(evaluated, Instant::now()));
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
    pub(crate) fn is_suspended_by(&self, by: &Suspension) -> bool {
        by.until.is_none_or(|until| until > Instant::now()) && self.has(by.id)
    }

    /// Waits until this suspends a registration no more.
    pub(crate) async fn suspension_ended(&self, suspension: &Suspension) {
        let ids = [suspension.id];
        tokio::select! {
            () = until(suspension.until) => {}
            () = self.gone(&ids) => {}
        }
    }

    /// Waits until a fault ends the open stream. Each is evaluated once for each stream, as soon as it is there.
    pub(super) async fn end_stream(&self, evaluated: &mut Evaluated) -> StreamEnd {
        let mut changes = self.faults.subscribe();
        loop {
            changes.mark_unchanged();
            evaluated.retain(|id| self.has(*id));
            let suspensions = self.suspend(evaluated);
            if !suspensions.is_empty() {
                return StreamEnd::Suspended(suspensions);
            }
            let dropped = self
                .faults
                .update_silently(|faults| faults.stream(evaluated));
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

    /// Lets devices of this offer flap for as long as it is polled.
    pub async fn flap(&self, offer: &WatchCell<Arc<Offer>>) -> Infallible {
        let mut flaps = Flaps::default();
        let mut changes = self.faults.subscribe();
        loop {
            changes.mark_unchanged();
            let devices = Arc::clone(offer.borrow().devices());
            let injected = self
                .faults
                .update_silently(|faults| flaps.advance(faults, Instant::now(), &devices));
            for count in injected {
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
            offer.set_fault_unhealthy(flaps.unhealthy());
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

    /// Evaluates a call of an RPC.
    fn call(&self, point: InjectionPoint) -> CallInjections {
        if !self.faults.borrow().has_fault_on(point) {
            return CallInjections::default();
        }
        self.faults.update_silently(|faults| faults.call(point))
    }

    /// Whether this fault is still there.
    fn has(&self, id: FaultId) -> bool {
        self.faults.borrow().has(id)
    }

    /// Waits until none of these faults is there any more.
    async fn gone(&self, ids: &[FaultId]) {
        let mut faults = self.faults.subscribe();
        let gone = faults.wait_for(|faults| !ids.iter().any(|id| faults.has(*id)));
        // Never closed: the handle is ours.
        drop(gone.await);
    }

    /// Counts and logs an injection.
    fn injected(&self, point: InjectionPoint, how: std::fmt::Arguments) {
        self.record.update(|record| record.injected(point));
        warn!(resource = %self.resource, fault = point.as_str(), "fault injected: {how}");
    }
}

/// A call that waits, until it is answered or given up.
struct Delayed<'a> {
    faults: &'a WatchCell<Faults>,
    ids: &'a [FaultId],
}

impl Drop for Delayed<'_> {
    fn drop(&mut self) {
        self.faults
            .update_silently(|faults| faults.delay_ended(self.ids));
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
        self.delays.lock().end(&self.grant, Instant::now());
    }
}

/// That moment, or never.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

fn seed() -> u64 {
    fastrand::u64(..SEEDS)
}

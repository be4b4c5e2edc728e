//! Injects the faults of one plugin into its calls, its stream, its registration and the health of its devices.

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

/// Every list makes the kubelet write its checkpoint, so health faults send at most two lists per second.
const LIST_INTERVAL_MIN: Duration = Duration::from_millis(500);

/// Random seeds have at most six digits, so that users can easily repeat them.
const SEED_LIMIT: u64 = 1_000_000;

/// Injects, counts and logs the faults of one plugin. Clones share the same faults.
#[derive(Clone, Debug)]
pub(crate) struct FaultInjector {
    resource: ResourceName,
    faults: WatchCell<Faults>,
    /// The delay budget that all plugins share.
    delays: Arc<Mutex<Delays>>,
    record: WatchCell<Record>,
}

impl FaultInjector {
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

    pub fn faults(&self) -> Faults {
        self.faults.borrow().clone()
    }

    /// Adds a fault at run time and returns it. If it has a probability, it has a seed, which may be random.
    ///
    /// # Errors
    /// Returns an error if the resource already has too many faults.
    pub fn set(&self, fault: Fault) -> Result<Fault, TooManyFaults> {
        let set = |faults: &mut Faults| {
            faults
                .set(fault, random_seed())
                .map(|armed| armed.fault.clone())
        };
        self.faults.update(set)
    }

    /// Replaces the configured faults; see [`Faults::configure`].
    pub fn configure(&self, configured: &[Fault]) {
        if self.faults.borrow().are_configured(configured) {
            return;
        }
        let new = self
            .faults
            .update(|faults| faults.configure(configured, random_seed));
        for fault in new {
            // A warning, because the fault explains failures later in the log.
            warn!(resource = %self.resource, fault = fault.to_string(), "a fault is configured");
        }
    }

    /// Restores the configured faults with new counts and removes all others.
    pub fn reset(&self) {
        self.faults.update(|faults| faults.reset(random_seed));
    }

    /// Removes all faults, including the configured ones, and returns their number.
    pub fn clear(&self) -> usize {
        self.faults.update(Faults::clear)
    }

    /// Injects the faults of a call before the call is handled. A delay ends early when `stopping` is canceled or when
    /// all faults that delay the call are cleared.
    ///
    /// # Errors
    /// Returns the injected error, if any.
    pub async fn before_call(
        &self,
        point: InjectionPoint,
        stopping: &CancellationToken,
    ) -> Result<(), Status> {
        let injected = self.evaluate_call(point);
        if !injected.delays.is_empty() {
            // Boxed to keep the futures of all other calls small: few calls are delayed.
            Box::pin(self.delay(point, &injected.delays, stopping)).await;
        }
        match injected.error {
            // The fault may have been cleared during the delay.
            Some((id, error)) if self.has(id) => {
                self.count_injection(point, format_args!("call failed with {}", error.code));
                Err(Status::new(error.code.number().into(), error.message))
            }
            _ => Ok(()),
        }
    }

    async fn delay(
        &self,
        point: InjectionPoint,
        delays: &[(FaultId, Duration)],
        stopping: &CancellationToken,
    ) {
        let requested: Duration = delays.iter().map(|(_, delay)| *delay).sum();
        let ids: Vec<FaultId> = delays.iter().map(|(id, _)| *id).collect();
        let _delayed_call = DelayedCall {
            faults: &self.faults,
            ids: &ids,
        };
        let granted = GrantedDelay::new(Arc::clone(&self.delays), requested);
        let length = granted.grant.length;
        if length < requested {
            let (resource, fault) = (&self.resource, point.as_str());
            warn!(%resource, fault, ?requested, granted = ?length, "the injected delay is shortened: {DELAY_LIMITS}");
        }
        if length.is_zero() {
            return self
                .faults
                .update_silently(|faults| faults.undo_injections(&ids));
        }
        for _ in &ids {
            self.count_injection(point, format_args!("call delayed by {length:?} in total"));
        }
        tokio::select! {
            () = sleep(length) => {}
            () = stopping.cancelled() => {}
            () = self.cleared(&ids) => {}
        }
    }

    /// Evaluates the registration faults. Returns those that suspend the next registration.
    pub(crate) fn suspend(&self, evaluated: &mut Evaluated) -> Vec<Suspension> {
        let suspensions = self
            .faults
            .update_silently(|faults| faults.inject_registration(evaluated, Instant::now()));
        for suspension in &suspensions {
            let duration = suspension
                .until
                .map_or("until it is cleared".to_owned(), |until| {
                    format!("for {:.0?}", until.duration_since(Instant::now()))
                });
            self.count_injection(
                InjectionPoint::Registration,
                format_args!("registration suspended {duration}"),
            );
        }
        suspensions
    }

    /// Returns whether this suspension is still in effect.
    pub(crate) fn is_suspended_by(&self, suspension: &Suspension) -> bool {
        suspension.until.is_none_or(|until| until > Instant::now()) && self.has(suspension.id)
    }

    /// Waits until the suspension expires or its fault is cleared.
    pub(crate) async fn suspension_ended(&self, suspension: &Suspension) {
        let ids = [suspension.id];
        tokio::select! {
            () = sleep_until_some(suspension.until) => {}
            () = self.cleared(&ids) => {}
        }
    }

    /// Waits until a fault ends the open stream. Each fault is evaluated once per stream, as soon as it is set.
    pub(super) async fn until_stream_fault(&self, evaluated: &mut Evaluated) -> StreamEnd {
        let mut changes = self.faults.subscribe();
        loop {
            changes.mark_unchanged();
            evaluated.retain(|id| self.has(*id));
            let suspensions = self.suspend(evaluated);
            if !suspensions.is_empty() {
                return StreamEnd::Suspended(suspensions);
            }
            let closed = self
                .faults
                .update_silently(|faults| faults.inject_stream(evaluated));
            for _ in 0..closed {
                self.count_injection(InjectionPoint::Stream, format_args!("stream closed"));
            }
            if closed > 0 {
                return StreamEnd::Dropped;
            }
            // Cannot fail: `self` keeps the sender alive.
            let _ = changes.changed().await;
        }
    }

    /// Applies the health faults to the offer's devices for as long as the future is polled.
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
                self.count_injection(
                    InjectionPoint::Health,
                    format_args!("{count} {devices} Unhealthy"),
                );
            }
            offer.set_fault_unhealthy(flaps.unhealthy());
            if flaps.next().is_some() {
                sleep(LIST_INTERVAL_MIN).await;
            }
            tokio::select! {
                () = sleep_until_some(flaps.next()) => {}
                // Cannot fail: `self` keeps the sender alive.
                _ = changes.changed() => {}
            }
        }
    }

    fn evaluate_call(&self, point: InjectionPoint) -> CallInjections {
        if !self.faults.borrow().has_fault_on(point) {
            return CallInjections::default();
        }
        self.faults
            .update_silently(|faults| faults.inject_call(point))
    }

    fn has(&self, id: FaultId) -> bool {
        self.faults.borrow().has(id)
    }

    /// Waits until all of these faults are cleared or replaced.
    async fn cleared(&self, ids: &[FaultId]) {
        let mut faults = self.faults.subscribe();
        let gone = faults.wait_for(|faults| !ids.iter().any(|id| faults.has(*id)));
        // Cannot fail: `self` keeps the sender alive.
        drop(gone.await);
    }

    fn count_injection(&self, point: InjectionPoint, how: std::fmt::Arguments) {
        self.record.update(|record| record.injected(point));
        warn!(resource = %self.resource, fault = point.as_str(), "fault injected: {how}");
    }
}

/// Marks a call as delayed. Dropped when the delay ends or the kubelet cancels the call.
struct DelayedCall<'a> {
    faults: &'a WatchCell<Faults>,
    ids: &'a [FaultId],
}

impl Drop for DelayedCall<'_> {
    fn drop(&mut self) {
        self.faults
            .update_silently(|faults| faults.delay_ended(self.ids));
    }
}

/// A granted part of the delay budget. Dropping it returns the unused part.
struct GrantedDelay {
    delays: Arc<Mutex<Delays>>,
    grant: Grant,
}

impl GrantedDelay {
    fn new(delays: Arc<Mutex<Delays>>, requested: Duration) -> Self {
        let grant = delays.lock().grant(requested, Instant::now());
        Self { delays, grant }
    }
}

impl Drop for GrantedDelay {
    fn drop(&mut self) {
        self.delays.lock().end(&self.grant, Instant::now());
    }
}

/// Sleeps until the given time; forever if there is none.
async fn sleep_until_some(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

fn random_seed() -> u64 {
    fastrand::u64(..SEED_LIMIT)
}

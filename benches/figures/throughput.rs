//! Allocate with many calls in flight over one connection, against the floor. Servers and caller share a processor, as for
//! the calls one after the other.

use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use simple_device_plugin::api::allocation_of;

use crate::Result;
use crate::allocate::{Called, MeasuredManager};
use crate::empty_service;
use crate::processor::OneProcessor;
use crate::program::{Load, Outputs, Views};
use crate::table::Figure;

const IN_FLIGHT: usize = 32;

/// Calls in turn, so that what else the machine does hits both alike.
const ROUNDS: usize = 200;
const CALLS: usize = 640;

/// How long each round took, and each call.
#[derive(Default)]
struct Took {
    rounds: Vec<Duration>,
    calls: Vec<Duration>,
}

impl Took {
    /// The calls of a second, in the median of all rounds.
    #[expect(clippy::cast_precision_loss, reason = "some hundred calls")]
    fn per_second(&mut self) -> f64 {
        self.rounds.sort();
        CALLS as f64 / self.rounds[ROUNDS / 2].as_secs_f64()
    }

    fn percentile_99(&mut self) -> Duration {
        self.calls.sort();
        self.calls[self.calls.len() * 99 / 100]
    }
}

/// Makes the calls of a round, with [`IN_FLIGHT`] of them in flight.
async fn round(called: &Called, took: &mut Took) -> Result<()> {
    let call = || {
        let mut client = called.client.clone();
        let request = allocation_of(vec![called.device.clone()]);
        async move {
            let since = Instant::now();
            client.allocate(request).await.map(|_| since.elapsed())
        }
    };
    let began = Instant::now();
    let mut in_flight: FuturesUnordered<_> = (0..IN_FLIGHT).map(|_| call()).collect();
    let mut left = CALLS - IN_FLIGHT;
    while let Some(call_took) = in_flight.next().await {
        took.calls.push(call_took?);
        if left > 0 {
            left -= 1;
            in_flight.push(call());
        }
    }
    took.rounds.push(began.elapsed());
    Ok(())
}

pub async fn measure(program: &std::path::Path) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir()?;
    // Inherited by whoever is started from here on.
    let _shared = OneProcessor::share()?;
    let load = Load {
        resources: 1,
        devices: 2,
        outputs: Outputs::None,
        views: Views::On(0),
    };
    let manager = MeasuredManager::start(program, &dir.path().join("manager"), load).await?;
    let socket = dir.path().join("floor.sock");
    let _floor = empty_service::start(&socket)?;
    let floor = Called::dial(&socket, "gpu-worker-1").await?;
    let (mut ours, mut empty) = (Took::default(), Took::default());
    for _ in 0..ROUNDS {
        round(&manager.called, &mut ours).await?;
        round(&floor, &mut empty).await?;
    }
    let (rate, floor_rate) = (ours.per_second(), empty.per_second());
    let how = format!("{rate:.0}, an empty service {floor_rate:.0}");
    let rate = Figure::at_least(
        "Allocate per second, 32 in flight",
        rate / floor_rate,
        0.9,
        "×",
    );
    let (slow, floor_slow) = (ours.percentile_99(), empty.percentile_99());
    let slow_how = format!(
        "{} µs, an empty service {} µs",
        slow.as_micros(),
        floor_slow.as_micros()
    );
    let slow = slow.as_secs_f64() / floor_slow.as_secs_f64();
    let slow = Figure::new("Allocate, 32 in flight, 99th percentile", slow, 1.15, "×");
    Ok(vec![rate.how(&how), slow.how(&slow_how)])
}

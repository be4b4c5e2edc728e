//! What a person sees of one kubelet after another: events as they come, the node when it has settled.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use futures_util::future::OptionFuture;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::{interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::view;
use crate::print;
use crate::screen::Screen;
use kubelet_sim::{Crash, Event, Kubelet, NodeResources};

/// The node's table is printed so long after a change, with whatever changed meanwhile.
const NODE_SETTLE_TIME: Duration = Duration::from_millis(200);

/// A screen on which a kubelet is followed.
pub struct Session<'a, W: Write> {
    pub out: &'a mut Screen<W>,
    stop: CancellationToken,
    started: Instant,
    events: broadcast::Receiver<Event>,
    node: watch::Receiver<NodeResources>,
    crashed: watch::Receiver<Option<Crash>>,
    /// The node changed after its table was printed, and is settled then.
    settled: Option<Instant>,
}

impl<'a, W: Write> Session<'a, W> {
    pub fn new(out: &'a mut Screen<W>, kubelet: &Kubelet, stop: CancellationToken) -> Self {
        Self {
            out,
            stop,
            started: Instant::now(),
            events: kubelet.events(),
            node: kubelet.node(),
            crashed: kubelet.crashed(),
            settled: None,
        }
    }

    /// From here on this kubelet, which has just started, is shown.
    pub fn set_kubelet(&mut self, kubelet: &Kubelet) {
        self.started = Instant::now();
        self.events = kubelet.events();
        self.node = kubelet.node();
        self.crashed = kubelet.crashed();
        self.settled = Some(Instant::now() + NODE_SETTLE_TIME);
    }

    /// Prints a line with the time since the kubelet's start.
    pub fn print_line(&mut self, text: &str) -> io::Result<()> {
        view::print_line(self.out, self.started.elapsed(), text)
    }

    /// Shows what happens until the work is done; `None` where the stop or a crash came first. What is waited for
    /// is told once a second, where there is a word for it.
    pub async fn until<T>(
        &mut self,
        waiting_for: Option<&str>,
        work: impl Future<Output = T>,
    ) -> io::Result<Option<T>> {
        let began = Instant::now();
        let mut second = interval(Duration::from_secs(1));
        second.reset();
        tokio::pin!(work);
        loop {
            self.out.flush()?;
            let settled = OptionFuture::from(self.settled.map(|at| sleep_until(at.into())));
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = crash(self.crashed.clone()) => return Ok(None),
                done = &mut work => return Ok(Some(done)),
                Some(event) = next(&mut self.events) => self.show(&event)?,
                Ok(()) = self.node.changed() => {
                    self.settled.get_or_insert_with(|| Instant::now() + NODE_SETTLE_TIME);
                }
                Some(()) = settled => self.show_node()?,
                _ = second.tick(), if waiting_for.is_some() => {
                    let (what, seconds) = (waiting_for.unwrap_or_default(), began.elapsed().as_secs());
                    self.out.show_progress(format_args!("waiting {seconds} s for {what}"))?;
                }
            }
        }
    }

    fn show(&mut self, event: &Result<Event, MissedEvents>) -> io::Result<()> {
        match event {
            Ok(event) => view::print_event(self.out, self.started.elapsed(), event),
            Err(MissedEvents(count)) => self.print_line(&format!("{count} events more")),
        }
    }

    /// Prints the node's table as a paragraph of its own.
    fn show_node(&mut self) -> io::Result<()> {
        self.settled = None;
        if self.node.borrow().is_empty() {
            return Ok(());
        }
        writeln!(self.out)?;
        self.print_node()?;
        writeln!(self.out)
    }

    /// Prints the node's table, which needs no other until the node changes.
    pub fn print_node(&mut self) -> io::Result<()> {
        self.settled = None;
        print::print_node(self.out, &self.node.borrow_and_update())
    }
}

/// Waits until the kubelet has crashed.
async fn crash(mut crashed: watch::Receiver<Option<Crash>>) {
    if crashed.wait_for(Option::is_some).await.is_err() {
        // It ended otherwise.
        std::future::pending::<()>().await;
    }
}

/// So many events came faster than they could be shown.
struct MissedEvents(u64);

/// The next event; `None` when the kubelet is gone, and with it all that could be shown.
async fn next(events: &mut broadcast::Receiver<Event>) -> Option<Result<Event, MissedEvents>> {
    match events.recv().await {
        Ok(event) => Some(Ok(event)),
        Err(RecvError::Lagged(missed)) => Some(Err(MissedEvents(missed))),
        Err(RecvError::Closed) => None,
    }
}

//! The output of the prompt: the kubelet's events as they arrive, and the node's table after its changes.

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

/// The delay between a change of the node and the output of its table, so that one table shows several changes.
const NODE_SETTLE_TIME: Duration = Duration::from_millis(200);

/// Shows a kubelet on a screen, and the kubelets that replace it after a restart.
pub(crate) struct Session<'a, W: Write> {
    pub(crate) out: &'a mut Screen<W>,
    stop: CancellationToken,
    started: Instant,
    events: broadcast::Receiver<Event>,
    node: watch::Receiver<NodeResources>,
    crashed: watch::Receiver<Option<Crash>>,
    /// When to print the node's table; `None` if the node has not changed since the last print.
    print_node_at: Option<Instant>,
}

impl<'a, W: Write> Session<'a, W> {
    pub(crate) fn new(out: &'a mut Screen<W>, kubelet: &Kubelet, stop: CancellationToken) -> Self {
        Self {
            out,
            stop,
            started: Instant::now(),
            events: kubelet.events(),
            node: kubelet.node(),
            crashed: kubelet.crashed(),
            print_node_at: None,
        }
    }

    /// Switches to this kubelet, which has just started.
    pub(crate) fn set_kubelet(&mut self, kubelet: &Kubelet) {
        self.started = Instant::now();
        self.events = kubelet.events();
        self.node = kubelet.node();
        self.crashed = kubelet.crashed();
        self.print_node_at = Some(Instant::now() + NODE_SETTLE_TIME);
    }

    /// Prints a line with the time since the kubelet's start.
    pub(crate) fn print_line(&mut self, text: &str) -> io::Result<()> {
        view::print_line(self.out, self.started.elapsed(), text)
    }

    /// Runs a future, and shows the kubelet's events until it completes. Returns `None` if the program stops or the
    /// kubelet crashes first. The progress line shows `waiting_for` and is updated once a second.
    pub(crate) async fn run_until<T>(
        &mut self,
        waiting_for: Option<&str>,
        future: impl Future<Output = T>,
    ) -> io::Result<Option<T>> {
        let start = Instant::now();
        let mut second = interval(Duration::from_secs(1));
        second.reset();
        tokio::pin!(future);
        loop {
            self.out.flush()?;
            let settled = OptionFuture::from(self.print_node_at.map(|at| sleep_until(at.into())));
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                () = crashed(self.crashed.clone()) => return Ok(None),
                output = &mut future => return Ok(Some(output)),
                Some(event) = next_event(&mut self.events) => self.print_event(&event)?,
                Ok(()) = self.node.changed() => {
                    if self.print_node_at.is_none() {
                        self.print_node_at = Some(Instant::now() + NODE_SETTLE_TIME);
                    }
                }
                Some(()) = settled => self.print_node_paragraph()?,
                _ = second.tick(), if waiting_for.is_some() => {
                    let (what, seconds) = (waiting_for.unwrap_or_default(), start.elapsed().as_secs());
                    self.out.show_progress(format_args!("waiting for {what}, {seconds} s"))?;
                }
            }
        }
    }

    fn print_event(&mut self, event: &Result<Event, MissedEvents>) -> io::Result<()> {
        match event {
            Ok(event) => view::print_event(self.out, self.started.elapsed(), event),
            Err(MissedEvents(count)) => self.print_line(&format!("{count} events not shown")),
        }
    }

    /// Prints the node's table between blank lines.
    fn print_node_paragraph(&mut self) -> io::Result<()> {
        self.print_node_at = None;
        if self.node.borrow().is_empty() {
            return Ok(());
        }
        writeln!(self.out)?;
        self.print_node()?;
        writeln!(self.out)
    }

    /// Prints the node's table now, so that it is not printed again until the node changes.
    pub(crate) fn print_node(&mut self) -> io::Result<()> {
        self.print_node_at = None;
        // Cloned, because blocked output must not hold the lock, for which the kubelet waits.
        let node = self.node.borrow_and_update().clone();
        print::print_node(self.out, &node)
    }
}

/// Waits until the kubelet has crashed.
async fn crashed(mut crash: watch::Receiver<Option<Crash>>) {
    if crash.wait_for(Option::is_some).await.is_err() {
        // The kubelet was dropped without a crash.
        std::future::pending::<()>().await;
    }
}

/// The number of events that were dropped because they arrived faster than they could be shown.
struct MissedEvents(u64);

/// Waits for the next event. Returns `None` if the kubelet was dropped.
async fn next_event(
    events: &mut broadcast::Receiver<Event>,
) -> Option<Result<Event, MissedEvents>> {
    match events.recv().await {
        Ok(event) => Some(Ok(event)),
        Err(RecvError::Lagged(missed)) => Some(Err(MissedEvents(missed))),
        Err(RecvError::Closed) => None,
    }
}

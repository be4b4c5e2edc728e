//! The way back after a kubelet restart and a lost stream.

use std::path::Path;
use std::time::{Duration, Instant};

use kubelet_sim::{Kubelet, KubeletSettings};
use tokio::time::timeout;

use crate::Result;
use crate::program::{DEADLINE, Load, Outputs, Views, name};
use crate::table::{Figure, TIMES, median, ms};

/// How long there is no kubelet.
const AWAY: Duration = Duration::from_secs(2);

pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    Ok(vec![
        restarts(program, of(1, 100), 50.0).await?,
        restarts(program, of(100, 2), 200.0).await?,
        restarts(program, of(100, 100), 300.0).await?,
        lost_stream(program).await?,
    ])
}

const fn of(resources: usize, devices: usize) -> Load {
    Load {
        resources,
        devices,
        outputs: Outputs::All,
        views: Views::On(0),
    }
}

/// From just before the new kubelet.sock to every resource whole.
async fn restarts(program: &Path, load: Load, target: f64) -> Result<Figure> {
    let dir = tempfile::tempdir()?;
    let (mut kubelet, _running) = load.running(program, dir.path()).await?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        kubelet.stop().await;
        // A real one is not back at once.
        tokio::time::sleep(AWAY).await;
        let since = Instant::now();
        kubelet = Kubelet::start(KubeletSettings::new(dir.path()))?;
        load.whole(&kubelet).await?;
        took.push(ms(since.elapsed()));
    }
    let (resources, devices) = (load.resources, load.devices);
    let what = format!("Back after a kubelet restart, {resources} × {devices} devices");
    Ok(Figure::new(&what, median(took), target, "ms"))
}

/// From the break of the connection to the resource whole again.
async fn lost_stream(program: &Path) -> Result<Figure> {
    let load = of(1, 100);
    let dir = tempfile::tempdir()?;
    let (mut kubelet, _running) = load.running(program, dir.path()).await?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        // Under a new kubelet, so that no back-off is left from the loss before.
        kubelet = kubelet.restart().await?;
        load.whole(&kubelet).await?;
        let mut node = kubelet.node();
        let since = Instant::now();
        assert!(kubelet.disconnect_plugin(&name(0)), "there is a stream");
        let lost = node.wait_for(|node| node[&name(0)].allocatable == 0);
        timeout(DEADLINE, lost).await??;
        load.whole(&kubelet).await?;
        took.push(ms(since.elapsed()));
    }
    let what = "Back after a lost stream, 1 × 100 devices";
    Ok(Figure::new(what, median(took), 1_000.0, "ms"))
}

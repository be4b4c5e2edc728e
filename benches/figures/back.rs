//! The time until all resources are allocatable again after a kubelet restart, a lost stream or a restart of the daemon.

use std::path::Path;
use std::time::{Duration, Instant};

use kubelet_sim::{Kubelet, KubeletSettings};
use tokio::time::timeout;

use crate::Result;
use crate::program::{DEADLINE, Load, Outputs, Views, name};
use crate::table::{Figure, TIMES, median, ms};

/// How long the kubelet is stopped before it restarts.
const DOWNTIME: Duration = Duration::from_secs(2);

/// How long a stream is open before it is lost. After a shorter time, the plugin does not rely on the kubelet's list of
/// healthy devices.
const UPTIME: Duration = Duration::from_millis(1200);

pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    Ok(vec![
        restarts(program, load(1, 100), 50.0).await?,
        restarts(program, load(100, 2), 200.0).await?,
        restarts(program, load(100, 100), 300.0).await?,
        lost_stream(program).await?,
        restarted_daemon(program).await?,
    ])
}

const fn load(resources: usize, devices: usize) -> Load {
    Load {
        resources,
        devices,
        outputs: Outputs::All,
        views: Views::On(0),
    }
}

/// Measures from just before the new kubelet starts until all resources are allocatable.
async fn restarts(program: &Path, load: Load, target: f64) -> Result<Figure> {
    let dir = tempfile::tempdir()?;
    let (mut kubelet, _running) = load.running(program, dir.path()).await?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        kubelet.stop().await;
        // A real kubelet takes some time to restart.
        tokio::time::sleep(DOWNTIME).await;
        let since = Instant::now();
        kubelet = Kubelet::start(KubeletSettings::new(dir.path()))?;
        load.wait_until_allocatable(&kubelet).await?;
        took.push(ms(since.elapsed()));
    }
    let (resources, devices) = (load.resources, load.devices);
    let what = format!("Back after a kubelet restart, {resources} × {devices} devices");
    Ok(Figure::at_most(&what, median(took), target, "ms"))
}

/// Measures from the end of the connection until the resource is allocatable again.
async fn lost_stream(program: &Path) -> Result<Figure> {
    let load = load(1, 100);
    let dir = tempfile::tempdir()?;
    let (mut kubelet, _running) = load.running(program, dir.path()).await?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        // A new kubelet resets the back-off of the previous loss.
        kubelet = kubelet.restart().await?;
        load.wait_until_allocatable(&kubelet).await?;
        tokio::time::sleep(UPTIME).await;
        let since = Instant::now();
        assert!(
            kubelet.disconnect_plugin(&name(0)),
            "no plugin is connected"
        );
        wait_until_lost(&kubelet).await?;
        load.wait_until_allocatable(&kubelet).await?;
        took.push(ms(since.elapsed()));
    }
    let what = "Back after a lost stream, 1 × 100 devices";
    Ok(Figure::at_most(what, median(took), 60.0, "ms"))
}

/// Measures from the end of the daemon's process, after which the next one starts at once.
async fn restarted_daemon(program: &Path) -> Result<Figure> {
    let load = load(1, 100);
    let dir = tempfile::tempdir()?;
    let (kubelet, mut running) = load.running(program, dir.path()).await?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        tokio::time::sleep(UPTIME).await;
        let since = Instant::now();
        drop(running);
        running = load.start(program, dir.path())?;
        wait_until_lost(&kubelet).await?;
        load.wait_until_allocatable(&kubelet).await?;
        took.push(ms(since.elapsed()));
    }
    let what = "Back after a restart of the daemon, 1 × 100";
    Ok(Figure::at_most(what, median(took), 100.0, "ms"))
}

/// Waits until no device of the first resource is allocatable.
async fn wait_until_lost(kubelet: &Kubelet) -> Result<()> {
    let mut node = kubelet.node();
    let lost = node.wait_for(|node| node[&name(0)].allocatable == 0);
    timeout(DEADLINE, lost).await??;
    Ok(())
}

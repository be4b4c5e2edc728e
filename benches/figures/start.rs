//! From start to all lists received, the memory it takes, and the way back after trouble.

use std::path::Path;
use std::time::{Duration, Instant};

use simple_device_plugin::kubelet::{Kubelet, Settings};

use crate::Result;
use crate::program::{Load, Running, name};
use crate::table::Figure;

/// A figure is the median of so many.
const TIMES: usize = 7;

pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (resources, devices, start, resident) in [
        (100, 100, Some(300.0), 12.0),
        (100, 1_000, Some(1_000.0), 32.0),
        (1, 50_000, None, 32.0),
    ] {
        let load = Load { resources, devices };
        let load_name = format!("{resources} × {devices} devices");
        let (mut took, mut resides) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            let dir = tempfile::tempdir()?;
            let kubelet = Kubelet::start(Settings::new(dir.path()))?;
            let since = Instant::now();
            let running = load.start(program, dir.path())?;
            load.whole(&kubelet).await?;
            took.push(ms(since.elapsed()));
            tokio::time::sleep(Duration::from_millis(500)).await;
            resides.push(running.resident()?);
        }
        if let Some(start) = start {
            let what = format!("Start to all lists, {load_name}");
            figures.push(Figure::new(&what, median(took), start, "ms"));
        }
        let what = format!("Resident, {load_name}");
        figures.push(Figure::new(&what, median(resides), resident, "MiB"));
    }
    figures.push(restarts(program, 1, 50.0).await?);
    figures.push(restarts(program, 100, 300.0).await?);
    figures.push(lost_stream(program).await?);
    Ok(figures)
}

async fn running(program: &Path, dir: &Path, load: Load) -> Result<(Kubelet, Running)> {
    let kubelet = Kubelet::start(Settings::new(dir))?;
    let running = load.start(program, dir)?;
    load.whole(&kubelet).await?;
    Ok((kubelet, running))
}

/// From just before the new kubelet.sock to every resource whole.
async fn restarts(program: &Path, resources: usize, target: f64) -> Result<Figure> {
    let load = Load {
        resources,
        devices: 100,
    };
    let dir = tempfile::tempdir()?;
    let (mut kubelet, _running) = running(program, dir.path(), load).await?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        kubelet.stop().await;
        let since = Instant::now();
        kubelet = Kubelet::start(Settings::new(dir.path()))?;
        load.whole(&kubelet).await?;
        took.push(ms(since.elapsed()));
    }
    let what = format!("Back after a kubelet restart, {resources} × 100 devices");
    Ok(Figure::new(&what, median(took), target, "ms"))
}

/// From the break of the connection to the resource whole again.
async fn lost_stream(program: &Path) -> Result<Figure> {
    let load = Load {
        resources: 1,
        devices: 100,
    };
    let dir = tempfile::tempdir()?;
    let (kubelet, _running) = running(program, dir.path(), load).await?;
    let mut took = Vec::new();
    for _ in 0..TIMES {
        let mut node = kubelet.node();
        let since = Instant::now();
        kubelet.lose_stream(&name(0));
        node.wait_for(|node| node[&name(0)].allocatable == 0)
            .await?;
        load.whole(&kubelet).await?;
        took.push(ms(since.elapsed()));
    }
    let what = "Back after a lost stream, 1 × 100 devices";
    Ok(Figure::new(what, median(took), 1_000.0, "ms"))
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

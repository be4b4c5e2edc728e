//! The time from the daemon's start until the kubelet has received all lists, and the daemon's memory after that.

use std::path::Path;
use std::time::{Duration, Instant};

use kubelet_sim::{Kubelet, KubeletSettings};

use crate::Result;
use crate::program::{Load, Outputs, Views};
use crate::table::{Figure, TIMES, median, ms};

pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (resources, devices, start, resident) in [
        (100, 100, Some(300.0), 12.0),
        (100, 1_000, Some(1_000.0), 32.0),
        (1, 50_000, None, 32.0),
    ] {
        let load = Load {
            resources,
            devices,
            outputs: Outputs::All,
            views: Views::On(0),
        };
        let load_name = format!("{resources} × {devices} devices");
        let (mut took, mut resident_sizes) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            let dir = tempfile::tempdir()?;
            let kubelet = Kubelet::start(KubeletSettings::new(dir.path()))?;
            let since = Instant::now();
            let running = load.start(program, dir.path())?;
            load.wait_until_allocatable(&kubelet).await?;
            took.push(ms(since.elapsed()));
            // The connections of the registrations close after the node shows all devices.
            tokio::time::sleep(Duration::from_millis(500)).await;
            resident_sizes.push(running.resident()?);
        }
        if let Some(start) = start {
            let what = format!("Start to all lists, {load_name}");
            figures.push(Figure::at_most(&what, median(took), start, "ms"));
        }
        let what = format!("Resident, {load_name}");
        figures.push(Figure::at_most(
            &what,
            median(resident_sizes),
            resident,
            "MiB",
        ));
    }
    Ok(figures)
}

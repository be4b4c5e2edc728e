//! Memory, threads and wake-ups of an idle daemon with one resource, with and without HTTP and control socket. Also the
//! size of the program.

use std::path::Path;
use std::time::Duration;

use kubelet_sim::Kubelet;

use crate::Result;
use crate::program::{Load, MeasuredProgram, Outputs, Views};
use crate::table::Figure;

/// How long wake-ups are counted. The daemon reads the kubelet's checkpoint once in this time.
const MEASURED_TIME: Duration = Duration::from_secs(60);

/// An idle daemon.
struct Idle {
    before: u64,
    running: MeasuredProgram,
    _kubelet: Kubelet,
}

impl Idle {
    async fn start(program: &Path, dir: &Path, views: Views) -> Result<Self> {
        let load = Load {
            resources: 1,
            devices: 2,
            outputs: Outputs::All,
            views,
        };
        let (kubelet, running) = load.running(program, dir).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok(Self {
            before: running.wake_ups()?,
            running,
            _kubelet: kubelet,
        })
    }

    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn wake_ups(&self) -> Result<f64> {
        let count = self.running.wake_ups()? - self.before;
        Ok(count as f64 / MEASURED_TIME.as_secs_f64())
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir()?;
    let without = Idle::start(program, &dir.path().join("without-views"), Views::Off).await?;
    let with = Idle::start(program, &dir.path().join("with-views"), Views::On(0)).await?;
    tokio::time::sleep(MEASURED_TIME).await;
    let (wake_ups, wake_ups_without) = (with.wake_ups()?, without.wake_ups()?);
    let (resident, resident_without) = (with.running.resident()?, without.running.resident()?);
    let threads = with.running.thread_count()? as f64;
    let size = program.metadata()?.len() as f64 / (1024.0 * 1024.0);
    let note = format!("{wake_ups_without:.2} without HTTP and control socket");
    Ok(vec![
        Figure::at_most("Idle, resident", resident, 6.0, "MiB"),
        Figure::at_most(
            "Idle, resident for HTTP and control socket",
            (resident - resident_without).max(0.0),
            1.0,
            "MiB",
        ),
        Figure::at_most("Idle, threads", threads, 2.0, ""),
        Figure::at_most("Idle, wake-ups per second", wake_ups, 1.0, "").note(&note),
        Figure::at_most("The program's file", size, 4.6, "MiB"),
    ])
}

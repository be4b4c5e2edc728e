//! One resource, registered and left alone, with and without what makes it visible; and the size of the program.

use std::path::Path;
use std::time::Duration;

use kubelet_sim::Kubelet;

use crate::Result;
use crate::program::{Load, MeasuredProgram, Outputs, Views};
use crate::table::Figure;

/// The kubelet's checkpoint is looked at once in it.
const WATCHED: Duration = Duration::from_secs(60);

/// An idle manager.
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
        Ok(count as f64 / WATCHED.as_secs_f64())
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    let dir = tempfile::tempdir()?;
    let unseen = Idle::start(program, &dir.path().join("unseen"), Views::Off).await?;
    let seen = Idle::start(program, &dir.path().join("seen"), Views::On(0)).await?;
    tokio::time::sleep(WATCHED).await;
    let (wake_ups, without) = (seen.wake_ups()?, unseen.wake_ups()?);
    let (resident, smaller) = (seen.running.resident()?, unseen.running.resident()?);
    let threads = seen.running.thread_count()? as f64;
    let size = program.metadata()?.len() as f64 / (1024.0 * 1024.0);
    let compared = |what: &str| format!("{what} without HTTP and control socket");
    Ok(vec![
        Figure::new("Idle, resident", resident, 6.0, "MiB"),
        Figure::new(
            "Idle, resident for HTTP and control socket",
            (resident - smaller).max(0.0),
            1.0,
            "MiB",
        ),
        Figure::new("Idle, threads", threads, 2.0, ""),
        Figure::new("Idle, wake-ups a second", wake_ups, 1.0, "")
            .how(&compared(&format!("{without:.2}"))),
        Figure::new("The program's file", size, 4.6, "MiB"),
    ])
}

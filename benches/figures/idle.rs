//! One resource, registered and left alone; and the size of the program.

use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::program::{Load, Outputs};
use crate::table::Figure;

const WATCHED: Duration = Duration::from_secs(30);

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    let load = Load {
        resources: 1,
        devices: 2,
        outputs: Outputs::All,
    };
    let dir = tempfile::tempdir()?;
    let (_kubelet, running) = load.running(program, dir.path()).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = running.wake_ups()?;
    tokio::time::sleep(WATCHED).await;
    let wake_ups = (running.wake_ups()? - before) as f64 / WATCHED.as_secs_f64();
    let (resident, threads) = (running.resident()?, running.thread_count()?);
    let size = program.metadata()?.len() as f64 / (1024.0 * 1024.0);
    Ok(vec![
        Figure::new("Idle, resident", resident, 6.0, "MiB"),
        Figure::new("Idle, threads", threads as f64, 2.0, ""),
        Figure::new("Idle, wake-ups a second", wake_ups, 1.0, ""),
        Figure::new("The program's file", size, 5.0, "MiB"),
    ])
}

//! The response time of `/metrics`.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Result;
use crate::program::{DEADLINE, Load, Outputs, Views};
use crate::table::{Figure, median, ms};

const SCRAPES: usize = 50;

/// A request for OpenMetrics, which Prometheus prefers.
const REQUEST: &[u8] =
    b"GET /metrics HTTP/1.1\r\nhost: n\r\naccept: application/openmetrics-text;version=1.0.0\r\n\r\n";

pub async fn measure(program: &Path) -> Result<Vec<Figure>> {
    let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let load = Load {
        resources: 100,
        devices: 100,
        outputs: Outputs::All,
        views: Views::On(free.port()),
    };
    let dir = tempfile::tempdir()?;
    let (_kubelet, _running) = load.running(program, dir.path()).await?;
    let (mut took, mut size) = (Vec::new(), 0);
    for _ in 0..SCRAPES {
        let since = Instant::now();
        let text = timeout(DEADLINE, scrape(free)).await??;
        took.push(ms(since.elapsed()));
        if !text.ends_with("# EOF\n") {
            return Err("the response does not end with # EOF".into());
        }
        size = text.len();
        // Scrapes are normally far apart, so each one must start without a thread of the previous one.
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let figure = Figure::at_most("Metrics of 100 resources", median(took), 5.0, "ms");
    Ok(vec![figure.note(&format!("{} KiB", size / 1024))])
}

/// Returns the response. The thread must not block, because it also runs the kubelet, which the daemon asks for the
/// devices that pods hold.
async fn scrape(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(REQUEST).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

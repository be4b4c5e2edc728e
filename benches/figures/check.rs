//! The time to read variables: `check` with the maximum number of resources, and with more than that.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Result;
use crate::program::name;
use crate::table::{Figure, TIMES, median, ms};

pub fn measure(program: &Path) -> Result<Vec<Figure>> {
    let accepted = check(program, 1_000, 0)?;
    let refused = check(program, 4_000, 78)?;
    Ok(vec![
        Figure::at_most("Check of 1,000 resources, six lists", accepted, 100.0, "ms"),
        Figure::at_most("Check of 4,000 resources, refused", refused, 100.0, "ms"),
    ])
}

/// Returns the time, in milliseconds, that `check` takes. It must exit with `code`.
fn check(program: &Path, resources: usize, code: i32) -> Result<f64> {
    let list = |element: &dyn Fn(usize) -> String| {
        let elements: Vec<String> = (0..resources).map(element).collect();
        elements.join(",")
    };
    let mut took = Vec::new();
    for _ in 0..TIMES {
        let mut command = Command::new(program);
        command
            .arg("check")
            .env_clear()
            .env("NODE_NAME", "worker")
            .env("RESOURCE_NAME", list(&name))
            .env("NUMBER_DEVICES", list(&|index| (index % 8).to_string()))
            .env("DEVICE_ID_PREFIX", list(&|index| format!("d{index}")))
            .env("PLUGIN_NAME", list(&|index| format!("p{index}")))
            .env("ENV_PREFIX", list(&|index| format!("E{index}")))
            .env("ANNOTATION_PREFIX", list(&|index| format!("a{index}")))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let since = Instant::now();
        let status = command.status()?;
        took.push(ms(since.elapsed()));
        if status.code() != Some(code) {
            return Err(format!("check exited with {status}").into());
        }
    }
    Ok(median(took))
}

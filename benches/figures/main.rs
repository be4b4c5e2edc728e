//! `make bench`: measures the figures of docs/benchmarks.md, in one run of the release program.

mod allocate;
mod back;
mod check;
mod empty_service;
mod idle;
mod processor;
mod program;
mod scrape;
mod start;
mod table;
mod throughput;

use std::path::Path;

use table::Figure;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, socket] = &*arguments
        && command == empty_service::COMMAND
    {
        return runtime.block_on(empty_service::serve(socket));
    }
    // cargo bench passes this argument.
    arguments.retain(|argument| argument != "--bench");
    let program = std::env::var_os("PROGRAM")
        .ok_or("PROGRAM: expected the path of the program to measure; run make bench")?;
    let figures = runtime.block_on(measure(Path::new(&program), &arguments))?;
    table::print(&figures)
}

const GROUPS: [&str; 7] = [
    "check",
    "allocate",
    "throughput",
    "start",
    "back",
    "scrape",
    "idle",
];

/// Measures the groups in `wanted`, or all groups if it is empty.
async fn measure(program: &Path, wanted: &[String]) -> Result<Vec<Figure>> {
    if let Some(unknown) = wanted.iter().find(|name| !GROUPS.contains(&name.as_str())) {
        return Err(format!("{unknown}: expected one of {}", GROUPS.join(", ")).into());
    }
    let is_wanted = |group: &str| wanted.is_empty() || wanted.iter().any(|name| name == group);
    let mut figures = Vec::new();
    if is_wanted("check") {
        figures.extend(check::measure(program)?);
    }
    if is_wanted("allocate") {
        figures.extend(allocate::measure(program).await?);
    }
    if is_wanted("throughput") {
        figures.extend(throughput::measure(program).await?);
    }
    if is_wanted("start") {
        figures.extend(start::measure(program).await?);
    }
    if is_wanted("back") {
        figures.extend(back::measure(program).await?);
    }
    if is_wanted("scrape") {
        figures.extend(scrape::measure(program).await?);
    }
    if is_wanted("idle") {
        figures.extend(idle::measure(program).await?);
    }
    Ok(figures)
}

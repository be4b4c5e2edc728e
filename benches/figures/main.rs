//! `make bench`: the figures of the README, measured in one run on the program as it is shipped.

mod allocate;
mod floor;
mod idle;
mod program;
mod start;
mod table;

use std::path::PathBuf;

use table::Figure;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [floor::COMMAND, socket] = &*arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        return runtime.block_on(floor::serve(socket));
    }
    let program =
        std::env::var_os("PROGRAM").ok_or("PROGRAM: the program to measure; see make bench")?;
    let figures = runtime.block_on(measure(program.into()))?;
    table::print(&figures)
}

async fn measure(program: PathBuf) -> Result<Vec<Figure>> {
    let mut figures = allocate::measure(&program).await?;
    figures.extend(start::measure(&program).await?);
    figures.extend(idle::measure(&program).await?);
    Ok(figures)
}

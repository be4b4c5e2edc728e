//! The config file on disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::config::{Config, Environment, FileText, Host, Mistakes, config_file};

/// Reads the configuration: the variables, and the config file if they name one.
///
/// # Errors
/// Every mistake there is.
pub fn configuration(environment: &Environment, host: &Host) -> Result<Config, Mistakes> {
    let file = config_file(environment).map(|path| read(&path));
    Config::read(environment, file.as_ref(), host)
}

fn read(path: &Path) -> FileText {
    FileText {
        name: path.display().to_string(),
        content: content(path).map_err(|error| error.to_string()),
    }
}

/// Reads little more than a config file can have. What is no file, such as a pipe, might never end.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let mut content = Vec::new();
    let limit = FileText::SIZE_MAX as u64 + 1;
    File::open(path)?.take(limit).read_to_end(&mut content)?;
    Ok(content)
}

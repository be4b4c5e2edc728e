//! What a single value may be. Each parser takes a trimmed text that is not empty; its error says what was expected.

use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("text or json"),
        }
    }
}

/// A count of devices. One beyond all bounds is taken as the highest, which no list can hold.
pub fn count(text: &str) -> Result<usize, &'static str> {
    if text.bytes().all(|c| c.is_ascii_digit()) {
        Ok(text.parse().unwrap_or(usize::MAX))
    } else {
        Err("a whole number, 0 or more")
    }
}

/// The first part of an environment variable's name.
pub fn env_prefix(text: &str) -> Result<String, &'static str> {
    if text.contains('=') {
        return Err("the start of a variable's name, without '='");
    }
    Ok(text.to_owned())
}

/// The first part of a device file's path below `/dev/`.
pub fn device_file_prefix(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') || text.contains("..") {
        return Err("a path below /dev/, without '..' or a leading '/'");
    }
    Ok(text.to_owned())
}

/// A file on the host.
pub fn host_path(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("an absolute path, as in /dev/null");
    }
    Ok(text.to_owned())
}

/// `RUST_LOG` as directives for [`EnvFilter`]: a level alone is the program's own, libraries stay at
/// warn unless a directive names them.
pub fn log_directives(text: &str) -> Result<String, String> {
    const EXPECTED: &str =
        "a level (off, error, warn, info, debug, trace) or directives as in h2=debug";
    let mut directives = vec!["warn".to_owned()];
    for directive in text.split(',').map(str::trim).filter(|d| !d.is_empty()) {
        if directive.parse::<LevelFilter>().is_ok() {
            directives.push(format!("simple_device_plugin={directive}"));
        } else if directive.contains(['=', '[', ':']) {
            directives.push(directive.to_owned());
        } else {
            // tracing would take a misspelled level for the name of a target.
            return Err(EXPECTED.to_owned());
        }
    }
    let directives = directives.join(",");
    EnvFilter::builder()
        .parse(&directives)
        .map(|_| directives)
        .map_err(|error| format!("{EXPECTED}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        for (text, expected) in [
            ("0", Ok(0)),
            ("007", Ok(7)),
            ("99999999999999999999999", Ok(usize::MAX)),
            ("-1", Err("a whole number, 0 or more")),
            ("+1", Err("a whole number, 0 or more")),
            ("1.5", Err("a whole number, 0 or more")),
            ("two", Err("a whole number, 0 or more")),
        ] {
            assert_eq!(count(text), expected, "{text}");
        }
    }

    #[test]
    fn a_level_alone_is_the_programs_own() {
        for (text, expected) in [
            ("debug", "warn,simple_device_plugin=debug"),
            ("TRACE, h2=info", "warn,simple_device_plugin=TRACE,h2=info"),
            ("off", "warn,simple_device_plugin=off"),
        ] {
            assert_eq!(log_directives(text).as_deref(), Ok(expected));
        }
        for text in ["loud", "h2=loud", "info,,verbose"] {
            assert!(log_directives(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_and_paths() {
        assert!(env_prefix("GPU").is_ok() && env_prefix("A=B").is_err());
        assert!(host_path("/dev/null").is_ok() && host_path("dev/null").is_err());
        assert!(device_file_prefix("sub/gpu").is_ok());
        assert!(device_file_prefix("/gpu").is_err() && device_file_prefix("../gpu").is_err());
    }
}

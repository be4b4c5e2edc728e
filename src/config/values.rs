//! Parsers of single values. Each takes a trimmed, non-empty text; the error is the part of the message after `expected`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::limits::devices_expected;
use crate::model::socket_name::SOCKET_PATH_MAX;

/// The target of the program's own log lines.
const PROGRAM: &str = "simple_device_plugin";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    /// One JSON object per line.
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

pub fn count(text: &str) -> Result<usize, String> {
    if text.bytes().all(|c| c.is_ascii_digit()) {
        text.parse().map_err(|_| devices_expected())
    } else {
        Err("a whole number, 0 or more".to_owned())
    }
}

pub(crate) fn env_prefix(text: &str) -> Result<String, &'static str> {
    if text.contains('=') {
        return Err("the start of a variable's name, without '='");
    }
    Ok(text.to_owned())
}

pub(crate) fn device_file_prefix(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') || text.contains("..") {
        return Err("a path below /dev/, without '..' or a leading '/'");
    }
    Ok(text.to_owned())
}

pub fn host_path(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("an absolute path, as in /dev/null");
    }
    Ok(text.to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpAddress {
    /// Every address of the host, with this port.
    Every(u16),
    One(SocketAddr),
}

impl Default for HttpAddress {
    fn default() -> Self {
        Self::Every(8080)
    }
}

impl fmt::Display for HttpAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(port) => write!(formatter, ":{port}"),
            Self::One(address) => address.fmt(formatter),
        }
    }
}

impl FromStr for HttpAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "an address with a port, as in :8080, 127.0.0.1:8080 or [::1]:8080";
        let every = text.strip_prefix(':').or(text.strip_prefix("[::]:"));
        match every {
            Some(port) if port.bytes().all(|c| c.is_ascii_digit()) => {
                port.parse().map(Self::Every).map_err(|_| EXPECTED)
            }
            _ => text.parse().map(Self::One).map_err(|_| EXPECTED),
        }
    }
}

pub(crate) fn plugin_dir(text: &str) -> Result<PathBuf, &'static str> {
    if text.starts_with('/') {
        Ok(text.into())
    } else {
        Err("the absolute path of the kubelet's device plugin directory")
    }
}

pub(crate) fn socket_path(text: &str) -> Result<PathBuf, &'static str> {
    if text.starts_with('/') && !text.ends_with('/') && text.len() <= SOCKET_PATH_MAX {
        Ok(text.into())
    } else {
        Err("the absolute path of a socket, of at most 107 bytes")
    }
}

/// Parses `RUST_LOG`. A level without a target applies to the program itself; libraries log at `warn` unless a directive
/// names them.
pub(crate) fn log_levels(text: &str) -> Result<Targets, &'static str> {
    const EXPECTED: &str =
        "a level (off, error, warn, info, debug, trace), or one for a library as in h2=debug";
    let mut levels = Targets::new().with_default(LevelFilter::WARN);
    for directive in text.split(',').map(str::trim).filter(|d| !d.is_empty()) {
        let (target, level) = directive.split_once('=').unwrap_or((PROGRAM, directive));
        // tracing would parse an empty level as `error`.
        let level = Some(level).filter(|level| !level.is_empty());
        let level = level.and_then(|level| level.parse::<LevelFilter>().ok());
        levels = levels.with_target(target, level.ok_or(EXPECTED)?);
    }
    Ok(levels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_counts_of_devices() {
        assert_eq!((count("0"), count("007")), (Ok(0), Ok(7)));
        assert_eq!(count("99999999999999999999999"), Err(devices_expected()));
        for text in ["-1", "+1", "1.5", "two"] {
            assert_eq!(count(text), Err("a whole number, 0 or more".to_owned()));
        }
    }

    #[test]
    fn a_level_without_a_target_applies_to_the_program() {
        use tracing::Level;
        for (text, target, shown, hidden) in [
            ("debug", PROGRAM, Level::DEBUG, Level::TRACE),
            ("debug", "h2", Level::WARN, Level::INFO),
            ("TRACE, h2=info", "h2", Level::INFO, Level::DEBUG),
            ("h2=error", "h2", Level::ERROR, Level::WARN),
        ] {
            let levels = log_levels(text).unwrap();
            assert!(levels.would_enable(target, &shown), "{text} {target}");
            assert!(!levels.would_enable(target, &hidden), "{text} {target}");
        }
        assert!(
            !log_levels("off")
                .unwrap()
                .would_enable(PROGRAM, &Level::ERROR)
        );
        for text in ["loud", "h2=loud", "h2=", "h2=a=b", "info,,verbose"] {
            assert!(log_levels(text).is_err(), "{text}");
        }
    }

    #[test]
    fn parses_http_addresses() {
        for (text, shown) in [
            (":8080", ":8080"),
            ("[::]:0", ":0"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:65535", "[::1]:65535"),
        ] {
            let address: HttpAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
        }
        for text in [
            "8080",
            ":",
            ":x",
            ":+1",
            ":65536",
            "localhost:80",
            "1.2.3.4",
            "::1:80",
        ] {
            assert!(text.parse::<HttpAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn parses_prefixes_and_paths() {
        assert!(env_prefix("GPU").is_ok() && env_prefix("A=B").is_err());
        assert!(host_path("/dev/null").is_ok() && host_path("dev/null").is_err());
        assert!(socket_path("/run/x.sock").is_ok() && socket_path("x.sock").is_err());
        assert!(socket_path("/run/").is_err() && socket_path(&"/x".repeat(54)).is_err());
        assert!(device_file_prefix("sub/gpu").is_ok());
        assert!(device_file_prefix("/gpu").is_err() && device_file_prefix("../gpu").is_err());
    }
}

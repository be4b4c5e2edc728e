//! The commands of the prompt.

use std::str::FromStr;

use thiserror::Error;

use kubelet_sim::{Container, ContainerKind, DEFAULT_CONTAINER, Pod};
use simple_device_plugin::util::sanitize::sanitize;

/// A command, one line of standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReplCommand {
    Blank,
    Pod(Pod),
    Delete {
        pod: String,
    },
    /// Waits until the resource has at least `count` allocatable devices.
    Wait {
        resource: String,
        count: usize,
    },
    Lose {
        resource: String,
    },
    Restart,
    Status,
    Help,
    Quit,
}

/// The syntax of each command, and what it does.
pub(crate) const HELP: [(&str, &str); 8] = [
    (
        "pod NAME RESOURCE=COUNT...",
        "admit a pod and show what its containers get",
    ),
    ("delete NAME", "delete a pod, which frees its devices"),
    ("lose RESOURCE", "close the connection to its plugin"),
    ("restart", "restart the kubelet"),
    (
        "wait RESOURCE=COUNT",
        "wait for COUNT allocatable devices, at most 60 s",
    ),
    ("status", "show the resources and the pods"),
    ("help", "show this list"),
    ("quit", "stop the kubelet and exit, as Ctrl-C does"),
];

/// The syntax of a pod with several containers.
pub(crate) const HELP_CONTAINERS: &str = "
A pod has one container, unless init:NAME, sidecar:NAME or app:NAME starts
another one:
  pod p init:setup example.com/gpu=1 app:main example.com/gpu=2
";

/// Why a line is not a command.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ReplCommandError {
    #[error("{0}: unknown command; type help for a list of commands")]
    Unknown(String),
    /// The expected syntax.
    #[error("usage: {0}")]
    Expected(&'static str),
    #[error("{0}: expected no arguments")]
    UnexpectedArgument(String),
    #[error("{0}: expected RESOURCE=COUNT, as in example.com/gpu=2")]
    InvalidRequest(String),
    #[error("{0}: requested twice; expected each resource once in a container")]
    DuplicateResource(String),
    #[error("{0}: expected a container as init:NAME, sidecar:NAME or app:NAME, each name once")]
    InvalidContainer(String),
    #[error("{0}: expected a pod name of lower-case letters, digits, '-' and '.'")]
    InvalidName(String),
    #[error("pod {0} requests no device: add RESOURCE=COUNT")]
    NoRequest(String),
    #[error("pod {0} has no app container: add one, as app:NAME")]
    NoAppContainer(String),
}

impl FromStr for ReplCommand {
    type Err = ReplCommandError;

    fn from_str(line: &str) -> Result<Self, ReplCommandError> {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        match (command, &*words) {
            ("", _) => Ok(Self::Blank),
            ("pod", [name, requests @ ..]) => parse_pod(name, requests).map(Self::Pod),
            ("pod", []) => Err(ReplCommandError::Expected(HELP[0].0)),
            ("delete", [name]) => Ok(Self::Delete {
                pod: (*name).to_owned(),
            }),
            ("delete", _) => Err(ReplCommandError::Expected(HELP[1].0)),
            ("lose", [name]) => Ok(Self::Lose {
                resource: (*name).to_owned(),
            }),
            ("lose", _) => Err(ReplCommandError::Expected(HELP[2].0)),
            ("wait", [word]) => {
                parse_request(word).map(|(resource, count)| Self::Wait { resource, count })
            }
            ("wait", _) => Err(ReplCommandError::Expected(HELP[4].0)),
            ("restart", []) => Ok(Self::Restart),
            ("status", []) => Ok(Self::Status),
            ("help", []) => Ok(Self::Help),
            ("quit" | "exit", []) => Ok(Self::Quit),
            (word @ ("restart" | "status" | "help" | "quit" | "exit"), _) => {
                Err(ReplCommandError::UnexpectedArgument(word.to_owned()))
            }
            (unknown, _) => Err(ReplCommandError::Unknown(sanitize(unknown))),
        }
    }
}

fn parse_pod(name: &str, words: &[&str]) -> Result<Pod, ReplCommandError> {
    let is_valid = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    if !name.bytes().all(is_valid) {
        return Err(ReplCommandError::InvalidName(sanitize(name)));
    }
    let mut containers: Vec<Container> = Vec::new();
    for word in words {
        if word.contains(':') {
            let container = parse_container(word)?;
            if containers.iter().any(|known| known.name == container.name) {
                return Err(ReplCommandError::InvalidContainer(sanitize(word)));
            }
            containers.push(container);
            continue;
        }
        let (resource, count) = parse_request(word)?;
        if containers.is_empty() {
            containers.push(Container::app(DEFAULT_CONTAINER, []));
        }
        let requests = containers.last_mut().map(|last| &mut last.requests);
        if requests.is_some_and(|requests| requests.insert(resource.clone(), count).is_some()) {
            return Err(ReplCommandError::DuplicateResource(sanitize(&resource)));
        }
    }
    if containers
        .iter()
        .all(|container| container.requests.is_empty())
    {
        return Err(ReplCommandError::NoRequest(sanitize(name)));
    }
    if !containers
        .iter()
        .any(|container| container.kind == ContainerKind::App)
    {
        return Err(ReplCommandError::NoAppContainer(sanitize(name)));
    }
    Ok(Pod {
        name: name.to_owned(),
        containers,
    })
}

/// Parses a word such as `init:setup`, which starts a container without requests.
fn parse_container(word: &str) -> Result<Container, ReplCommandError> {
    let kind = match word.split_once(':') {
        Some(("init", name)) => Some((ContainerKind::Init, name)),
        Some(("sidecar", name)) => Some((ContainerKind::Sidecar, name)),
        Some(("app", name)) => Some((ContainerKind::App, name)),
        _ => None,
    };
    match kind {
        Some((kind, name)) if !name.is_empty() => Ok(Container {
            kind,
            ..Container::app(name, [])
        }),
        _ => Err(ReplCommandError::InvalidContainer(sanitize(word))),
    }
}

fn parse_request(word: &str) -> Result<(String, usize), ReplCommandError> {
    let invalid = || ReplCommandError::InvalidRequest(sanitize(word));
    let (resource, count) = word.rsplit_once('=').ok_or_else(invalid)?;
    let count: usize = count.parse().map_err(|_| invalid())?;
    if resource.is_empty() {
        return Err(invalid());
    }
    Ok((resource.to_owned(), count))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the containers of a `pod` command.
    fn containers(line: &str) -> Vec<String> {
        let Ok(ReplCommand::Pod(pod)) = line.parse() else {
            panic!("no pod");
        };
        assert_eq!(pod.name, "p");
        let containers = pod.containers.iter();
        let text = |c: &Container| format!("{:?} {} {:?}", c.kind, c.name, c.requests);
        containers.map(text).collect()
    }

    #[test]
    fn a_pod_has_one_container_or_those_that_are_named() {
        assert_eq!(
            containers("  pod p a.io/x=2  b.io/y=0"),
            [r#"App main {"a.io/x": 2, "b.io/y": 0}"#]
        );
        assert_eq!(
            containers("pod p init:setup a.io/x=1 sidecar:log app:web a.io/x=3 b.io/y=1"),
            [
                r#"Init setup {"a.io/x": 1}"#,
                "Sidecar log {}",
                r#"App web {"a.io/x": 3, "b.io/y": 1}"#,
            ]
        );
    }

    #[test]
    fn parses_commands() {
        assert_eq!(" ".parse(), Ok(ReplCommand::Blank));
        let pod = "p".to_owned();
        assert_eq!("delete p".parse(), Ok(ReplCommand::Delete { pod }));
        let resource = "a.io/x".to_owned();
        assert_eq!("lose a.io/x".parse(), Ok(ReplCommand::Lose { resource }));
        assert_eq!("restart".parse(), Ok(ReplCommand::Restart));
    }

    #[test]
    fn errors_name_the_expected_syntax() {
        let error = |line: &str| {
            line.parse::<ReplCommand>()
                .expect_err("no error")
                .to_string()
        };
        for (line, expected) in [
            ("pod", "usage: pod NAME RESOURCE=COUNT..."),
            ("pod p", "pod p requests no device: add RESOURCE=COUNT"),
            (
                "pod a.io/x=1 a.io/y=1",
                "a.io/x=1: expected a pod name of lower-case letters, digits, '-' and '.'",
            ),
            (
                "pod p a.io/x",
                "a.io/x: expected RESOURCE=COUNT, as in example.com/gpu=2",
            ),
            (
                "pod p a.io/x=-1",
                "a.io/x=-1: expected RESOURCE=COUNT, as in example.com/gpu=2",
            ),
            (
                "pod p a.io/x=1 a.io/x=2",
                "a.io/x: requested twice; expected each resource once in a container",
            ),
            (
                "pod p main:app a.io/x=1",
                "main:app: expected a container as init:NAME, sidecar:NAME or app:NAME, each name once",
            ),
            (
                "pod p app:a a.io/x=1 init:a",
                "init:a: expected a container as init:NAME, sidecar:NAME or app:NAME, each name once",
            ),
            (
                "pod p init:a a.io/x=1",
                "pod p has no app container: add one, as app:NAME",
            ),
            (
                "pod p app:a",
                "pod p requests no device: add RESOURCE=COUNT",
            ),
            ("delete", "usage: delete NAME"),
            ("restart now", "restart: expected no arguments"),
            ("wait", "usage: wait RESOURCE=COUNT"),
            (
                "stop",
                "stop: unknown command; type help for a list of commands",
            ),
        ] {
            assert_eq!(error(line), expected, "{line}");
        }
    }
}

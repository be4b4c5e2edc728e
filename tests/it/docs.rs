//! What the documentation shows: links, command lines, the output of `check`, help texts and tables.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::{binary, output, program};
use crate::support::running_node::{FOUR, Node};
use crate::support::{GPU, until};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files for users and contributors.
fn pages() -> Vec<PathBuf> {
    let folders = ["", "docs", "examples"].map(|folder| root().join(folder));
    let files = folders.iter().flat_map(|folder| {
        fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
    });
    let is_page = |path: &PathBuf| path.extension().is_some_and(|name| name == "md");
    let mut pages: Vec<PathBuf> = files.filter(is_page).collect();
    pages.sort();
    pages
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the page without its code blocks.
fn without_code(page: &str) -> String {
    let mut in_code = false;
    let mut outside = String::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            outside += line;
            outside.push('\n');
        }
    }
    outside
}

/// The blocks of code that are marked with this language, without their indentation.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(start) = lines.next() {
        let Some(marked) = start.trim_start().strip_prefix("```") else {
            continue;
        };
        let indent = start.len() - start.trim_start().len();
        let block: Vec<&str> = lines
            .by_ref()
            .take_while(|line| !line.trim_start().starts_with("```"))
            .map(|line| line.get(indent..).unwrap_or_default())
            .collect();
        if marked == language {
            blocks.push(block.join("\n") + "\n");
        }
    }
    blocks
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.to_lowercase().chars().filter(kept).collect();
    text.trim().replace(' ', "-")
}

#[test]
fn every_link_has_a_target() {
    for page in pages() {
        let folder = page.parent().expect("a folder");
        for link in without_code(&text(&page)).split("](").skip(1) {
            let link = link.split(')').next().expect("a link");
            if link.starts_with("http") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                folder.join(file)
            };
            assert!(target.exists(), "{}: {link}", page.display());
            let has_heading = || {
                let target = without_code(&text(&target));
                let headings = target.lines().filter(|line| line.starts_with('#'));
                let mut anchors = headings.map(|line| anchor(line.trim_start_matches('#')));
                anchors.any(|anchor| anchor == heading)
            };
            assert!(
                heading.is_empty() || has_heading(),
                "{}: {link}",
                page.display()
            );
        }
    }
}

/// A command of a console block, and the output that is shown for it.
#[derive(Debug)]
struct Shown {
    command: String,
    output: String,
}

fn shown(block: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let mut continues = false;
    for line in block.lines() {
        match (line.strip_prefix("$ "), all.last_mut()) {
            (Some(command), _) => all.push(Shown {
                command: command.to_owned(),
                output: String::new(),
            }),
            (None, Some(last)) if continues || last.command.contains("<<END") => {
                last.command += "\n";
                last.command += line;
            }
            (None, Some(last)) => {
                last.output += line;
                last.output += "\n";
            }
            (None, None) => {}
        }
        continues = line.ends_with('\\');
    }
    all
}

/// A directory in which a shell finds the programs of this workspace, and stand-ins for what would need a cluster.
struct Shell {
    home: TempDir,
}

impl Shell {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        for name in ["charts", "deploy", "examples"] {
            symlink(root().join(name), home.path().join(name)).expect("a link");
        }
        fs::create_dir_all(home.path().join("bin")).expect("a directory");
        fs::create_dir_all(home.path().join("target/debug")).expect("a directory");
        let shell = Self { home };
        let (daemon, simulator) = (binary("simple-device-plugin"), binary("kubelet-sim"));
        shell.program(
            "bin/simple-device-plugin",
            &format!("exec {} \"${{@:-check}}\"", daemon.display()),
        );
        let simulator = format!("exec {} \"$@\" --help", simulator.display());
        shell.program("bin/kubelet-sim", &simulator);
        shell.program("target/debug/kubelet-sim", &simulator);
        shell.program(
            "target/debug/simple-device-plugin",
            "exec simple-device-plugin \"$@\"",
        );
        shell.program(
            "bin/cargo",
            "[[ $* =~ --bin\\ ([a-z-]+)(\\ --\\ (.*))? ]] || exit 0; exec ${BASH_REMATCH[1]} ${BASH_REMATCH[3]}",
        );
        shell.program(
            "bin/make",
            &format!(
                "exec /usr/bin/make --dry-run -C {} \"$@\"",
                root().display()
            ),
        );
        shell.program(
            "bin/kubectl",
            "[[ $* =~ \\ /simple-device-plugin\\ (.*) ]] || exit 0; exec simple-device-plugin ${BASH_REMATCH[1]}",
        );
        for outside in ["helm", "kind", "curl", "dot", "gh", "docker", "sha256sum"] {
            shell.program(&format!("bin/{outside}"), "exit 0");
        }
        shell
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.home.path().join(name);
        fs::write(&path, format!("#!/bin/bash\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    }

    /// Runs a command line, and returns its exit code and output. Most commands fail, because no daemon is running;
    /// only a wrong command line exits 2.
    fn run(&self, line: &str) -> (Option<i32>, String) {
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.home.path().join("bin");
        let mut command = Command::new("bash");
        command
            .args(["-c", &format!("{{ {line}\n}} 2>&1")])
            .current_dir(self.home.path())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("NODE_NAME", "worker")
            .env("CONTROL_SOCKET", self.home.path().join("none.sock"));
        let (code, stdout, _) = output(&mut command);
        (code, stdout)
    }
}

/// Returns the commands of the daemon in inline code, without those that have placeholders in capitals or an ellipsis.
fn inline_commands(page: &str) -> Vec<String> {
    let is_command = |code: &&str| {
        let is_placeholder = |word: &str| {
            word.len() > 1
                && word
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || "[]|".contains(c))
        };
        code.starts_with("simple-device-plugin ")
            && !code.contains('…')
            && !code
                .split_whitespace()
                .any(|word| is_placeholder(word) && word != "UNAVAILABLE")
    };
    let outside = without_code(page);
    let codes = outside
        .lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    codes.filter(is_command).map(str::to_owned).collect()
}

#[test]
fn every_command_line_is_accepted_and_check_prints_what_is_shown() {
    let mut compared = 0;
    for page in pages() {
        let content = text(&page);
        for block in blocks(&content, "console") {
            let shell = Shell::new();
            for Shown { command, output } in shown(&block) {
                if let Some(file) = command.strip_prefix("cat ") {
                    fs::write(shell.home.path().join(file), output).expect("a file");
                    continue;
                }
                let (code, printed) = shell.run(&command);
                let accepted = matches!(code, Some(0 | 1 | 78));
                assert!(accepted, "{}: {command}\n{printed}", page.display());
                let is_check = command.contains("simple-device-plugin check")
                    || command.ends_with(" simple-device-plugin");
                if is_check && !output.is_empty() {
                    assert_eq!(printed, output, "{}: {command}", page.display());
                    compared += 1;
                }
            }
        }
        let shell = Shell::new();
        for command in inline_commands(&content) {
            let (code, printed) = shell.run(&command);
            let accepted = matches!(code, Some(0 | 1 | 78));
            assert!(accepted, "{}: {command}\n{printed}", page.display());
        }
    }
    assert!(compared >= 3, "{compared} outputs of check");
}

/// The commands of a program with their help, in the order in which the program lists them.
fn helps(name: &str, command: &[&str], all: &mut String) {
    let mut asked = if name == "simple-device-plugin" {
        program(&[])
    } else {
        Command::new(binary(name))
    };
    let (code, help, _) = output(asked.args(command).arg("--help"));
    assert_eq!(code, Some(0), "{name} {command:?}");
    let fits = help.lines().all(|line| line.chars().count() <= 80);
    assert!(fits, "more than 80 columns:\n{help}");
    let title = [&[name], command].concat().join(" ");
    let section = format!("\n## {title}\n\n```text\n{help}```\n");
    all.push_str(&section);
    let commands = help
        .split_once("\nCommands:\n")
        .map_or("", |(_, rest)| rest);
    for line in commands.lines().take_while(|line| line.starts_with("  ")) {
        let next = line.split_whitespace().next().expect("a command");
        if next != "help" {
            helps(name, &[command, &[next]].concat(), all);
        }
    }
}

/// The help of every command stands in docs/cli.md. `UPDATE=1` writes it there.
#[test]
fn the_cli_page_has_the_help_of_every_command() {
    const START: &str = "<!-- From here on this page is generated: UPDATE=1 cargo test docs -->\n";
    let path = root().join("docs/cli.md");
    let page = text(&path);
    let (written, kept) = page
        .split_once(START)
        .expect("the line before the help texts");
    let mut all = String::new();
    helps("simple-device-plugin", &[], &mut all);
    helps("kubelet-sim", &[], &mut all);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{written}{START}{all}")).expect("the page");
    } else {
        assert_eq!(kept, all, "docs/cli.md: UPDATE=1 cargo test docs");
    }
}

/// The first code of each row of the tables in a page.
fn keys_in_tables(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').nth(1).expect("a cell").to_owned());
    let codes = cells.flat_map(|cell| {
        let codes = cell.split('`').skip(1).step_by(2).map(str::to_owned);
        codes.collect::<Vec<_>>()
    });
    codes.collect()
}

fn properties(schema: &Value, all: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(found)) = map.get("properties") {
                all.extend(found.keys().cloned());
            }
            map.values().for_each(|value| properties(value, all));
        }
        Value::Array(list) => list.iter().for_each(|value| properties(value, all)),
        _ => {}
    }
}

#[test]
fn the_pages_have_every_key_of_the_config_file() {
    let schema = text(&root().join("config.schema.json"));
    let mut expected = BTreeSet::new();
    properties(&serde_json::from_str(&schema).expect("JSON"), &mut expected);
    let mut documented = keys_in_tables(&text(&root().join("docs/config-file.md")));
    documented.retain(|key| !key.starts_with('{'));
    let faults = text(&root().join("docs/faults.md"));
    let (_, faults) = faults
        .split_once("## In the config file")
        .expect("a section");
    let (faults, _) = faults.split_once("\n## ").expect("its end");
    documented.extend(keys_in_tables(faults));
    assert_eq!(documented, expected);
}

/// Replaces what differs in each run of the demo: the directory and the milliseconds.
fn without_run(output: &str) -> String {
    let words = output.split_inclusive([' ', '\n']);
    let replaced = words.map(|word| {
        let is_number = |word: &str| word.trim_end().parse::<u64>().is_ok();
        match word {
            word if word.starts_with("/tmp/") => "DIR\n".to_owned(),
            word if word.ends_with(' ') && is_number(word) => "N ".to_owned(),
            word => word.to_owned(),
        }
    });
    replaced.collect()
}

#[test]
fn the_readme_shows_the_output_of_the_demo() {
    let readme = text(&root().join("README.md"));
    assert!(readme.lines().count() <= 150, "README.md is too long");
    let shown = blocks(&readme, "console");
    let demo = shown
        .iter()
        .find(|block| block.contains("Starting a simulated kubelet"));
    let mut command = Command::new(binary("kubelet-sim"));
    command.arg("demo").env_clear().env("NODE_NAME", "laptop");
    let (code, stdout, stderr) = output(&mut command);
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(
        without_run(&stdout),
        without_run(demo.expect("the demo's output"))
    );
}

/// Adds the keys of all objects in the value. The keys of a map of counters are labels, and a fault's keys are
/// documented elsewhere, so both are skipped.
fn json_keys(value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                all.insert(key.clone());
                let counts = ["registrations", "restarts", "faultsInjected", "fault"];
                if !counts.contains(&&**key) {
                    json_keys(value, all);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|value| json_keys(value, all)),
        _ => {}
    }
}

#[tokio::test]
async fn the_docs_have_every_key_of_the_status() {
    let node = Node::with(FOUR);
    node.wait_for_node(4, 4).await;
    node.admits("p").await.expect("a device");
    let commands: [&[&str]; 4] = [
        &["fault", "stream", GPU],
        &["fault", "health", GPU, "1", "--up", "1s", "--down", "1h"],
        &["health", GPU, "0", "healthy"],
        &["scale", GPU, "2"],
    ];
    for arguments in commands {
        let (code, _, stderr) = node.run(arguments);
        assert_eq!(code, Some(0), "{stderr}");
    }
    fs::write(&node.file, "resources: {}").expect("a file");
    let keys = || {
        let (_, status, _) = node.run(&["status", "--json"]);
        let mut keys = BTreeSet::new();
        json_keys(&serde_json::from_str(&status).expect("JSON"), &mut keys);
        keys
    };
    until("an object with the optional keys", || {
        let keys = keys();
        let optional = [
            "errors",
            "lastError",
            "overrides",
            "faultUnhealthy",
            "waitsFor",
            "heldBy",
        ];
        optional.iter().all(|key| keys.contains(*key))
    })
    .await;
    let page = text(&root().join("docs/status-and-metrics.md"));
    let undocumented: Vec<String> = keys()
        .into_iter()
        .filter(|key| !page.contains(&format!("`{key}`")))
        .collect();
    assert!(undocumented.is_empty(), "{undocumented:?}");
}

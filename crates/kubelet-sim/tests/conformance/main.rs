//! The conformance suite against plugins that break one rule each, and against the daemon.

mod plugin;
#[path = "../it/support.rs"]
mod support;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use kubelet_sim::conformance::{Check, Report, Selection, Settings, Target, Verdict, checks, run};

use crate::support::plugin_dir;
use crate::support::process::{binary, output};

/// The number of plugins that are evaluated at the same time. They mostly wait.
const AT_A_TIME: usize = 16;

/// Shorter windows than those of the command line, for plugins that do everything within milliseconds.
fn settings() -> Settings {
    let ms = Duration::from_millis;
    Settings {
        registration: ms(8000),
        dial_timeout: ms(4000),
        call_timeout: ms(5000),
        pre_start_timeout: ms(5000),
        settle: ms(300),
        watch: ms(1000),
        kubelet_restart: ms(150),
        kubelet_away: ms(1400),
        // A spinning process gets less than a processor on a busy machine.
        processor_share: 0.05,
        // Longer than a plugin needs on a busy machine.
        socket_removed: ms(8000),
        second_instance: ms(600),
        exit: ms(8000),
        restarts: 5,
        ..Settings::default()
    }
}

/// Evaluates a plugin. The variables are set with `env`, because the plugin inherits the environment of this process.
fn evaluate(variables: &[(&str, &str)], command: Vec<OsString>) -> Report {
    evaluate_selected(variables, command, &Selection::default())
}

fn evaluate_selected(
    variables: &[(&str, &str)],
    command: Vec<OsString>,
    selection: &Selection,
) -> Report {
    let dir = plugin_dir();
    let variables = variables
        .iter()
        .map(|(name, value)| format!("{name}={value}").into());
    let env = ["env".into()].into_iter().chain(variables);
    let target = Target {
        dir: dir.path().to_owned(),
        command: env.chain(command).collect(),
        dir_env: "DEVICE_PLUGIN_PATH".to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().expect("a runtime");
    let report = run(target, settings(), selection, |_| Ok(()));
    runtime.block_on(report).expect("a report")
}

/// Returns the IDs and the resources of the failed checks.
fn failed(report: &Report) -> BTreeSet<(&str, Option<&str>)> {
    let failed = report.findings.iter();
    let failed = failed.filter(|finding| matches!(finding.verdict, Verdict::Fail(_)));
    failed
        .map(|finding| (finding.check().id, finding.resource.as_deref()))
        .collect()
}

/// Describes everything that did not pass.
fn describe(report: &Report) -> String {
    let findings = report.findings.iter();
    let others = findings.filter(|finding| !matches!(finding.verdict, Verdict::Pass(_)));
    let lines = others.map(|finding| {
        let (id, seen) = (finding.check().id, finding.verdict.seen());
        let (result, resource) = (finding.verdict.name(), finding.resource.as_deref());
        format!(
            "  {result} {id} {resource:?}: {seen} {:?}\n",
            finding.output
        )
    });
    lines.collect()
}

/// Evaluates the plugin with each of the faults, several at a time. Returns what differs from the checks that must fail.
fn judge_all(
    faults: impl Iterator<Item = (&'static str, BTreeSet<&'static str>)> + Send,
) -> Vec<String> {
    let faults = Mutex::new(faults);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let next = faults.lock().expect("no panic").next();
                    let Some((fault, expected)) = next else {
                        return;
                    };
                    let report = evaluate(&[(plugin::FAULT, fault)], plugin::command());
                    let failed: BTreeSet<&str> =
                        failed(&report).iter().map(|(id, _)| *id).collect();
                    if failed != expected {
                        let text = format!("{fault}: {failed:?}\n{}", describe(&report));
                        wrong.lock().expect("no panic").push(text);
                    }
                }
            });
        }
    });
    wrong.into_inner().expect("no panic")
}

#[test]
fn each_fault_fails_its_own_check_and_no_other() {
    let wrong = judge_all(checks().map(|check| (check.id, BTreeSet::from([check.id]))));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_unusual_plugin_fails_only_the_checks_of_its_faults() {
    let plugins: [(&str, &[&str]); 6] = [
        (plugin::FLOOD, &["list-not-repeated"]),
        (plugin::EMPTY_FIRST_LIST, &[]),
        (plugin::LATE_RESOURCE, &[]),
        (plugin::ENDPOINT_WITH_SLASH, &["registration-endpoint"]),
        (plugin::EXITS_ON_UNKNOWN_ID, &["unknown-id-refused"]),
        (plugin::ENDS_STREAMS, &["stays-registered"]),
    ];
    let plugins = plugins.into_iter();
    let wrong = judge_all(plugins.map(|(fault, failed)| (fault, failed.iter().copied().collect())));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_plugin_that_cannot_stay_registered_does_not_conform() {
    let selection = Selection {
        only: [
            "registers-early-kubelet".to_owned(),
            "ids-unique".to_owned(),
            "allocate-one".to_owned(),
        ]
        .into(),
        ..Selection::default()
    };
    let report = evaluate_selected(
        &[(plugin::FAULT, plugin::ENDS_STREAMS)],
        plugin::command(),
        &selection,
    );
    assert!(failed(&report).is_empty(), "{}", describe(&report));
    assert!(!report.holds(false), "{}", describe(&report));
}

#[test]
fn a_plugin_without_a_fault_passes_every_check() {
    let report = evaluate(&[(plugin::FAULT, "")], plugin::command());
    let passed = report
        .findings
        .iter()
        .all(|f| matches!(f.verdict, Verdict::Pass(_)));
    assert!(passed && report.holds(true), "{}", describe(&report));
}

#[test]
fn a_fault_of_one_resource_is_no_fault_of_the_other() {
    let report = evaluate(&[(plugin::FAULT, "health-values")], plugin::command());
    let expected = BTreeSet::from([("health-values", Some(plugin::RESOURCES[0]))]);
    assert_eq!(failed(&report), expected, "{}", describe(&report));
}

/// `UPDATE=1` writes the table.
#[test]
fn the_page_has_every_check_with_its_rule() {
    const START: &str =
        "<!-- This table is generated: UPDATE=1 cargo test the_page_has_every_check -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance.md");
    let page = fs::read_to_string(&path).expect("a page");
    let (before, rest) = page.split_once(START).expect("the line before the table");
    let end = rest.find("\n\n").map_or(rest.len(), |end| end + 1);
    let (shown, after) = rest.split_at(end);
    let mut table =
        "| check | level | a plugin … | because | source |\n|---|---|---|---|---|\n".to_owned();
    for check in checks() {
        let Check {
            id,
            level,
            statement,
            rule,
            source,
            ..
        } = check;
        let row = format!("| `{id}` | {level} | {statement} | {rule} | {source} |\n");
        table.push_str(&row);
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{START}{table}{after}")).expect("the page");
    } else {
        assert_eq!(
            shown, table,
            "docs/conformance.md: UPDATE=1 cargo test the_page_has_every_check"
        );
    }
}

#[test]
fn the_daemon_passes_every_check() {
    let variables = [
        ("HTTP_ADDRESS", ""),
        ("CONTROL_SOCKET", ""),
        ("POD_RESOURCES_SOCKET", ""),
        ("NODE_NAME", "n"),
        ("RESOURCE_NAME", "example.com/gpu,example.com/nic"),
        ("NUMBER_DEVICES", "4,2"),
        ("NUMA_NODES", "0-1"),
        ("PREFERRED_ALLOCATION", "packed"),
        ("ENV_PREFIX", "GPU,NIC"),
        ("DEVICE_FILE_PREFIX", "gpu,nic"),
        ("DEVICE_FILE_HOST_PATH", "/dev/null"),
    ];
    let report = evaluate(&variables, vec![binary("simple-device-plugin").into()]);
    assert!(
        report.holds(true) && failed(&report).is_empty(),
        "{}",
        describe(&report)
    );
    let skipped = report
        .findings
        .iter()
        .filter(|f| f.verdict.name() == "skip");
    let skipped: BTreeSet<&str> = skipped.map(|finding| finding.check().id).collect();
    // The daemon does not require it.
    assert_eq!(skipped, BTreeSet::from(["pre-start-container"]));
}

fn conformance(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary("kubelet-sim"));
    output(command.arg("conformance").args(arguments))
}

#[test]
fn the_exit_code_says_whether_the_plugin_conforms() {
    let only = ["--only", "registers-early-kubelet"];
    let (code, stdout, stderr) =
        conformance(&[&only[..], &["--", "sh", "-c", "echo no device; exit 3"]].concat());
    assert_eq!((code, &*stderr), (Some(1), ""), "{stdout}");
    for words in [
        "FAIL  MUST    registers-early-kubelet",
        "Seen:    the plugin exited: exit status: 3",
        "| no device",
        "The plugin does not conform: 0 passed, 1 failed (1 MUST, 0 SHOULD), 0 skipped",
    ] {
        assert!(stdout.contains(words), "{words} is not in\n{stdout}");
    }
    assert!(
        stdout.lines().all(|line| line.chars().count() <= 80),
        "{stdout}"
    );
    for wrong in [&[][..], &["--only", "no-such-check", "--", "true"]] {
        let (code, _, stderr) = conformance(wrong);
        assert_eq!(code, Some(2), "{stderr}");
    }
}

#[test]
fn a_program_that_does_not_exist_is_an_error() {
    let (code, stdout, stderr) = conformance(&["--", "/no/such/plugin", "--flag"]);
    assert_eq!((code, &*stdout), (Some(1), ""));
    assert_eq!(
        stderr,
        "error: cannot start /no/such/plugin: there is no such program\n"
    );
}

#[test]
fn the_results_are_also_json_and_junit() {
    let daemon = binary("simple-device-plugin");
    let plugin = [
        "env",
        "HTTP_ADDRESS=",
        "CONTROL_SOCKET=",
        "RESOURCE_NAME=example.com/gpu",
    ];
    let command = [&["--"][..], &plugin, &[daemon.to_str().expect("UTF-8")]].concat();
    let json = [
        "--output",
        "json",
        "--only",
        "ids-unique,pre-start-container",
    ];
    let (code, stdout, stderr) = conformance(&[&json[..], &command].concat());
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    let mut report: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    for check in report["checks"].as_array_mut().expect("an array") {
        let seconds = check.as_object_mut().expect("an object").remove("seconds");
        assert!(seconds.is_some_and(|seconds| seconds.is_f64()));
    }
    let expected = serde_json::json!({
        "checks": [
            {"id": "ids-unique", "level": "must", "resource": "example.com/gpu", "result": "pass", "seen": ""},
            {
                "id": "pre-start-container", "level": "must", "resource": "example.com/gpu", "result": "skip",
                "seen": "the plugin does not require it"
            },
        ],
        "summary": {"passed": 1, "failed": 0, "skipped": 1},
    });
    assert_eq!(report, expected);
    let failing = ["--", "sh", "-c", "echo '<&>'; exit 3"];
    let junit = [
        "--output",
        "junit",
        "--only",
        "registers-early-kubelet,ids-unique",
    ];
    let (code, stdout, _) = conformance(&[&junit[..], &failing].concat());
    assert_eq!(code, Some(1), "{stdout}");
    for words in [
        r#"tests="2" failures="1" errors="0" skipped="1">"#,
        r#"<failure type="MUST" message="the plugin exited: exit status: 3">"#,
        "&gt; &lt;&amp;&gt;",
        r#"name="ids-unique""#,
    ] {
        assert!(stdout.contains(words), "{words} is not in\n{stdout}");
    }
}

/// A plugin that someone else runs is neither started nor stopped.
#[test]
fn judges_a_plugin_that_runs_already() {
    let dir = plugin_dir();
    let mut daemon =
        crate::support::process::Running::manager(dir.path(), &[("RESOURCE_NAME", "a.io/x")]);
    let path = dir.path().to_str().expect("UTF-8");
    let only =
        "registers-early-kubelet,registers-late-kubelet,allocate-all,kubelet-restart,sigterm-exits";
    let (code, stdout, stderr) = conformance(&["--dir", path, "--only", only]);
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    assert!(
        stdout.contains("3 passed, 0 failed (0 MUST, 0 SHOULD), 2 skipped"),
        "{stdout}"
    );
    assert!(
        stdout.contains("needs a command that starts the"),
        "{stdout}"
    );
    assert!(daemon.child.try_wait().expect("a status").is_none());
}

#[test]
fn lists_every_check() {
    let (code, stdout, _) = conformance(&["--list"]);
    assert_eq!(code, Some(0));
    for check in checks() {
        assert!(
            stdout.contains(&format!(
                "{}  {} ",
                format_args!("{:6}", check.level),
                check.id
            )),
            "{}",
            check.id
        );
    }
}

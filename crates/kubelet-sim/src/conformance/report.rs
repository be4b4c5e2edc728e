//! The results of a run, and their formats.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::checks::{Check, Level, Verdict};

/// The result of a check for a resource, or for the plugin as a whole.
#[derive(Debug)]
pub struct Finding {
    pub(super) check: &'static Check,
    /// The resource that was evaluated; `None` if the check evaluates the plugin as a whole.
    pub resource: Option<String>,
    /// The result.
    pub verdict: Verdict,
    /// How long the check took.
    pub took: Duration,
    /// The last lines of the plugin's output if the check failed.
    pub output: Vec<String>,
}

impl Finding {
    /// Returns the check.
    pub fn check(&self) -> &'static Check {
        self.check
    }

    fn to_json(&self) -> FindingJson<'_> {
        FindingJson {
            id: self.check.id,
            level: match self.check.level {
                Level::Must => "must",
                Level::Should => "should",
            },
            resource: self.resource.as_deref(),
            result: self.verdict.name(),
            seen: self.verdict.seen(),
            seconds: (self.took.as_secs_f64() * 1000.0).round() / 1000.0,
        }
    }
}

/// The results of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// The results in the order of the checks.
    pub findings: Vec<Finding>,
    /// Whether the plugin could be registered as often as the checks needed it.
    pub(super) is_evaluated: bool,
}

/// The number of results of each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Summary {
    passed: usize,
    failed: usize,
    skipped: usize,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    id: &'a str,
    level: &'a str,
    resource: Option<&'a str>,
    result: &'a str,
    seen: &'a str,
    seconds: f64,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    checks: Vec<FindingJson<'a>>,
    summary: Summary,
}

impl Report {
    /// Returns whether every MUST holds, and with `strict` every SHOULD too. A skipped check does not count as failed,
    /// but if no check passed, or if the plugin could not be registered for the later ones, it was not evaluated.
    pub fn holds(&self, strict: bool) -> bool {
        let fails = |finding: &Finding| {
            let counts = strict || finding.check.level == Level::Must;
            counts && matches!(finding.verdict, Verdict::Fail(_))
        };
        self.is_evaluated && self.summary().passed > 0 && !self.findings.iter().any(fails)
    }

    /// Returns whether every check was skipped.
    pub fn is_empty(&self) -> bool {
        let Summary { passed, failed, .. } = self.summary();
        passed + failed == 0
    }

    fn summary(&self) -> Summary {
        let count = |name| self.with_result(name).count();
        Summary {
            passed: count("pass"),
            failed: count("fail"),
            skipped: count("skip"),
        }
    }

    fn with_result(&self, name: &str) -> impl Iterator<Item = &Finding> {
        let findings = self.findings.iter();
        findings.filter(move |finding| finding.verdict.name() == name)
    }

    /// Returns the summary in one line.
    pub fn summary_line(&self) -> String {
        let Summary {
            passed,
            failed,
            skipped,
        } = self.summary();
        let must = self.with_result("fail");
        let must = must
            .filter(|finding| finding.check.level == Level::Must)
            .count();
        format!(
            "{passed} passed, {failed} failed ({must} MUST, {} SHOULD), {skipped} skipped",
            failed - must
        )
    }

    /// Writes the report as JSON.
    ///
    /// # Errors
    /// Returns an error if `out` cannot be written.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        let report = ReportJson {
            checks: self.findings.iter().map(Finding::to_json).collect(),
            summary: self.summary(),
        };
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)
    }

    /// Writes the report in the XML format of JUnit. A failed SHOULD is a failure too.
    ///
    /// # Errors
    /// Returns an error if `out` cannot be written.
    pub fn write_junit(&self, mut out: impl Write) -> io::Result<()> {
        let Summary {
            failed, skipped, ..
        } = self.summary();
        let tests = self.findings.len();
        writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
        writeln!(
            out,
            r#"<testsuite name="device plugin conformance" tests="{tests}" failures="{failed}" errors="0" skipped="{skipped}">"#
        )?;
        let mut last_id = "";
        for finding in &self.findings {
            let class = finding.resource.as_deref().unwrap_or("plugin");
            let (class, id) = (escape(class), finding.check.id);
            // The time of a check counts once, with its first resource.
            let is_first = std::mem::replace(&mut last_id, id) != id;
            let seconds = if is_first {
                finding.took.as_secs_f64()
            } else {
                0.0
            };
            write!(
                out,
                r#"  <testcase classname="{class}" name="{id}" time="{seconds:.3}">"#
            )?;
            let seen = escape(finding.verdict.seen());
            match finding.verdict {
                Verdict::Pass(_) => {}
                Verdict::Skip(_) => write!(out, r#"<skipped message="{seen}"/>"#)?,
                Verdict::Fail(_) => {
                    let level = finding.check.level;
                    let mut text =
                        format!("{}\nTo do: {}", finding.check.rule, finding.check.advice);
                    for line in &finding.output {
                        let _ = write!(text, "\n> {line}");
                    }
                    let text = escape(&text);
                    write!(
                        out,
                        r#"<failure type="{level}" message="{seen}">{text}</failure>"#
                    )?;
                }
            }
            writeln!(out, "</testcase>")?;
        }
        writeln!(out, "</testsuite>")
    }
}

/// Escapes a text for XML. Control characters, which XML cannot contain, are replaced.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push('\n'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

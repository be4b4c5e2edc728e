//! `conformance`: evaluates a device plugin, and prints the results as a table, as JSON or for a CI system.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use anstyle::Style;
use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use kubelet_sim::conformance::{
    Check, Finding, Progress, Report, Selection, Settings, Target, Verdict, checks, run,
};
use simple_device_plugin::cli::style::{BAD, DIM, GOOD, ODD};
use textwrap::{Options, WordSplitter, wrap};
use tokio_util::sync::CancellationToken;

use super::screen::Screen;

/// The width of the table.
const COLUMNS: usize = 80;
/// The indentation of the details of a failure.
const DETAILS: usize = 6;

/// The arguments of `kubelet-sim conformance`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").args(["dir", "command", "list"]).required(true).multiple(true))]
pub(crate) struct ConformanceArgs {
    /// The kubelet's directory, in which every socket is removed; without a
    /// command, start the plugin yourself [default: a temporary directory]
    #[arg(long, verbatim_doc_comment)]
    dir: Option<PathBuf>,
    /// Variable for the kubelet's directory
    #[arg(long, value_name = "NAME", default_value = "DEVICE_PLUGIN_PATH")]
    plugin_dir_env: String,
    /// Run only these checks; a check ID or several with commas
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = ids(), hide_possible_values = true)]
    only: Vec<String>,
    /// Do not run these checks
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = ids(), hide_possible_values = true)]
    skip: Vec<String>,
    /// Fail if a SHOULD is broken, too
    #[arg(long)]
    strict: bool,
    /// Output format
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// List the checks, and run none
    #[arg(long)]
    list: bool,
    /// The plugin and its arguments; {dir} is replaced by the kubelet's
    /// directory. As root, the plugin also finds it at the usual path
    #[arg(last = true, verbatim_doc_comment)]
    command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Junit,
}

fn ids() -> PossibleValuesParser {
    PossibleValuesParser::new(checks().map(|check| check.id))
}

/// Runs the checks until `stop` is canceled. Returns whether the plugin conforms.
///
/// # Errors
/// Returns an error if the checks cannot run, if the output cannot be written, or if `stop` is canceled.
pub(crate) async fn conformance(
    arguments: ConformanceArgs,
    mut out: Screen<impl Write>,
    stop: CancellationToken,
) -> anyhow::Result<bool> {
    if arguments.list {
        list(&mut out)?;
        return Ok(true);
    }
    let temporary;
    let dir = if let Some(dir) = arguments.dir {
        dir
    } else {
        temporary = tempfile::tempdir().context("cannot create a temporary directory")?;
        temporary.path().to_owned()
    };
    let target = Target {
        dir,
        command: arguments.command,
        dir_env: arguments.plugin_dir_env,
    };
    let selection = Selection {
        only: BTreeSet::from_iter(arguments.only),
        skip: BTreeSet::from_iter(arguments.skip),
    };
    let format = arguments.output;
    let progress = |progress: Progress<'_>| match progress {
        _ if format != Format::Table => Ok(()),
        Progress::Target(text) => {
            write_wrapped(&mut out, text, 0)?;
            writeln!(out)
        }
        Progress::Started(check) => out.show_progress(check.id),
        Progress::Finished(finding) => write_finding(&mut out, finding),
    };
    let report = run(target, Settings::default(), &selection, progress);
    let Some(report) = stop.run_until_cancelled(report).await else {
        bail!("interrupted");
    };
    let report = report?;
    match format {
        Format::Table => write_summary(&mut out, &report, arguments.strict)?,
        Format::Json => report.write_json(&mut out)?,
        Format::Junit => report.write_junit(&mut out)?,
    }
    out.flush()?;
    Ok(report.holds(arguments.strict))
}

fn list(out: &mut impl Write) -> io::Result<()> {
    for Check {
        id,
        level,
        statement,
        ..
    } in checks()
    {
        write_wrapped(out, &format!("{level:6}  {id:28}  {statement}"), 38)?;
    }
    Ok(())
}

fn write_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let check = finding.check();
    let (style, result) = match finding.verdict {
        Verdict::Pass(_) => (GOOD, "pass"),
        Verdict::Fail(_) if check.level == kubelet_sim::conformance::Level::Must => (BAD, "FAIL"),
        Verdict::Fail(_) => (ODD, "FAIL"),
        Verdict::Skip(_) => (DIM, "skip"),
    };
    let failed = matches!(finding.verdict, Verdict::Fail(_));
    let resource = finding.resource.as_deref().unwrap_or_default();
    let seen = finding.verdict.seen();
    let text = match (resource, seen) {
        (resource, _) if failed => resource.to_owned(),
        ("", seen) => seen.to_owned(),
        (resource, "") => resource.to_owned(),
        (resource, seen) => format!("{resource}: {seen}"),
    };
    let Check { id, level, .. } = check;
    let lines = format!("{level:6}  {id:28}  {text}");
    let mut lines = wrapped(&lines, COLUMNS - DETAILS, 38).into_iter();
    let first = lines.next().unwrap_or_default();
    writeln!(out, "{style}{result}{style:#}  {}", first.trim_end())?;
    for line in lines {
        writeln!(out, "      {line}")?;
    }
    if failed {
        write_failure(out, finding)?;
    }
    Ok(())
}

fn write_failure(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let check = finding.check();
    let details = [
        ("Seen:    ", finding.verdict.seen().to_owned()),
        ("Kubelet: ", format!("{} ({})", check.rule, check.source)),
        ("To do:   ", check.advice.to_owned()),
    ];
    for (label, text) in details {
        for line in wrapped(&format!("{label}{text}"), COLUMNS - DETAILS, label.len()) {
            writeln!(out, "      {line}")?;
        }
    }
    if !finding.output.is_empty() {
        writeln!(out, "      The plugin's last output:")?;
        for line in &finding.output {
            let options = Options::new(COLUMNS - DETAILS - 2);
            for line in wrap(line, options) {
                writeln!(out, "      {DIM}| {line}{DIM:#}")?;
            }
        }
    }
    Ok(())
}

fn write_summary(out: &mut impl Write, report: &Report, strict: bool) -> io::Result<()> {
    let (style, result): (Style, _) = if report.holds(strict) {
        (GOOD, "The plugin conforms")
    } else if report.is_empty() {
        (BAD, "Nothing was evaluated")
    } else {
        (BAD, "The plugin does not conform")
    };
    let summary = report.summary_line();
    writeln!(out, "\n{style}{result}{style:#}: {summary}")
}

fn write_wrapped(out: &mut impl Write, text: &str, indent: usize) -> io::Result<()> {
    for line in wrapped(text, COLUMNS, indent) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Wraps a text. All lines but the first are indented.
fn wrapped(text: &str, columns: usize, indent: usize) -> Vec<String> {
    let indent = " ".repeat(indent);
    let options = Options::new(columns)
        .subsequent_indent(&indent)
        .break_words(false)
        .word_splitter(WordSplitter::NoHyphenation);
    wrap(text, options).into_iter().map(Into::into).collect()
}

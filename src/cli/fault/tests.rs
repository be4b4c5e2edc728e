//! Tests of the `fault` command line.

use super::*;
use crate::api::grpc_code::CODES;
use clap::{CommandFactory, Parser};
use proptest::prelude::*;

const GPU: &str = "example.com/gpu";

#[derive(Debug, Parser)]
#[command(name = "simple-device-plugin", bin_name = "simple-device-plugin fault")]
struct FaultLine {
    #[command(subcommand)]
    command: FaultCommand,
}

/// Parses the text as a command line, with the resource inserted after the kind of the fault.
fn fault(text: &str) -> Result<Fault, String> {
    let mut words = shell_words(text);
    words.insert(1, GPU.to_owned());
    words.insert(0, "fault".to_owned());
    let line = FaultLine::try_parse_from(words).map_err(|error| error.to_string())?;
    let FaultCommand::Inject(command) = line.command else {
        panic!("{text} is not a command that sets a fault");
    };
    match command.request() {
        Ok((Request::Fault { resource, fault }, false)) if resource == GPU => Ok(*fault),
        other => panic!("{text}: {other:?}"),
    }
}

/// Splits as a shell does: at spaces outside of single quotes, with `\'` for a quote.
fn shell_words(text: &str) -> Vec<String> {
    let (mut words, mut is_quoted) = (vec![String::new()], false);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let word = words.last_mut().expect("a word");
        match letter {
            '\'' => is_quoted = !is_quoted,
            '\\' if !is_quoted => word.extend(letters.next()),
            ' ' if !is_quoted => words.push(String::new()),
            letter => word.push(letter),
        }
    }
    words
}

#[test]
fn a_fault_is_displayed_as_its_command_line() {
    for text in [
        "allocate --delay 10s --probability 0.5 --after 3 --times 2 --seed 7",
        "preferred --error ABORTED --times unlimited",
        "pre-start --error UNAVAILABLE --message 'no luck' --times 1",
        "options --error INTERNAL --message 'it'\\''s no use'",
        "stream",
        "registration",
        "registration --for 1m30s",
        "health 0,2-3 --up 10s --down 5s",
    ] {
        assert_eq!(fault(text).unwrap().to_string(), text);
    }
}

#[test]
fn flags_that_cannot_be_combined_are_refused() {
    for (text, expected) in [
        ("allocate", "<--delay <TIME>|--error <CODE>>"),
        (
            "options --delay 1s --error INTERNAL",
            "'--delay <TIME>' cannot be used with '--error <CODE>'",
        ),
        (
            "preferred --delay 1s --message m",
            "'--delay <TIME>' cannot be used with '--message <TEXT>'",
        ),
        ("preferred --message m", "<--delay <TIME>|--error <CODE>>"),
        ("allocate 0 --delay 1s", "unexpected argument '0'"),
        ("stream --for 1s", "unexpected argument '--for'"),
        ("registration --delay 1s", "unexpected argument '--delay'"),
        ("health all --up 1s", "--down <TIME>"),
        ("health --up 1s --down 1s", "<DEVICES>"),
    ] {
        let error = fault(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn values_out_of_range_are_refused_with_the_expected_range() {
    for (text, expected) in [
        (
            "allocate --delay 61s",
            "'61s' for '--delay <TIME>': expected a duration from 10ms to 60s, for example 10s",
        ),
        (
            "allocate --error OK",
            "'OK' for '--error <CODE>': expected one of the gRPC status codes CANCELED, UNKNOWN, ",
        ),
        (
            "registration --for 25h",
            "'25h' for '--for <TIME>': expected a duration from 1ms to 24h, for example 10s",
        ),
        (
            "health 0 --up 1ms --down 1s",
            "'1ms' for '--up <TIME>': expected a duration from 1s to 24h, for example 10s",
        ),
        (
            "health '' --up 1s --down 1s",
            "for '<DEVICES>': expected text of 1 to 4096 bytes without control characters",
        ),
        (
            "stream --times 0",
            "'0' for '--times <N|unlimited>': expected a whole number, 1 or more, or unlimited",
        ),
        (
            "stream --probability 2",
            "'2' for '--probability <P>': expected a number from 0 to 1, for example 0.5",
        ),
    ] {
        let error = fault(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn help_fits_80_columns_and_has_an_example() {
    let mut command = FaultLine::command();
    command.build();
    let help = command.render_help().to_string();
    assert!(help.lines().all(|line| line.len() <= 80), "{help}");
    for subcommand in command.get_subcommands_mut() {
        let help = subcommand.render_help().to_string();
        assert!(help.lines().all(|line| line.len() <= 80), "{help}");
        let name = subcommand.get_name();
        let example = format!("Example:\n  simple-device-plugin fault {name}");
        assert!(name == "help" || help.contains(&example), "{help}");
    }
}

fn milliseconds(from: u64, to: u64) -> impl Strategy<Value = Duration> {
    (from..=to).prop_map(Duration::from_millis)
}

fn call_faults() -> impl Strategy<Value = CallFault> {
    let code =
        prop::sample::select(&CODES[1..]).prop_map(|code| ErrorCode::parse(code).expect("a code"));
    let message = prop::option::of("[^\\p{Cc}]{1,60}");
    prop_oneof![
        milliseconds(10, 60_000).prop_map(CallFault::Delay),
        (code, message).prop_map(|(code, message)| CallFault::Error { code, message }),
    ]
}

fn kinds() -> impl Strategy<Value = FaultKind> {
    let duration = prop::option::of(milliseconds(1, 86_400_000));
    // A name that begins with a hyphen would be parsed as a flag unless it follows `--`.
    let devices = "[^\\p{Cc}-][^\\p{Cc}]{0,60}";
    let phase = || milliseconds(1000, 86_400_000);
    let flap = (devices, phase(), phase());
    prop_oneof![
        call_faults().prop_map(FaultKind::Allocate),
        call_faults().prop_map(FaultKind::Preferred),
        call_faults().prop_map(FaultKind::PreStart),
        call_faults().prop_map(FaultKind::Options),
        Just(FaultKind::Stream),
        duration.prop_map(|duration| FaultKind::Registration { duration }),
        flap.prop_map(|(devices, up, down)| FaultKind::Health(Flap { devices, up, down })),
    ]
}

fn faults() -> impl Strategy<Value = Fault> {
    // serde_json parses longer fractions with an error in the last bit.
    let probability = prop::option::of((0..=1000_u16).prop_map(|thousandths| {
        let number = f64::from(thousandths) / 1000.0;
        Probability::parse(&number.to_string()).expect("a probability")
    }));
    let times = prop::option::of(prop_oneof![
        Just(Times::Unlimited),
        (1_u64..).prop_map(|count| Times::parse(&count.to_string()).expect("a count")),
    ]);
    let schedule = (probability, any::<u64>(), times, any::<Option<u64>>());
    (kinds(), schedule).prop_map(|(on, (probability, after, times, seed))| {
        let schedule = Schedule {
            probability,
            after,
            times,
            seed,
        };
        Fault { on, schedule }
    })
}

proptest! {
    #[test]
    fn a_fault_survives_a_round_trip_through_text_and_json(expected in faults()) {
        let text = expected.to_string();
        prop_assert_eq!(fault(&text), Ok(expected.clone()), "{}", text);
        let json = serde_json::to_string(&expected).expect("JSON");
        let read: Fault = serde_json::from_str(&json).expect("a fault");
        prop_assert_eq!(read, expected, "{}", json);
    }
}

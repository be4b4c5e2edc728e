//! The metrics count what happened, and docs/status-and-metrics.md lists all of them.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use crate::support::fake_kubelet::{Answer, FakeKubelet};
use crate::support::http::{Http, Observed};
use crate::support::process::Running;
use crate::support::{
    A, B, BOTH, Manager, ONE, counted, kubelet, plugin_dir, pod, replace_checkpoint, resources,
    text, within, write_checkpoint,
};
use simple_device_plugin::model::device::Health;
use simple_device_plugin::plugin::record::{Cause, Record, RegistrationResult, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn metrics_count_what_happened() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), BOTH);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready").await;
    kubelet.admit(&pod("p", &[(A, 2)])).await.expect("admitted");
    manager
        .plugin(B)
        .set_health("b-n-0", Health::Unhealthy)
        .expect("a device");
    assert!(kubelet.disconnect_plugin(B));
    manager
        .record(B, "a second registration", |record| {
            record.registrations[RegistrationResult::Registered] == 2
        })
        .await;
    http.readiness(200, "ready").await;
    let (status, text) = http.get("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "devices{resource=\"example.com/a\",health=\"Healthy\"} 2",
        "devices{resource=\"example.com/b\",health=\"Healthy\"} 1",
        "devices{resource=\"example.com/b\",health=\"Unhealthy\"} 1",
        "held_devices{resource=\"example.com/a\"} 2",
        "held_devices{resource=\"example.com/b\"} 0",
        "ready{resource=\"example.com/a\"} 1",
        "registrations_total{resource=\"example.com/a\",result=\"registered\"} 1",
        "registrations_total{resource=\"example.com/b\",result=\"registered\"} 2",
        "registrations_total{resource=\"example.com/b\",result=\"refused\"} 0",
        "restarts_total{resource=\"example.com/b\",cause=\"stream\"} 1",
        "restarts_total{resource=\"example.com/b\",cause=\"kubelet\"} 0",
        "allocate_requests_total{resource=\"example.com/a\",code=\"OK\"} 1",
        "allocate_requests_total{resource=\"example.com/a\",code=\"NotFound\"} 0",
        "allocate_duration_seconds_bucket{le=\"60.0\",resource=\"example.com/a\"} 1",
        "allocate_duration_seconds_count{resource=\"example.com/a\"} 1",
        "allocate_duration_seconds_bucket{le=\"+Inf\",resource=\"example.com/a\"} 1",
        "allocated_devices_total{resource=\"example.com/a\"} 2",
        "config_reloads_total{result=\"refused\"} 0",
        concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        let line = format!("\nsimple_device_plugin_{line}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    let _kubelet = kubelet.restart().await.expect("a new kubelet");
    manager
        .record(A, "a second registration", |record| {
            record.registrations[RegistrationResult::Registered] == 2
        })
        .await;
    let (_, text) = http.get("/metrics").await;
    let line = "restarts_total{resource=\"example.com/a\",cause=\"kubelet\"} 1";
    assert!(text.contains(line), "{text}");
    manager.stop().await;
}

/// Gets the metrics with this `Accept` header. Returns the value of the `Content-Type` header, and the body.
async fn scrape(http: &Http, method: &str, accept: &str) -> (String, String) {
    let mut stream = http.connect().await;
    let request = format!("{method} /metrics HTTP/1.1\r\nhost: n\r\naccept: {accept}\r\n\r\n");
    let response = within("a response", async {
        let mut response = String::new();
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("a server");
        let received = stream.read_to_string(&mut response).await;
        received.map(|_| response).expect("a server")
    });
    let response = response.await;
    let (head, body) = response.split_once("\r\n\r\n").expect("a response");
    let (_, media_type) = head.split_once("content-type: ").expect("a media type");
    let media_type = media_type.lines().next().expect("a line");
    (media_type.to_owned(), body.to_owned())
}

/// Returns the type, the help and the samples of each metric, by the name of the samples. Checks that the samples follow
/// the type, and have names that are valid for it. `total` is the suffix that a counter's samples have but its type lacks.
fn parse<'a>(text: &'a str, total: &str) -> BTreeMap<String, (&'a str, &'a str, Vec<&'a str>)> {
    let mut metrics = BTreeMap::new();
    for text in text.split("# HELP ").skip(1) {
        let mut lines = text.lines().filter(|line| !line.starts_with("# UNIT "));
        let help = lines.next().expect("the help");
        let (name, help) = help.split_once(' ').expect("a help");
        let metric_type = lines.next().expect("the type");
        let metric_type = metric_type.strip_prefix("# TYPE ").expect("a type");
        let metric_type = metric_type.strip_prefix(name).expect("the same name");
        let (name, suffixes) = match metric_type {
            " counter" => (format!("{name}{total}"), &[""][..]),
            " gauge" => (name.to_owned(), &[""][..]),
            " histogram" => (name.to_owned(), &["_bucket", "_count", "_sum"][..]),
            other => panic!("{other}"),
        };
        let samples: Vec<&str> = lines.collect();
        for sample in &samples {
            let suffix = sample.split(['{', ' ']).next().expect("a name");
            let suffix = suffix.strip_prefix(&name).expect(sample);
            assert!(suffixes.contains(&suffix), "{sample}");
        }
        metrics.insert(name, (metric_type, help, samples));
    }
    metrics
}

#[tokio::test]
async fn both_formats_have_the_same_samples() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), BOTH);
    let http = Http::of(&manager).await;
    http.readiness(200, "ready").await;
    kubelet.admit(&pod("p", &[(A, 2)])).await.expect("admitted");
    let prometheus =
        "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
    let (open_metrics_type, open_metrics) = scrape(&http, "GET", prometheus).await;
    let (text_type, text) = scrape(&http, "GET", "*/*").await;
    assert_eq!(
        open_metrics_type,
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert_eq!(text_type, "text/plain; version=0.0.4; charset=utf-8");
    let unit = "# UNIT simple_device_plugin_allocate_duration_seconds seconds\n";
    assert!(open_metrics.contains(unit), "{open_metrics}");
    assert!(
        !text.contains("# EOF") && !text.contains("# UNIT"),
        "{text}"
    );
    let metrics = parse(&text, "");
    assert!(metrics.len() > 10, "{text}");
    let complete = open_metrics.strip_suffix("# EOF\n").expect("the end");
    assert_eq!(parse(complete, "_total"), metrics);
    for (accept, media_type) in [(prometheus, open_metrics_type), ("text/plain", text_type)] {
        let head = scrape(&http, "HEAD", accept).await;
        assert_eq!(head, (media_type, String::new()));
    }
    manager.stop().await;
}

#[tokio::test]
async fn the_docs_list_exactly_the_metrics_that_exist() {
    let dir = plugin_dir();
    write_checkpoint(dir.path(), &[]);
    let manager = Manager::start(dir.path(), ONE);
    let http = Http::of(&manager).await;
    let (_, text) = http.get("/metrics").await;
    let types = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE simple_device_plugin_"));
    let mut exposed: Vec<&str> = types
        .map(|line| line.split(' ').next().expect("a name"))
        .collect();
    exposed.sort_unstable();
    let page = include_str!("../../docs/status-and-metrics.md");
    let (_, section) = page.split_once("| metric |").expect("a table of metrics");
    let rows = section
        .split("\n\n")
        .next()
        .expect("its end")
        .lines()
        .skip(2);
    let name = |row: &str| row.split('`').nth(1).expect("a name").to_owned();
    let mut documented: Vec<String> = rows.map(name).collect();
    let strip_labels =
        |name: &mut String| *name = name.split('{').next().expect("a name").to_owned();
    documented.iter_mut().for_each(strip_labels);
    documented.sort();
    assert_eq!(documented, exposed);
    manager.stop().await;
}

/// Returns the value of a metric without labels, or `None` if it has no sample.
async fn value(http: &Http, name: &str) -> Option<u64> {
    let (_, text) = http.get("/metrics").await;
    let sample = format!("simple_device_plugin_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&sample));
    value.map(|value| value.parse().expect("a number"))
}

const SUCCESSFUL: &str = "config_last_reload_successful";
const SUCCESS_TIMESTAMP: &str = "config_last_reload_success_timestamp_seconds";

#[tokio::test]
async fn metrics_show_whether_the_config_file_is_in_use() {
    let dir = plugin_dir();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, counted(2)).expect("a file");
    let variables = [
        ("CONFIG_FILE", text(&file)),
        ("HTTP_ADDRESS", "127.0.0.1:0"),
    ];
    let before_start = unix_now();
    let running = Running::manager(dir.path(), &variables);
    let http = Http::of_process(&running);
    assert_eq!(value(&http, SUCCESSFUL).await, Some(1));
    let started = value(&http, SUCCESS_TIMESTAMP).await.expect("a time");
    assert!((before_start..=unix_now()).contains(&started), "{started}");
    std::fs::write(&file, "resources: 1").expect("a file");
    let refused = "config_reloads_total{result=\"refused\"} 1\n";
    http.gets("/metrics", 200, refused).await;
    assert_eq!(value(&http, SUCCESSFUL).await, Some(0));
    assert_eq!(value(&http, SUCCESS_TIMESTAMP).await, Some(started));
    let before_reload = unix_now();
    std::fs::write(&file, counted(3)).expect("a file");
    let changed = "config_reloads_total{result=\"changed\"} 1\n";
    http.gets("/metrics", 200, changed).await;
    assert_eq!(value(&http, SUCCESSFUL).await, Some(1));
    let reloaded = value(&http, SUCCESS_TIMESTAMP).await.expect("a time");
    assert!(
        (before_reload..=unix_now()).contains(&reloaded),
        "{reloaded}"
    );
}

fn unix_now() -> u64 {
    let now = UNIX_EPOCH.elapsed().expect("a time after 1970");
    now.as_secs()
}

#[tokio::test]
async fn without_a_config_file_there_is_no_success_of_it() {
    let Observed {
        manager,
        http,
        dir: _dir,
    } = Observed::of(ONE).await;
    assert_eq!(value(&http, SUCCESSFUL).await, None);
    assert_eq!(value(&http, SUCCESS_TIMESTAMP).await, None);
    manager.stop().await;
}

#[tokio::test]
async fn metrics_show_whether_the_checkpoint_can_be_read() {
    let Observed { manager, http, dir } = Observed::of(ONE).await;
    let readable = "kubelet_checkpoint_readable";
    assert_eq!(value(&http, readable).await, None);
    write_checkpoint(dir.path(), &[]);
    assert_eq!(value(&http, readable).await, Some(1));
    replace_checkpoint(dir.path(), "{");
    assert_eq!(value(&http, readable).await, Some(0));
    manager.stop().await;
}

#[tokio::test]
async fn registrations_are_counted_by_result() {
    for (answer, result) in [
        (Answer::Refuse, RegistrationResult::Refused),
        (Answer::Ignore, RegistrationResult::NotCalledBack),
        (Answer::Accept, RegistrationResult::Registered),
    ] {
        let dir = plugin_dir();
        let kubelet = FakeKubelet::serve(dir.path(), move |_| answer);
        let manager = Manager::start(dir.path(), ONE);
        let counted = move |record: &Record| record.registrations[result] > 0;
        let record = manager.record(A, result.as_str(), counted).await;
        let received = u64::from(kubelet.registered.borrow()[A]);
        assert_eq!(record.registrations.values().sum::<u64>(), received);
        manager.stop().await;
    }
}

#[tokio::test]
async fn changed_options_count_as_a_restart_by_configuration() {
    let dir = plugin_dir();
    let _kubelet = kubelet(dir.path());
    let manager = Manager::start(dir.path(), ONE);
    manager.is_at(A, Step::Registered).await;
    let mut changed = resources(ONE);
    changed[0].pre_start = true;
    manager.reconfigure(changed);
    let registered_twice =
        |record: &Record| record.registrations[RegistrationResult::Registered] == 2;
    let record = manager
        .record(A, "a second registration", registered_twice)
        .await;
    let causes = record.restarts.iter().filter(|(_, count)| **count > 0);
    let causes: Vec<(Cause, &u64)> = causes.collect();
    assert_eq!(causes, [(Cause::Configuration, &1)]);
    manager.stop().await;
}

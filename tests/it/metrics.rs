//! The metrics count what happened, and docs/status-and-metrics.md lists all of them.

use crate::support::fake_kubelet::{Answer, FakeKubelet};
use crate::support::http::Http;
use crate::support::{
    A, B, BOTH, Manager, ONE, kubelet, plugin_dir, pod, resources, write_checkpoint,
};
use simple_device_plugin::model::device::Health;
use simple_device_plugin::plugin::record::{Cause, Record, RegistrationResult, Step};

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
        "allocate_seconds_bucket{le=\"60.0\",resource=\"example.com/a\"} 1",
        "allocate_seconds_count{resource=\"example.com/a\"} 1",
        "allocate_seconds_bucket{le=\"+Inf\",resource=\"example.com/a\"} 1",
        "allocated_devices_total{resource=\"example.com/a\"} 2",
        "config_reloads_total{result=\"refused\"} 0",
        concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        let line = format!("\nsimple_device_plugin_{line}\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
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
    let mut exposed: Vec<String> = types
        .map(|line| match line.split_once(' ').expect("a type") {
            (name, "counter") => format!("{name}_total"),
            (name, _) => name.to_owned(),
        })
        .collect();
    exposed.sort();
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

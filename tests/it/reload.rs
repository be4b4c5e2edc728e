//! A new configuration reaches the kubelet, and does not affect resources that did not change.

use std::time::Duration;

use crate::support::{
    A, B, Manager, assert_alive, counted, from_file, kubelet, plugin_dir, pod, registrations,
    sockets, strict_kubelet, wait_for_node, within,
};
use kubelet_sim::Kubelet;
use tokio::sync::broadcast::error::TryRecvError;

#[tokio::test]
async fn new_devices_health_and_outputs_need_no_new_registration() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(2)));
    wait_for_node(&kubelet, A, 2, 2).await;
    let listed = "resources: [{name: example.com/a, devices: [{id: x, health: Unhealthy}, {id: y}], env: {Y: '{ids}'}}]";
    manager.reconfigure(from_file(&counted(5)));
    wait_for_node(&kubelet, A, 5, 5).await;
    manager.reconfigure(from_file(listed));
    // The counted devices are removed, since no pod holds them.
    wait_for_node(&kubelet, A, 2, 1).await;
    let got = kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
    assert_eq!(got[0].response.envs["Y"], "y");
    manager.reconfigure(from_file(&listed.replace("Y: '{ids}'", "Z: other")));
    manager.reconfigure(from_file(
        &listed
            .replace("Y: '{ids}'", "Z: other")
            .replace("id: y", "id: z"),
    ));
    wait_for_node(&kubelet, A, 3, 1).await;
    let got = kubelet.admit(&pod("q", &[(A, 1)])).await.expect("admitted");
    assert_eq!(got[0].response.envs["Z"], "other");
    assert_eq!(registrations(&kubelet, A), 1, "no new registration");
    manager.stop().await;
}

async fn registered_times(kubelet: &Kubelet, resource: &str, times: u64) {
    let mut counts = kubelet.registrations();
    let counted = counts.wait_for(|counts| counts.get(resource) == Some(&times));
    within("another registration", counted)
        .await
        .expect("a kubelet");
    wait_for_node(kubelet, resource, 2, 2).await;
}

#[tokio::test]
async fn a_reload_affects_only_the_resources_that_changed() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let config = |more: &str| from_file(&format!("resources: [{{name: {A}}}, {more}]"));
    let manager = Manager::of(dir.path(), config("{name: example.com/b}"));
    wait_for_node(&kubelet, A, 2, 2).await;
    wait_for_node(&kubelet, B, 2, 2).await;
    let mut events = kubelet.events();

    // The kubelet reads the options and the endpoint only at a registration, so b registers again.
    manager.reconfigure(config("{name: example.com/b, preferredAllocation: packed}"));
    registered_times(&kubelet, B, 2).await;
    manager.reconfigure(config("{name: example.com/b, preferredAllocation: spread}"));
    manager.reconfigure(config(
        "{name: example.com/b, preferredAllocation: spread, preStart: true, pluginName: other}",
    ));
    registered_times(&kubelet, B, 3).await;
    assert!(dir.path().join("other.sock").exists());

    // Another resource replaces b.
    manager.reconfigure(config("{name: example.com/c}"));
    wait_for_node(&kubelet, "example.com/c", 2, 2).await;
    wait_for_node(&kubelet, B, 2, 0).await;
    assert_eq!(sockets(dir.path()).len(), 2);
    // The kubelet has no event of resource a.
    loop {
        match events.try_recv() {
            Ok(event) => assert_ne!(event.resource, A, "{event:?}"),
            Err(TryRecvError::Empty) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(registrations(&kubelet, A), 1);

    manager.reconfigure(from_file("resources: []"));
    wait_for_node(&kubelet, "example.com/c", 2, 0).await;
    manager.reconfigure(config("{name: example.com/b}"));
    wait_for_node(&kubelet, B, 2, 2).await;
    manager.stop().await;
}

#[tokio::test]
async fn a_change_that_the_kubelet_cannot_see_sends_no_list() {
    let dir = plugin_dir();
    let kubelet = kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(2)));
    wait_for_node(&kubelet, A, 2, 2).await;
    let mut events = kubelet.events();
    manager.reconfigure(from_file(&counted(2).replace("]}", "], env: {A: b}}")));
    let env = async {
        loop {
            let pod = pod("p", &[(A, 1)]);
            let got = kubelet.admit(&pod).await.expect("admitted");
            if got[0].response.envs.contains_key("A") {
                return;
            }
            kubelet.delete("p");
            tokio::task::yield_now().await;
        }
    };
    within("the env", env).await;
    assert!(events.try_recv().is_err(), "a list was sent");
    manager.stop().await;
}

/// Reloads come faster than the plugin can apply them, even while it registers or stops.
#[tokio::test]
async fn many_reloads_end_with_the_last_configuration() {
    let dir = plugin_dir();
    let kubelet = strict_kubelet(dir.path());
    let manager = Manager::of(dir.path(), from_file(&counted(3)));
    for round in 0..60_u64 {
        let options = [
            "",
            ", preStart: true",
            ", preferredAllocation: packed",
            ", pluginName: other",
        ];
        let text = match round % 5 {
            4 => "resources: []".to_owned(),
            _ => counted(usize::try_from(round % 7).expect("small")).replace(
                "]}",
                &format!("]{}}}", options[usize::try_from(round % 4).expect("small")]),
            ),
        };
        manager.reconfigure(from_file(&text));
        tokio::time::sleep(Duration::from_millis(round % 11)).await;
    }
    manager.reconfigure(from_file(&counted(5)));
    wait_for_node(&kubelet, A, 5, 5).await;
    kubelet.admit(&pod("p", &[(A, 1)])).await.expect("admitted");
    assert_alive(&kubelet);
    manager.stop().await;
    assert!(sockets(dir.path()).is_empty());
}

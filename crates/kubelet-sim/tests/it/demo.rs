//! `kubelet-sim demo` shows everything that a device plugin does, with our own daemon as the plugin.

use std::process::{Command, Stdio};

use crate::support::process::{Running, binary, output};

/// The demo in an environment of these variables alone, on node `n`.
fn demo(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary("kubelet-sim"));
    command
        .env_clear()
        .env("NODE_NAME", "n")
        .envs(variables.iter().copied())
        .arg("demo");
    command
}

#[test]
fn it_shows_the_whole_job() {
    let (code, stdout, stderr) = output(&mut demo(&[]));
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    for words in [
        "RESOURCE_NAME=example.com/gpu,example.com/nic",
        "example.com/gpu  4         4",
        "Pod demo asks for 2 example.com/gpu, 2 example.com/nic",
        "GPU_0=/dev/0",
        "example.com/nic-1=nic-n-1",
        "/dev/gpu-2 (rw), the host's /dev/null",
        "The kubelet restarted; all resources back after",
        "Pod demo kept its devices: gpu-n-0, gpu-n-2, nic-n-0, nic-n-1",
    ] {
        assert!(stdout.contains(words), "{words} is not in\n{stdout}");
    }
}

#[test]
fn it_takes_the_daemons_variables() {
    let variables = [
        ("RESOURCE_NAME", "a.io/x"),
        ("NUMBER_DEVICES", "1"),
        ("ENV_PREFIX", "X"),
    ];
    let (code, stdout, _) = output(&mut demo(&variables));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("Pod demo asks for 1 a.io/x"), "{stdout}");
    assert!(stdout.contains("X_0=/dev/0"), "{stdout}");
}

#[test]
fn a_plugin_that_ends_by_itself_ends_it() {
    let (code, stdout, stderr) = output(&mut demo(&[("NUMBER_DEVICES", "two")]));
    assert_eq!(code, Some(1), "{stdout}");
    assert!(
        stderr.contains("error: NUMBER_DEVICES=\"two\": expected"),
        "{stderr}"
    );
    assert!(
        stderr.ends_with("error: the plugin ended by itself, with exit status: 78\n"),
        "{stderr}"
    );
}

/// A plugin in any language finds the directory by a variable or an argument.
#[test]
fn another_plugin_is_told_where_the_kubelet_is() {
    let mut command = demo(&[("PATH", "/usr/bin:/bin")]);
    let script = "echo \"$1 is $DEVICE_PLUGIN_PATH\"; test \"$1\" = \"$DEVICE_PLUGIN_PATH\" && ls \"$1\"; exit 7";
    command.args(["--", "sh", "-c", script, "sh", "{dir}"]);
    let (code, stdout, stderr) = output(&mut command);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("kubelet.sock"), "{stdout}");
    assert!(stderr.contains("with exit status: 7"), "{stderr}");
    let mut missing = demo(&[]);
    let (_, _, stderr) = output(missing.args(["--", "/no/such/plugin"]));
    assert!(stderr.contains("cannot start /no/such/plugin"), "{stderr}");
}

#[test]
fn it_holds_until_ctrl_c() {
    let mut command = demo(&[("RUST_LOG", "info")]);
    let running = Running::start(command.arg("--hold").stdout(Stdio::piped()));
    // Registered with two lives of the kubelet, for two resources.
    for _ in 0..4 {
        running.says(" registered ");
    }
    running.signal(rustix::process::Signal::INT);
    running.says("SIGINT: stopping");
    assert_eq!(running.ends().code(), Some(0));
}

/// A shell or a build tool may stand between the demo and the plugin.
#[test]
fn a_plugin_behind_a_shell_ends_with_it() {
    let daemon = binary("simple-device-plugin");
    let mut command = demo(&[("PATH", "/usr/bin:/bin"), ("RESOURCE_NAME", "a.io/x")]);
    command.args(["--", "sh", "-c", "\"$0\"; true"]).arg(daemon);
    // The plugin has the output open: it has ended when this returns.
    let (code, stdout, stderr) = output(&mut command);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("all resources back after"), "{stdout}");
}

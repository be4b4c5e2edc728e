//! Tests of `kubelet-sim demo`, with simple-device-plugin as the plugin.

use std::process::{Command, Stdio};

use crate::support::process::{Running, binary, output};

/// Returns the command for the demo with only these variables, on node `n`.
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
fn shows_registration_allocation_and_kubelet_restart() {
    let (code, stdout, stderr) = output(&mut demo(&[]));
    assert_eq!((code, &*stderr), (Some(0), ""), "{stdout}");
    for words in [
        "RESOURCE_NAME=example.com/gpu,example.com/nic",
        "example.com/gpu  4         4",
        "Pod demo requests 2 example.com/gpu, 2 example.com/nic",
        "GPU_0=/dev/0",
        "example.com/nic-1=nic-n-1",
        "/dev/gpu-2 (rw), the host's /dev/null",
        "The kubelet restarted; all resources registered again after",
        "Pod demo kept its devices: gpu-n-0, gpu-n-2, nic-n-0, nic-n-1",
    ] {
        assert!(stdout.contains(words), "{words} is not in\n{stdout}");
    }
}

#[test]
fn uses_the_variables_of_the_daemon() {
    let variables = [
        ("RESOURCE_NAME", "a.io/x"),
        ("NUMBER_DEVICES", "1"),
        ("ENV_PREFIX", "X"),
    ];
    let (code, stdout, _) = output(&mut demo(&variables));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("Pod demo requests 1 a.io/x"), "{stdout}");
    assert!(stdout.contains("X_0=/dev/0"), "{stdout}");
}

#[test]
fn fails_if_the_plugin_exits_early() {
    let (code, stdout, stderr) = output(&mut demo(&[("NUMBER_DEVICES", "two")]));
    assert_eq!(code, Some(1), "{stdout}");
    assert!(
        stderr.contains("error: NUMBER_DEVICES=\"two\": expected"),
        "{stderr}"
    );
    assert!(
        stderr.ends_with("error: the plugin exited before the end of the demo: exit status: 78\n"),
        "{stderr}"
    );
}

/// A plugin finds the device plugin directory by a variable or an argument.
#[test]
fn another_plugin_gets_the_directory_as_an_argument_and_a_variable() {
    let mut command = demo(&[("PATH", "/usr/bin:/bin")]);
    let script = "echo \"$1 is $DEVICE_PLUGIN_PATH\"; test \"$1\" = \"$DEVICE_PLUGIN_PATH\" && ls \"$1\"; exit 7";
    command.args(["--", "sh", "-c", script, "sh", "{dir}"]);
    let (code, stdout, stderr) = output(&mut command);
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("kubelet.sock"), "{stdout}");
    assert!(stderr.contains("exit status: 7"), "{stderr}");
    let mut missing = demo(&[]);
    let (_, _, stderr) = output(missing.args(["--", "/no/such/plugin"]));
    assert!(stderr.contains("cannot start /no/such/plugin"), "{stderr}");
}

#[test]
fn hold_runs_until_ctrl_c() {
    let mut command = demo(&[("RUST_LOG", "info")]);
    let running = Running::start(command.arg("--hold").stdout(Stdio::piped()));
    // Two resources register, once before and once after the kubelet restart.
    for _ in 0..4 {
        running.wait_for_log(" registered ");
    }
    running.signal(rustix::process::Signal::INT);
    running.wait_for_log("SIGINT: stopping");
    assert_eq!(running.wait().code(), Some(0));
}

/// The command may be a shell or a build tool that starts the plugin.
#[test]
fn stops_a_plugin_that_a_shell_started() {
    let daemon = binary("simple-device-plugin");
    let mut command = demo(&[("PATH", "/usr/bin:/bin"), ("RESOURCE_NAME", "a.io/x")]);
    command.args(["--", "sh", "-c", "\"$0\"; true"]).arg(daemon);
    // The plugin has the output open, so this returns only after the plugin exited.
    let (code, stdout, stderr) = output(&mut command);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(
        stdout.contains("all resources registered again after"),
        "{stdout}"
    );
}

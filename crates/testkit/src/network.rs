//! Tests in a network namespace that has a loopback interface only.

use crate::process::ProcessBuilder;

/// Marks the process that runs inside the namespace.
const INSIDE: &str = "TESTKIT_INSIDE_NETWORK";

/// Address without a route inside the namespace: connecting fails with `ENETUNREACH`. From the
/// documentation range (RFC 5737).
pub const UNREACHABLE_NETWORK: &str = "192.0.2.1";
/// Address with an `unreachable` route inside the namespace: connecting fails with `EHOSTUNREACH`. From
/// the documentation range (RFC 5737).
pub const UNREACHABLE_HOST: &str = "198.51.100.1";
/// Address of the name server inside the namespace, on UDP port 53. A lookup lasts 150 s if a socket is bound
/// there that never responds.
pub const NAME_SERVER: &str = "127.0.0.1";

/// Runs `body` in a network namespace without external interfaces.
///
/// The test binary is started again inside the namespace to run `test` alone. `test` is the calling
/// test's name as the binary lists it. Mark the test `#[ignore]`, because creating the namespace requires
/// root or unprivileged user namespaces.
///
/// # Panics
/// If the namespace cannot be created or the test fails inside it.
pub fn in_isolated_network(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let setup = format!(
        r#"ip link set lo up && ip route add unreachable {UNREACHABLE_HOST} &&
        mount -t tmpfs tmpfs /mnt &&
        printf 'nameserver {NAME_SERVER}\noptions timeout:30 attempts:5\n' >/mnt/resolv.conf &&
        mount --bind /mnt/resolv.conf /etc/resolv.conf && exec "$@""#
    );
    let binary = std::env::current_exe().expect("path of the test binary");
    let output = ProcessBuilder::new("unshare")
        .env(INSIDE, "1")
        .args(["--map-root-user", "--net", "--mount", "sh", "-c", &setup, "sh"])
        .arg(binary)
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .run_to_exit();
    println!("{}", output.stdout.join("\n"));
    assert_eq!(output.code, Some(0), "test failed in network namespace: {:#?}", output.stderr);
    let passed = output.stdout.iter().any(|line| line.contains("1 passed"));
    assert!(passed, "no test is named {test:?}");
}

//! A network with no way out: a namespace of its own, with loopback and nothing else.

use crate::ProcessBuilder;

/// Set for the test that runs in there.
const INSIDE: &str = "TESTKIT_INSIDE_NETWORK";

/// Whoever connects there is told that no network leads there. An address for documentation (RFC 5737).
pub const UNREACHABLE_NETWORK: &str = "192.0.2.1";
/// Whoever connects there is told that the host is not to be reached. An address for documentation, too.
pub const UNREACHABLE_HOST: &str = "198.51.100.1";

/// Runs `body` where no packet leaves the machine, and nothing outside is in reach. The test that calls
/// this is `test`, as its program lists it, and `#[ignore]`d: making a network namespace needs root or
/// the right to make user namespaces. Its program is started once more in there, for this test alone.
///
/// # Panics
/// Where there is no namespace to be had, and where the test fails in there.
pub fn in_isolated_network(test: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let set_up =
        format!(r#"ip link set lo up && ip route add unreachable {UNREACHABLE_HOST} && exec "$@""#);
    let program = std::env::current_exe().expect("the path of this test's program");
    let mut inside = ProcessBuilder::new("unshare").env(INSIDE, "1");
    for arg in ["--map-root-user", "--net", "sh", "-c", &set_up, "sh"] {
        inside = inside.arg(arg);
    }
    inside = inside.arg(program);
    for arg in ["--exact", test, "--include-ignored", "--nocapture"] {
        inside = inside.arg(arg);
    }
    let exit = inside.run_to_exit();
    println!("{}", exit.stdout.join("\n"));
    assert_eq!(exit.code, Some(0), "in a network namespace of its own: {:#?}", exit.stderr);
    let has_run = exit.stdout.iter().any(|line| line.contains("1 passed"));
    assert!(has_run, "there is no test {test:?}");
}

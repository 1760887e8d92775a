//! Instructions and allocations per request, which noise does not affect. callgrind counts them over
//! the whole process (all threads, user space) from the end of the warm-up until it stops.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use testkit::http::Connection;
use testkit::{Process, ProcessBuilder};

use crate::process::{helper, stop};
use crate::services::{MeasuredService, Variant, variables};

/// Number of requests before the counters are reset.
const WARM_UP: u64 = 500;
/// Number of requests that are counted.
const COUNTED: u64 = 3_000;
/// Number of connections, each with one request at a time.
const CONNECTIONS: u64 = 10;

const BUDGET: &str = include_str!("../budget.txt");

/// Tolerance for instructions. Two runs of one binary differ by 0.5 %, releases of the compiler or of
/// a library by more. Allocations are constant to within a half.
const TOLERANCE: f64 = 0.04;

/// Cost of one request.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Cost {
    instructions: f64,
    allocations: f64,
}

/// Variable that disables a part of the telemetry.
type Override = Option<(&'static str, &'static str)>;

struct Scenario {
    name: String,
    service: MeasuredService,
    variant: Variant,
    variable: Override,
}

const CONFIGURATIONS: [(&str, Variant, Override); 7] = [
    ("baseline", Variant::Baseline, None),
    ("full", Variant::Full, None),
    ("one-percent", Variant::OnePercent, None),
    ("no-log", Variant::Full, Some(("RUST_LOG", "info,access=off"))),
    ("no-export", Variant::Full, Some(("OTEL_TRACES_EXPORTER", "none"))),
    ("not-sampled", Variant::Full, Some(("OTEL_TRACES_SAMPLER", "always_off"))),
    ("no-spans", Variant::Full, Some(("OTEL_SDK_DISABLED", "true"))),
];

/// Returns each configuration of each service.
fn scenarios() -> impl Iterator<Item = Scenario> {
    [("a", MeasuredService::A), ("b", MeasuredService::B)].into_iter().flat_map(
        |(prefix, service)| {
            CONFIGURATIONS.map(|(suffix, variant, variable)| Scenario {
                name: format!("{prefix}-{suffix}"),
                service,
                variant,
                variable,
            })
        },
    )
}

/// Counts and prints the scenarios in `names`, or all of them if it is empty.
pub(crate) fn run(names: &[String]) -> Result<()> {
    for scenario in scenarios() {
        if names.is_empty() || names.contains(&scenario.name) {
            let Cost { instructions, allocations } = measure(&scenario)?;
            let name = scenario.name;
            println!("{name:16} {instructions:8.0} instructions {allocations:7.2} allocations");
        }
    }
    Ok(())
}

/// Compares the cost of each scenario in the budget with its limits.
///
/// # Errors
/// Names every regression.
pub(crate) fn check_budget() -> Result<()> {
    let mut regressions = Vec::new();
    for line in BUDGET.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (scenario, budget) =
            parse_budget(line).with_context(|| format!("crates/bench/budget.txt: {line}"))?;
        let cost = measure(&scenario)?;
        let name = scenario.name;
        for (unit, counted, budget, tolerance) in [
            ("instructions", cost.instructions, budget.instructions, TOLERANCE),
            ("allocations", cost.allocations, budget.allocations, 0.0),
        ] {
            let is_regression = counted > budget * (1.0 + tolerance) + 0.5;
            let verdict = if is_regression { "REGRESSION" } else { "ok" };
            println!("{name:16} {counted:9.1} {unit:12} budget {budget:9.1}  {verdict}");
            if is_regression {
                regressions.push(format!("{name}: {counted:.1} {unit}, budget {budget:.1}"));
            }
        }
    }
    ensure!(regressions.is_empty(), "{}", regressions.join("; "));
    Ok(())
}

fn parse_budget(line: &str) -> Result<(Scenario, Cost)> {
    let mut words = line.split_whitespace();
    let mut word = || words.next().context("expected a scenario, instructions and allocations");
    let name = word()?;
    let scenario = scenarios().find(|scenario| scenario.name == name);
    let cost = Cost { instructions: word()?.parse()?, allocations: word()?.parse()? };
    Ok((scenario.context("unknown scenario")?, cost))
}

fn measure(scenario: &Scenario) -> Result<Cost> {
    let name = format!("bench-{}-{}.callgrind", scenario.name, std::process::id());
    let profile = env::temp_dir().join(name);
    let Cost { instructions, allocations } =
        profile_requests(scenario, &profile).with_context(|| scenario.name.clone())?;
    if env::var_os("BENCH_KEEP").is_none() {
        fs::remove_file(&profile)?;
    }
    let requests = COUNTED as f64;
    Ok(Cost { instructions: instructions / requests, allocations: allocations / requests })
}

/// Returns the cost of all counted requests.
fn profile_requests(scenario: &Scenario, profile: &Path) -> Result<Cost> {
    let valgrind = Command::new("valgrind").arg("--version").output();
    valgrind.context("cannot run valgrind (Debian: apt-get install valgrind)")?;
    let service_a = helper(&["baseline-a"])?.serve();
    let receiver = helper(&["receiver"])?.serve();
    let process = ProcessBuilder::new("valgrind")
        .arg("--tool=callgrind")
        .arg("--quiet")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env::current_exe()?)
        .arg(scenario.service.command(scenario.variant))
        .env("SERVICE_A_URL", service_a.url())
        // With one worker thread, the number of wake-ups does not depend on scheduling.
        .env("TOKIO_WORKER_THREADS", "1")
        .envs(variables(scenario.variant, &receiver.url()))
        .envs(scenario.variable)
        .serve();
    send_requests(&process, scenario.service.path(), WARM_UP)?;
    let reset = ProcessBuilder::new("vgdb")
        .arg(format!("--pid={}", process.id()))
        .arg("zero")
        .run_to_exit();
    ensure!(reset.code == Some(0), "vgdb: {}", reset.stderr.join("\n"));
    send_requests(&process, scenario.service.path(), COUNTED)?;
    stop(&process)?;
    parse_profile(&fs::read_to_string(profile)?)
}

fn send_requests(process: &Process, path: &str, requests: u64) -> Result<()> {
    let address = process.address();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| Connection::open(address)).collect();
    for _ in 0..requests / CONNECTIONS {
        for connection in &mut connections {
            connection.send(request.as_bytes());
        }
        for connection in &mut connections {
            let response = connection.response()?;
            let is_success = response.status == 200 && response.body.ends_with(b"}");
            ensure!(is_success, "unexpected response: {response:?}");
        }
    }
    Ok(())
}

/// Reads the total and the calls of the allocation functions from a profile in callgrind's format.
fn parse_profile(profile: &str) -> Result<Cost> {
    let mut names = HashMap::new();
    let mut cost = Cost::default();
    let mut callee = "";
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            // The first occurrence of a name is `(12) malloc`, the others are `(12)`.
            let (id, name) = function.split_once(' ').unwrap_or((function, ""));
            if !name.is_empty() {
                names.insert(id, name);
            }
            if line.starts_with('c') {
                callee = names.get(id).copied().unwrap_or_default();
            }
        } else if let Some(calls) = line.strip_prefix("calls=") {
            let base = callee.split(['\'', '@']).next().unwrap_or_default();
            if matches!(base, "malloc" | "calloc" | "realloc" | "posix_memalign") {
                cost.allocations += calls.split(' ').next().unwrap_or_default().parse::<f64>()?;
            }
        } else if let Some(total) = line.strip_prefix("totals: ") {
            cost.instructions = total.trim().parse()?;
        }
    }
    ensure!(cost.instructions > 0.0, "empty profile");
    Ok(cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_sums_allocations() {
        let profile = "fn=(1) main\n0 3\ncfn=(2) malloc\ncalls=4 0\n0 40\nfn=(3) other\n\
                       cfn=(2)\ncalls=2 0\n0 20\ncfn=(1)\ncalls=7 0\n0 1\n\ntotals: 64\n";
        let cost = parse_profile(profile).unwrap();
        assert_eq!(cost, Cost { instructions: 64.0, allocations: 6.0 });
    }
}

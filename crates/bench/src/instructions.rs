//! Instructions and allocations per request, which noise does not affect. callgrind counts them over
//! the whole process (all threads, user space) from the end of the warm-up until it stops.

use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use testkit::http::Connection;
use testkit::{Process, ProcessBuilder};

use crate::load::Protocol;
use crate::process::{helper, stop};
use crate::services::{MeasuredService, SERVICES, VARIANTS, Variant};

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

struct Scenario {
    name: String,
    service: MeasuredService,
    variant: Variant,
}

/// Returns each variant of each service over HTTP/1.1.
fn scenarios() -> impl Iterator<Item = Scenario> {
    let services = SERVICES.into_iter().filter(|service| service.protocol == Protocol::Http1);
    services.flat_map(|service| {
        VARIANTS.map(|variant| {
            let name = format!("{}-{}", service.name.trim_start_matches("service-"), variant.name);
            Scenario { name, service, variant }
        })
    })
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
/// Fails if a cost exceeds its limit.
pub(crate) fn check_budget() -> Result<()> {
    let mut regressions = 0;
    for line in BUDGET.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [name, instructions, allocations] = words[..] else {
            bail!("expected a scenario, instructions and allocations in budget.txt: {line}");
        };
        let scenario = scenarios().find(|scenario| scenario.name == name);
        let cost = measure(&scenario.with_context(|| format!("unknown scenario {name}"))?)?;
        for (unit, counted, budget, tolerance) in [
            ("instructions", cost.instructions, instructions, TOLERANCE),
            ("allocations", cost.allocations, allocations, 0.0),
        ] {
            let budget: f64 = budget.parse()?;
            let is_regression = counted > budget * (1.0 + tolerance) + 0.5;
            regressions += u32::from(is_regression);
            let verdict = if is_regression { "REGRESSION" } else { "ok" };
            println!("{name:16} {counted:9.1} {unit:12} budget {budget:9.1}  {verdict}");
        }
    }
    ensure!(regressions == 0, "{regressions} figures exceed their budget");
    Ok(())
}

/// Returns the cost of one request.
fn measure(scenario: &Scenario) -> Result<Cost> {
    let Scenario { name, service, variant } = scenario;
    let service_a = helper(&["baseline", "a"])?.serve();
    let receiver = helper(&["receiver"])?.serve();
    let file = format!("bench-{name}-{}.callgrind", std::process::id());
    let profile = env::temp_dir().join(file);
    let builder = ProcessBuilder::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--compress-strings=no"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env::current_exe()?)
        .args(service.command(*variant))
        .env("SERVICE_A_URL", service_a.url())
        // With one worker thread, the number of wake-ups does not depend on scheduling.
        .env("TOKIO_WORKER_THREADS", "1");
    let process = variant.configure(builder, &receiver.url()).serve();
    send_requests(&process, service.path, WARM_UP)?;
    let pid = format!("--pid={}", process.id());
    let reset = ProcessBuilder::new("vgdb").args([&pid, "zero"]).run_to_exit();
    ensure!(reset.code == Some(0), "vgdb for {name}: {}", reset.stderr.join("\n"));
    send_requests(&process, service.path, COUNTED)?;
    stop(&process)?;
    let Cost { instructions, allocations } = parse_profile(&fs::read_to_string(&profile)?)?;
    if env::var_os("BENCH_KEEP").is_none() {
        fs::remove_file(&profile)?;
    }
    let requests = COUNTED as f64;
    Ok(Cost { instructions: instructions / requests, allocations: allocations / requests })
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
    let mut cost = Cost::default();
    let mut callee = "";
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("cfn=") {
            callee = function.split(['\'', '@']).next().unwrap_or_default();
        } else if let Some(calls) = line.strip_prefix("calls=") {
            if matches!(callee, "malloc" | "calloc" | "realloc" | "posix_memalign") {
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
        let profile = "fn=main\n0 3\ncfn=malloc\ncalls=4 0\n0 40\nfn=other\n\
                       cfn=malloc\ncalls=2 0\n0 20\ncfn=main\ncalls=7 0\n0 1\n\ntotals: 64\n";
        let cost = parse_profile(profile).unwrap();
        assert_eq!(cost, Cost { instructions: 64.0, allocations: 6.0 });
    }
}

//! What noise does not touch: instructions and allocations per request, counted by callgrind over
//! the whole process (all threads, user space) from the moment it is warm until it has stopped.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::Result;
use crate::process::Process;
use crate::services::{Service, Variant, variables};

/// Requests before the counters are set to zero.
const WARM_UP: u64 = 500;
/// Requests that are counted.
const COUNTED: u64 = 3_000;
/// Connections, each with one request at a time.
const CONNECTIONS: u64 = 10;

/// What a request of ours may cost, per scenario.
const BUDGET: &str = include_str!("../budget.txt");

/// By how much the instructions may exceed the budget: two runs of one binary differ by 0.5 %, and
/// another compiler's or library's release by a few more. Allocations do not vary, but for a half.
const MARGIN: f64 = 0.04;

/// The price of one request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Price {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
}

/// Something to count, with the variables that make it so.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) service: Service,
    pub(crate) variant: Variant,
    pub(crate) variables: &'static [(&'static str, &'static str)],
}

const fn scenario(name: &'static str, service: Service, variant: Variant) -> Scenario {
    Scenario { name, service, variant, variables: &[] }
}

/// What is held against the budget.
pub(crate) const SCENARIOS: [Scenario; 6] = [
    scenario("a-bare", Service::A, Variant::Bare),
    scenario("a-full", Service::A, Variant::Full),
    scenario("a-one-percent", Service::A, Variant::OnePercent),
    scenario("b-bare", Service::B, Variant::Bare),
    scenario("b-full", Service::B, Variant::Full),
    scenario("b-one-percent", Service::B, Variant::OnePercent),
];

/// Ours with one part after the other switched off, for the cost table.
pub(crate) const PARTS: [Scenario; 8] = [
    part("a-no-log", Service::A, Variant::Full, &[("RUST_LOG", "info,access=off")]),
    part("a-no-export", Service::A, Variant::Full, &[("OTEL_TRACES_EXPORTER", "none")]),
    part("a-not-sampled", Service::A, Variant::Full, &[("OTEL_TRACES_SAMPLER", "always_off")]),
    part("a-no-spans", Service::A, Variant::Full, &[("OTEL_SDK_DISABLED", "true")]),
    part("b-no-log", Service::B, Variant::Full, &[("RUST_LOG", "info,access=off")]),
    part("b-no-export", Service::B, Variant::Full, &[("OTEL_TRACES_EXPORTER", "none")]),
    part("b-not-sampled", Service::B, Variant::Full, &[("OTEL_TRACES_SAMPLER", "always_off")]),
    part("b-no-spans", Service::B, Variant::Full, &[("OTEL_SDK_DISABLED", "true")]),
];

const fn part(
    name: &'static str,
    service: Service,
    variant: Variant,
    variables: &'static [(&'static str, &'static str)],
) -> Scenario {
    Scenario { name, service, variant, variables }
}

/// Counts and prints the scenarios of these names, or all.
pub(crate) fn print(names: &[&str]) -> Result<()> {
    for scenario in SCENARIOS.iter().chain(&PARTS) {
        if !names.is_empty() && !names.contains(&scenario.name) {
            continue;
        }
        let price = count(scenario)?;
        println!(
            "{:16} {:8.0} instructions {:7.2} allocations",
            scenario.name, price.instructions, price.allocations
        );
    }
    Ok(())
}

/// Holds what is counted against the committed budget: an error names every step back.
pub(crate) fn check() -> Result<()> {
    let mut steps_back = Vec::new();
    for line in BUDGET.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, instructions, allocations] = words[..] else {
            return Err(format!("bench/budget.txt: not understood: {line}").into());
        };
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
        let price = count(scenario.ok_or_else(|| format!("bench/budget.txt: no such: {name}"))?)?;
        for (what, counted, budget, margin) in [
            ("instructions", price.instructions, instructions.parse::<f64>()?, MARGIN),
            ("allocations", price.allocations, allocations.parse::<f64>()?, 0.0),
        ] {
            let limit = budget * (1.0 + margin) + 0.5;
            let verdict = if counted > limit { "A STEP BACK" } else { "ok" };
            println!("{name:16} {counted:9.1} {what:12} budget {budget:9.1}  {verdict}");
            if counted > limit {
                steps_back.push(format!("{name}: {counted:.1} {what}, budget {budget:.1}"));
            }
        }
    }
    if steps_back.is_empty() { Ok(()) } else { Err(steps_back.join("; ").into()) }
}

/// Counts one scenario.
pub(crate) fn count(scenario: &Scenario) -> Result<Price> {
    let name = format!("bench-{}-{}.callgrind", scenario.name, std::process::id());
    let profile = env::temp_dir().join(name);
    let price = run(scenario, &profile);
    if env::var_os("BENCH_KEEP").is_none() {
        fs::remove_file(&profile)?;
    }
    let total = price?;
    let per_request = |count| count / COUNTED as f64;
    Ok(Price {
        instructions: per_request(total.instructions),
        allocations: per_request(total.allocations),
    })
}

/// The whole of the counted requests.
fn run(scenario: &Scenario, profile: &Path) -> Result<Price> {
    let service_a = Process::this(&["bare-a"], &[])?;
    let receiver = Process::this(&["receiver"], &[])?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet"]);
    command.arg(format!("--callgrind-out-file={}", profile.display()));
    command.arg(env::current_exe()?);
    let url = service_a.url();
    let mut settings = Vec::new();
    match (scenario.service, scenario.variant) {
        (Service::A, Variant::Bare) => drop(command.arg("bare-a")),
        (Service::B, Variant::Bare) => drop(command.args(["bare-b", &url])),
        (service, variant) => {
            settings = variables(variant, &receiver.url());
            settings.push(("SERVICE_A_URL", url));
            command.arg(if service == Service::A { "service-a" } else { "service-b" });
        }
    }
    // One worker thread, so that no wake-up depends on which of two was faster.
    settings.push(("TOKIO_WORKER_THREADS", "1".to_owned()));
    settings.extend(scenario.variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let process = Process::start(command, &settings).map_err(|error| {
        format!("{}: {error} (is valgrind there? Debian: apt-get install valgrind)", scenario.name)
    })?;
    ask(&process, scenario.service.path(), WARM_UP)?;
    let zero = Command::new("vgdb").arg(format!("--pid={}", process.id())).arg("zero").output()?;
    if !zero.status.success() {
        return Err(format!("vgdb: {}", String::from_utf8_lossy(&zero.stderr)).into());
    }
    ask(&process, scenario.service.path(), COUNTED)?;
    process.stop()?;
    read(&fs::read_to_string(profile)?)
}

/// Sends `requests` over a few connections, one at a time on each.
fn ask(process: &Process, path: &str, requests: u64) -> Result<()> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(process.address)?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", process.address);
    let mut buffer = [0; 4096];
    for _ in 0..requests / CONNECTIONS {
        for stream in &mut streams {
            stream.write_all(request.as_bytes())?;
        }
        for stream in &mut streams {
            // The answers are small: one write of the server, one read here.
            let length = stream.read(&mut buffer)?;
            if !buffer[..length].starts_with(b"HTTP/1.1 200 ") || buffer[length - 1] != b'}' {
                let answer = String::from_utf8_lossy(&buffer[..length]);
                return Err(format!("not the expected answer: {answer}").into());
            }
        }
    }
    Ok(())
}

/// Reads a profile in callgrind's format: the total, and the calls of the allocator's functions.
fn read(profile: &str) -> Result<Price> {
    let mut names = HashMap::new();
    let mut price = Price::default();
    let mut callee = "";
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            // A name is given in full once, as `(12) malloc`, and later as `(12)`.
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
                price.allocations += calls.split(' ').next().unwrap_or_default().parse::<f64>()?;
            }
        } else if let Some(total) = line.strip_prefix("totals: ") {
            price.instructions = total.trim().parse()?;
        }
    }
    if price.instructions == 0.0 { Err("an empty profile".into()) } else { Ok(price) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read() {
        let profile = "fn=(1) main\n0 3\ncfn=(2) malloc\ncalls=4 0\n0 40\nfn=(3) other\n\
                       cfn=(2)\ncalls=2 0\n0 20\ncfn=(1)\ncalls=7 0\n0 1\n\ntotals: 64\n";
        let price = read(profile).unwrap();
        assert_eq!((price.instructions, price.allocations), (64.0, 6.0));
    }
}

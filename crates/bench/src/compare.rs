//! Comparison of the services with their baselines: CPU, throughput, latency and memory.

use anyhow::Result;
use testkit::Process;

use crate::args::{CompareOptions, Options};
use crate::interleave::{Sample, interleave, median, summary};
use crate::process::helper;
use crate::services::{BASELINE, FULL, MeasuredService, ONE_PERCENT, SERVICES, Variant};

/// Maximum number of attempts to complete a round without dropped spans.
const ATTEMPTS: u32 = 3;

const COMPARED: [Variant; 3] = [BASELINE, FULL, ONE_PERCENT];

/// Measures and prints the comparison.
pub(crate) fn run(CompareOptions { load: options, services }: &CompareOptions) -> Result<()> {
    let receiver = helper(&["receiver"])?.serve();
    println!(
        "{} rounds of {} turns of one second, {} connections, spans to Jaeger over gRPC, logs to a pipe",
        options.rounds, options.seconds, options.connections
    );
    let is_selected = |service: &MeasuredService| {
        services.is_empty() || services.iter().any(|name| name == service.name)
    };
    for service in SERVICES.into_iter().filter(is_selected) {
        let mut rounds = Vec::new();
        for number in 1..=options.rounds {
            rounds.push(run_round(service, &receiver, options)?);
            eprintln!("{}: round {number} of {} completed", service.name, options.rounds);
        }
        print(service, &rounds);
    }
    Ok(())
}

/// Runs one round and repeats it if it fails, because a round with dropped spans is invalid.
fn run_round(
    service: MeasuredService,
    receiver: &Process,
    options: &Options,
) -> Result<Vec<Sample>> {
    let mut attempt = 1;
    loop {
        let service_a = helper(&["baseline", "a"])?.serve();
        let mut processes = Vec::new();
        for variant in COMPARED {
            let builder = variant.configure(helper(&service.command(variant))?, &receiver.url());
            processes.push((variant, builder.env("SERVICE_A_URL", service_a.url()).serve()));
        }
        match interleave(processes, service, options.connections, options.seconds) {
            Err(error) if attempt < ATTEMPTS => eprintln!("round discarded: {error:#}"),
            result => return result,
        }
        attempt += 1;
    }
}

fn print(service: MeasuredService, rounds: &[Vec<Sample>]) {
    println!(
        "\n{} `GET {}`: median, [min..max], median ratio to the baseline of the same round",
        service.name, service.path
    );
    println!(
        "{:12} {:>26} {:>24} {:>20} {:>20} {:>24}",
        "", "CPU us/request", "requests/s", "p50 ms", "p99 ms", "resident MiB"
    );
    type Column = (usize, usize, fn(&Sample) -> f64);
    let columns: [Column; 5] = [
        (26, 1, |sample| sample.cpu_us),
        (24, 0, |sample| sample.per_second),
        (20, 2, |sample| sample.p50_ms),
        (20, 2, |sample| sample.p99_ms),
        (24, 1, |sample| sample.resident_mib),
    ];
    for (index, variant) in COMPARED.iter().enumerate() {
        print!("{:12}", variant.name);
        for (width, digits, value) in columns {
            let ratios = rounds.iter().map(|round| value(&round[index]) / value(&round[0]));
            let values = rounds.iter().map(|round| value(&round[index]));
            let text = format!("{} x{:.2}", summary(values, digits), median(ratios));
            print!(" {text:>width$}");
        }
        match service.goals {
            Some(goals) if index > 0 => println!("  goal x{:.2}", goals[index - 1]),
            _ => println!(),
        }
    }
}

//! Comparison of the services with their baselines: CPU, throughput, latency and memory.

use anyhow::Result;

use crate::args::Options;
use crate::interleave::{Sample, interleave, min_median_max};
use crate::process::helper;
use crate::services::{MeasuredService, Variant, variables};

/// Maximum number of attempts to complete a round without dropped spans.
const ATTEMPTS: u32 = 3;

/// Measures and prints the comparison.
pub(crate) fn run(options: &Options) -> Result<()> {
    let embedded;
    let receiver = match &options.receiver {
        Some(url) => url.clone(),
        None => {
            embedded = helper(&["receiver"])?.serve();
            embedded.url()
        }
    };
    println!(
        "{} rounds of {} turns of one second, {} connections, spans to {receiver} over gRPC, logs to a pipe",
        options.rounds, options.seconds, options.connections
    );
    for service in [MeasuredService::A, MeasuredService::B] {
        let mut samples: [Vec<Sample>; 3] = Default::default();
        for number in 1..=options.rounds {
            let round = run_round(service, &receiver, options)?;
            for (samples, sample) in samples.iter_mut().zip(round) {
                samples.push(sample);
            }
            eprintln!("service {service:?}: round {number} of {} completed", options.rounds);
        }
        print(service, &samples);
    }
    Ok(())
}

/// Runs one round and repeats it if it fails, because a round with dropped spans is invalid.
fn run_round(service: MeasuredService, receiver: &str, options: &Options) -> Result<Vec<Sample>> {
    let mut attempt = 1;
    loop {
        let service_a = helper(&["baseline-a"])?.serve();
        let mut processes = Vec::new();
        for variant in Variant::ALL {
            let builder = helper(&[service.command(variant)])?
                .envs(variables(variant, receiver))
                .env("SERVICE_A_URL", service_a.url());
            processes.push((variant, builder.serve()));
        }
        match interleave(processes, service.path(), options.connections, options.seconds) {
            Err(error) if attempt < ATTEMPTS => eprintln!("round discarded: {error:#}"),
            result => return result,
        }
        attempt += 1;
    }
}

fn print(service: MeasuredService, samples: &[Vec<Sample>; 3]) {
    println!(
        "\nservice {service:?} `GET {}`: median, [min..max], median ratio to the baseline of the same round",
        service.path()
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
    let baseline = &samples[0];
    for (variant, samples) in Variant::ALL.into_iter().zip(samples) {
        print!("{variant:12}");
        for (width, digits, value) in columns {
            let ratios =
                samples.iter().zip(baseline).map(|(sample, base)| value(sample) / value(base));
            let (_, ratio, _) = min_median_max(ratios);
            let (min, median, max) = min_median_max(samples.iter().map(value));
            let text = format!("{median:.digits$} [{min:.digits$}..{max:.digits$}] x{ratio:.2}");
            print!(" {text:>width$}");
        }
        println!();
    }
}

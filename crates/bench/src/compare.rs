//! Comparison of the services with their baselines: CPU, throughput, latency and memory.

use anyhow::Result;
use testkit::Process;

use crate::args::{CompareOptions, LoadOptions};
use crate::interleave::{Candidate, Sample, interleave};
use crate::load::Protocol;
use crate::peers::Peers;
use crate::process::helper;
use crate::services::{App, BARE, BASELINE, FULL, MeasuredService, ONE_PERCENT, SERVICES, TYPICAL};
use crate::stats::{median, summary};

/// Maximum number of attempts to complete a round without dropped spans.
const ATTEMPTS: u32 = 3;

/// Highest share of the overhead of [`TYPICAL`] that is aimed at.
const GOAL_OF_TYPICAL: f64 = 0.2;

/// Environment of the rounds.
struct Comparison<'a> {
    receiver: Process,
    peers: Option<Peers>,
    options: &'a LoadOptions,
}

/// Measures and prints the comparison.
pub(crate) fn run(
    CompareOptions { load: options, services, peers }: &CompareOptions,
) -> Result<()> {
    let peers = peers.as_deref().and_then(|workspace| {
        let built = Peers::build(workspace);
        built.inspect_err(|error| println!("peers are left out: {error:#}")).ok()
    });
    let comparison = Comparison { receiver: helper(&["receiver"])?.serve(), peers, options };
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
            rounds.push(comparison.run_round(service)?);
            eprintln!("{}: round {number} of {} completed", service.name, options.rounds);
        }
        print(service, &rounds);
    }
    Ok(())
}

impl Comparison<'_> {
    /// Runs one round and repeats it if it fails, because a round with dropped spans is invalid.
    fn run_round(&self, service: MeasuredService) -> Result<Vec<Sample>> {
        let mut attempt = 1;
        loop {
            let service_a = helper(&["baseline", "a"])?.serve();
            let candidates = self.start(service, &service_a.url())?;
            let LoadOptions { connections, seconds, .. } = *self.options;
            match interleave(candidates, service, connections, seconds) {
                Err(error) if attempt < ATTEMPTS => eprintln!("round discarded: {error:#}"),
                result => return result,
            }
            attempt += 1;
        }
    }

    /// Starts the variants of `service`. The peers are the last, so that they export their last spans while the
    /// others are waited for.
    fn start(&self, service: MeasuredService, service_a_url: &str) -> Result<Vec<Candidate>> {
        let endpoint = self.receiver.url();
        let mut candidates = Vec::new();
        for variant in [BASELINE, FULL, ONE_PERCENT] {
            let builder = variant.configure(helper(&service.command(variant))?, &endpoint);
            let process = builder.env("SERVICE_A_URL", service_a_url).serve();
            candidates.push(Candidate::new(variant, process));
        }
        if let (App::A | App::B, Protocol::Http1, Some(peers)) =
            (service.app, service.protocol, &self.peers)
        {
            for variant in [BARE, TYPICAL] {
                candidates.push(peers.start(variant, service.app, service_a_url, &endpoint)?);
            }
        }
        Ok(candidates)
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
    for (index, Sample { variant, .. }) in rounds.iter().take(1).flatten().enumerate() {
        print!("{:12}", variant.name);
        for (width, digits, value) in columns {
            let ratios = rounds.iter().map(|round| value(&round[index]) / value(&round[0]));
            let values = rounds.iter().map(|round| value(&round[index]));
            let text = format!("{} x{:.2}", summary(values, digits), median(ratios));
            print!(" {text:>width$}");
        }
        match (service.goals, *variant) {
            (Some([goal, _]), FULL) | (Some([_, goal]), ONE_PERCENT) => {
                println!("  goal x{goal:.2}")
            }
            _ => println!(),
        }
    }
    print_overhead(rounds);
}

/// Prints the CPU time that telemetry adds to the same handlers, if the rounds include the peers.
fn print_overhead(rounds: &[Vec<Sample>]) {
    let overheads = rounds.iter().filter_map(|round| match round[..] {
        [baseline, full, _, bare, typical] => {
            Some((full.cpu_us - baseline.cpu_us, typical.cpu_us - bare.cpu_us))
        }
        _ => None,
    });
    let (full, typical): (Vec<_>, Vec<_>) = overheads.unzip();
    if full.is_empty() {
        return;
    }
    let shares = full.iter().zip(&typical).map(|(full, typical)| full / typical);
    println!(
        "overhead: full {} us above baseline, typical {} us above bare, full/typical {}, goal {GOAL_OF_TYPICAL:.2}\n\
         typical does not count its spans, so it may have dropped some",
        summary(full.iter().copied(), 1),
        summary(typical.iter().copied(), 1),
        summary(shares, 2),
    );
}

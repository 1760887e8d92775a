//! Ours beside the bare twins: CPU, throughput, latency and memory per service, in turns.

use crate::process::Process;
use crate::services::{Service, Variant};
use crate::turns::{Sample, in_turns, spread};
use crate::{Options, Result};

/// The whole comparison, printed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let own_receiver;
    let receiver = match &options.receiver {
        Some(url) => url.clone(),
        None => {
            own_receiver = Process::this(&["receiver"], &[])?;
            own_receiver.url()
        }
    };
    println!(
        "{} rounds of {} turns of a second, {} connections, spans to {receiver} over gRPC, logs to a pipe that is read",
        options.rounds, options.seconds, options.connections
    );
    for service in [Service::A, Service::B] {
        let mut samples: [Vec<Sample>; 3] = Default::default();
        for number in 1..=options.rounds {
            let round = round(service, &receiver, options)?;
            for (samples, sample) in samples.iter_mut().zip(round) {
                samples.push(sample);
            }
            eprintln!("service {service:?}: round {number} of {} done", options.rounds);
        }
        print(service, &samples);
    }
    Ok(())
}

/// A round that counts: up to three tries, since one in which a span was lost does not.
fn round(service: Service, receiver: &str, options: &Options) -> Result<Vec<Sample>> {
    let mut tries = 3;
    loop {
        let service_a = Process::this(&["bare-a"], &[])?;
        let mut processes = Vec::new();
        for variant in Variant::ALL {
            processes.push((variant, service.start(variant, &service_a, receiver)?));
        }
        let samples = in_turns(processes, service.path(), options.connections, options.seconds);
        tries -= 1;
        match samples {
            Err(error) if tries > 0 => eprintln!("a round that does not count: {error}"),
            result => return result,
        }
    }
}

fn print(service: Service, samples: &[Vec<Sample>; 3]) {
    println!(
        "\nservice {service:?} `GET {}`: median, [spread], and the median of the ratios to bare in the same round",
        service.path()
    );
    println!(
        "{:12} {:>26} {:>24} {:>20} {:>20} {:>24}",
        "", "CPU us/request", "requests/s", "p50 ms", "p99 ms", "resident MiB"
    );
    let bare = &samples[0];
    for (variant, samples) in Variant::ALL.into_iter().zip(samples) {
        print!("{variant:12}");
        type Column = (usize, usize, fn(&Sample) -> f64);
        let columns: [Column; 5] = [
            (26, 1, |sample| sample.cpu_us),
            (24, 0, |sample| sample.per_second),
            (20, 2, |sample| sample.p50_ms),
            (20, 2, |sample| sample.p99_ms),
            (24, 1, |sample| sample.resident_mib),
        ];
        for (width, digits, value) in columns {
            let values: Vec<f64> = samples.iter().map(value).collect();
            let ratios = samples.iter().zip(bare).map(|(ours, bare)| value(ours) / value(bare));
            let (low, middle, high) = spread(values);
            let (_, ratio, _) = spread(ratios.collect());
            let text = format!("{middle:.digits$} [{low:.digits$}..{high:.digits$}] x{ratio:.2}");
            print!(" {text:>width$}");
        }
        println!();
    }
}

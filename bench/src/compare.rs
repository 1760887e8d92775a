//! Ours beside the bare twins: CPU, throughput, latency and memory per service, in turns.

use std::fmt;

use crate::process::Process;
use crate::turns::{Sample, in_turns};
use crate::{Options, Result};

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// The same handlers with nothing around them.
    Bare,
    /// Every request traced and exported.
    Full,
    /// One request in a hundred traced and exported.
    OnePercent,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Bare, Self::Full, Self::OnePercent];
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bare => "bare",
            Self::Full => "ours, 100 %",
            Self::OnePercent => "ours, 1 %",
        })
    }
}

/// One of the two services, with the path that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    A,
    B,
}

impl Service {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::A => "/echo?msg=hello",
            Self::B => "/call-echo?msg=hello",
        }
    }

    /// Starts it. `service_a` is the one that B calls, `receiver` where spans go.
    pub(crate) fn start(
        self,
        variant: Variant,
        service_a: &Process,
        receiver: &str,
    ) -> Result<Process> {
        let url = service_a.url();
        match (self, variant) {
            (Self::A, Variant::Bare) => Process::this(&["bare-a"], &[]),
            (Self::B, Variant::Bare) => Process::this(&["bare-b", &url], &[]),
            (Self::A, _) => Process::this(&["service-a"], &variables(variant, receiver)),
            (Self::B, _) => {
                let mut variables = variables(variant, receiver);
                variables.push(("SERVICE_A_URL", url));
                Process::this(&["service-b"], &variables)
            }
        }
    }
}

/// The settings of ours: the defaults, but for the queue. At tens of thousands of spans a second the
/// specification's 2,048 would overflow whenever the two cores are busy.
pub(crate) fn variables(variant: Variant, receiver: &str) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("LISTEN_ADDR", "127.0.0.1:0".to_owned()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.to_owned()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned()),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "65536".to_owned()),
    ];
    if variant == Variant::OnePercent {
        variables.push(("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()));
        variables.push(("OTEL_TRACES_SAMPLER_ARG", "0.01".to_owned()));
    }
    variables
}

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

/// Least, median and greatest.
pub(crate) fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(super::spread(vec![3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
    }
}

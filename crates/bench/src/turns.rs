//! Processes that run beside each other and are loaded in turns, a second each: what a shared machine
//! does to one of them it does to all. Those whose turn it is not cost next to nothing.

use crate::load::{Load, wrk};
use crate::process::Process;
use crate::services::Variant;
use crate::{Result, spans};

/// What one process did in all of its turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) cpu_us: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) resident_mib: f64,
}

struct Contender {
    variant: Variant,
    process: Process,
    url: String,
    cpu_before: f64,
    loads: Vec<Load>,
}

/// Loads each process in `turns` turns and ends it; the samples come in the order of the processes.
/// An error where a span was lost: a full queue makes tracing look cheap.
pub(crate) fn in_turns(
    processes: Vec<(Variant, Process)>,
    path: &str,
    connections: usize,
    turns: u32,
) -> Result<Vec<Sample>> {
    let mut contenders = Vec::new();
    for (variant, process) in processes {
        let url = format!("{}{path}", process.url());
        wrk(&url, connections, 1)?;
        let cpu_before = process.cpu_seconds()?;
        contenders.push(Contender { variant, process, url, cpu_before, loads: Vec::new() });
    }
    let count = contenders.len();
    for turn in 0..turns as usize {
        // Each goes first in its turn.
        for place in 0..count {
            let contender = &mut contenders[(place + turn) % count];
            contender.loads.push(wrk(&contender.url, connections, 1)?);
        }
    }
    contenders.into_iter().map(Contender::finish).collect()
}

impl Contender {
    fn finish(self) -> Result<Sample> {
        let Self { variant, process, cpu_before, loads, .. } = self;
        let requests: f64 = loads.iter().map(|load| load.requests).sum();
        // The spans that still wait are part of the cost.
        if variant != Variant::Bare {
            let exported = spans::all_exported(&process)?;
            if variant == Variant::Full && (exported as f64) < requests {
                return Err(format!("{exported} spans for {requests} requests").into());
            }
        }
        let median = |value: fn(&Load) -> f64| spread(loads.iter().map(value).collect()).1;
        let sample = Sample {
            cpu_us: (process.cpu_seconds()? - cpu_before) * 1e6 / requests,
            per_second: median(|load| load.per_second),
            p50_ms: median(|load| load.p50_ms),
            p99_ms: median(|load| load.p99_ms),
            resident_mib: process.resident_mib()?,
        };
        process.stop()?;
        Ok(sample)
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

//! Interleaved load: several processes run side by side and receive load in turns of one second, so
//! that interference on a shared machine affects all of them. Idle processes cost almost nothing.

use anyhow::{Result, ensure};
use testkit::Process;

use crate::load::{LoadResult, load};
use crate::process::{cpu_seconds, resident_mib, stop, wait_for_export};
use crate::services::{FULL, MeasuredService, Variant};
use crate::stats::median;

/// Measurements of one process over all its turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) variant: Variant,
    pub(crate) cpu_us: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) resident_mib: f64,
}

/// A process under measurement.
#[derive(Debug)]
pub(crate) struct Candidate {
    variant: Variant,
    process: Process,
    /// Base URL.
    url: String,
    cpu_before: f64,
    results: Vec<LoadResult>,
}

/// Loads each process for `turns` turns and stops it. Returns the samples in the order of the processes.
///
/// # Errors
/// Fails if a span was dropped, because a full queue makes tracing appear cheap.
pub(crate) fn interleave(
    mut candidates: Vec<Candidate>,
    service: MeasuredService,
    connections: usize,
    turns: u32,
) -> Result<Vec<Sample>> {
    for candidate in &mut candidates {
        candidate.load(service, connections)?;
        candidate.results.clear();
        candidate.cpu_before = cpu_seconds(&candidate.process)?;
    }
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    for _ in 0..turns {
        for &index in &order {
            candidates[index].load(service, connections)?;
        }
        // Another candidate goes first in the next turn.
        order.rotate_left(1);
    }
    candidates.into_iter().map(Candidate::finish).collect()
}

impl Candidate {
    /// Creates a candidate whose process has logged its address.
    pub(crate) fn new(variant: Variant, process: Process) -> Self {
        let url = process.url();
        Self::with_url(variant, process, url)
    }

    /// Creates a candidate whose process serves `url`.
    pub(crate) fn with_url(variant: Variant, process: Process, url: String) -> Self {
        Self { variant, process, url, cpu_before: 0.0, results: Vec::new() }
    }

    fn load(&mut self, service: MeasuredService, connections: usize) -> Result<()> {
        let url = format!("{}{}", self.url, service.path);
        self.results.push(load(service.protocol, &url, connections, 1)?);
        Ok(())
    }

    fn finish(self) -> Result<Sample> {
        let Self { variant, process, cpu_before, results, .. } = self;
        let requests: f64 = results.iter().map(|result| result.requests).sum();
        // The cost includes the export of the spans in the queue. Only the library counts them.
        if variant.is_instrumented {
            let exported = wait_for_export(&process)?;
            let is_complete = variant != FULL || exported >= requests;
            ensure!(is_complete, "{exported} spans exported for {requests} requests");
        }
        let median = |value: fn(&LoadResult) -> f64| median(results.iter().map(value));
        let sample = Sample {
            variant,
            cpu_us: (cpu_seconds(&process)? - cpu_before) * 1e6 / requests,
            per_second: median(|result| result.per_second),
            p50_ms: median(|result| result.p50_ms),
            p99_ms: median(|result| result.p99_ms),
            resident_mib: resident_mib(&process),
        };
        if variant.is_instrumented {
            stop(&process)?;
        }
        Ok(sample)
    }
}

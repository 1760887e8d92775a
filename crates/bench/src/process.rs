//! Helper processes, which are this program with other arguments.

use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use testkit::{Process, ProcessBuilder, Stdout};

/// Unit of the times in `/proc/PID/stat`, 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Returns a builder for a helper process. Keeping the millions of log lines that it writes under load
/// would cost CPU time and memory beside the process under measurement.
pub(crate) fn helper(args: &[&str]) -> Result<ProcessBuilder> {
    // Lets a run compare allocators.
    let preload = env::var_os("LD_PRELOAD").map(|library| ("LD_PRELOAD", library));
    let builder = ProcessBuilder::new(env::current_exe()?).args(args).envs(preload);
    Ok(builder.stdout(Stdout::DiscardAfterFirstLine))
}

/// Returns the CPU time that all threads of `process` have used in user space and the kernel.
pub(crate) fn cpu_seconds(process: &Process) -> Result<f64> {
    let path = format!("/proc/{}/stat", process.id());
    let stat = fs::read_to_string(&path).context(path)?;
    let (_, fields) = stat.rsplit_once(") ").context("process name missing in /proc/PID/stat")?;
    let mut ticks = fields.split(' ').skip(11).map(str::parse::<f64>);
    match (ticks.next(), ticks.next()) {
        (Some(Ok(user)), Some(Ok(system))) => Ok((user + system) / TICKS_PER_SECOND),
        _ => bail!("CPU times missing in /proc/PID/stat: {stat}"),
    }
}

/// Returns the resident memory of `process` in MiB.
pub(crate) fn resident_mib(process: &Process) -> f64 {
    process.resident_kib() as f64 / 1024.0
}

/// Stops `process` with SIGTERM and waits until it exits.
pub(crate) fn stop(process: &Process) -> Result<()> {
    let output = process.stop();
    ensure!(output.code == Some(0), "shutdown failed: {:?} {:?}", output.code, output.stderr);
    Ok(())
}

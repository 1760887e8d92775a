//! Helper processes, which are this program with other arguments.

use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use testkit::{Process, ProcessBuilder};

/// Unit of the times in `/proc/PID/stat`, 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Forwards the first line of stdout, which contains the address, and discards the others.
/// `exec` lets the helper process keep the process id under which it is measured.
const FIRST_LINE_ONLY: &str = r#"exec "$0" "$@" > >(head -n 1; exec cat >/dev/null)"#;

/// Returns a builder for a helper process.
pub(crate) fn helper(args: &[&str]) -> Result<ProcessBuilder> {
    Ok(with_args(ProcessBuilder::new(env::current_exe()?), args))
}

/// Returns a builder for a helper process that writes a log under load. Keeping millions of lines,
/// as [`ProcessBuilder`] does, would cost CPU time beside the process under measurement.
pub(crate) fn loaded_helper(args: &[&str]) -> Result<ProcessBuilder> {
    // An allocator to compare with.
    let preload = env::var_os("LD_PRELOAD").map(|library| ("LD_PRELOAD", library));
    let bash = ProcessBuilder::new("bash").arg("-c").arg(FIRST_LINE_ONLY).envs(preload);
    Ok(with_args(bash.arg(env::current_exe()?), args))
}

fn with_args(builder: ProcessBuilder, args: &[&str]) -> ProcessBuilder {
    args.iter().fold(builder, |builder, arg| builder.arg(arg))
}

/// Returns the base URL of `process`.
pub(crate) fn url(process: &Process) -> String {
    format!("http://{}", process.address())
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

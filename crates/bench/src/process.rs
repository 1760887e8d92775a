//! Helper processes, which are this program with other arguments.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, ensure};
use embedded_jaeger::JaegerConfig;
use testkit::{Process, ProcessBuilder, Stdout};
use tokio::signal::unix::{SignalKind, signal};

/// Unit of the times in `/proc/PID/stat`, 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Maximum time until the last batch is exported.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(20);

/// Returns a builder for a helper process. Keeping the millions of log lines that it writes under load
/// would cost CPU time and memory beside the process under measurement.
pub(crate) fn helper(args: &[impl AsRef<OsStr>]) -> Result<ProcessBuilder> {
    let builder = ProcessBuilder::new(env::current_exe()?).args(args);
    Ok(builder.stdout(Stdout::DiscardAfterFirstLine))
}

/// Receives spans with the lab's embedded Jaeger until SIGTERM.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn serve_receiver() -> Result<()> {
    let jaeger = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await?;
    let (address, ui) = (jaeger.otlp_grpc_addr(), jaeger.ui_addr());
    println!(r#"{{"msg":"listening","address":"{address}","admin_address":"{ui}"}}"#);
    terminated().await;
    jaeger.stop().await;
    Ok(())
}

/// Prints the log line from which [`testkit::Process::address`] reads the address.
pub(crate) fn log_listening(address: SocketAddr) {
    println!(r#"{{"msg":"listening","address":"{address}"}}"#);
}

/// Waits for SIGTERM.
pub(crate) async fn terminated() {
    if let Ok(mut terminate) = signal(SignalKind::terminate()) {
        terminate.recv().await;
    }
}

/// Returns the CPU time that all threads of `process` have used in user space and the kernel.
pub(crate) fn cpu_seconds(process: &Process) -> Result<f64> {
    let path = format!("/proc/{}/stat", process.id());
    let stat = fs::read_to_string(&path).context(path)?;
    let (_, fields) = stat.rsplit_once(") ").context("process name missing in /proc/PID/stat")?;
    // The times in user space and in the kernel.
    let ticks: Result<f64, _> = fields.split(' ').skip(11).take(2).map(str::parse::<f64>).sum();
    Ok(ticks? / TICKS_PER_SECOND)
}

/// Returns the resident memory of `process` in MiB.
pub(crate) fn resident_mib(process: &Process) -> f64 {
    process.resident_kib() as f64 / 1024.0
}

/// Waits until every span is exported and returns the number of spans, from the `otel_sdk_*` counters.
///
/// # Errors
/// Fails if a span was dropped or is not exported in time.
pub(crate) fn wait_for_export(service: &Process) -> Result<f64> {
    let deadline = Instant::now() + EXPORT_TIMEOUT;
    loop {
        let page = service.metrics();
        let (started, exported) = (page.started_spans(), page.exported_spans());
        if started == exported {
            return Ok(exported);
        }
        ensure!(Instant::now() < deadline, "only {exported} of {started} spans were exported");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Stops `process` with SIGTERM and waits until it exits.
pub(crate) fn stop(process: &Process) -> Result<()> {
    let output = process.stop();
    ensure!(output.code == Some(0), "shutdown failed: {:?} {:?}", output.code, output.stderr);
    Ok(())
}

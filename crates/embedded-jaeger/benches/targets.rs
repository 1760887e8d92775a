//! Benchmark over loopback: millions of spans over OTLP/gRPC, one large trace, and searches over
//! many traces. It prints results and asserts nothing.
//!
//! The server is a separate process, so that its memory can be measured.

#[path = "../tests/integration/support.rs"]
#[allow(dead_code)]
mod support;

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use embedded_jaeger::JaegerConfig;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use support::{call_echo, now_ns, of_service, request, span, trace_hex, trace_id};
use tonic::transport::Channel;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SERVER: &str = "EMBEDDED_JAEGER_BENCH_SERVER";
const LOAD_SPANS: u64 = 2_000_000;
const SENDERS: u64 = 4;
/// Requests per export. Each has 3 spans, and the SDK's batches have 512.
const BATCH_REQUESTS: u64 = 170;
const LARGE_TRACE_SPANS: u64 = 30_000;
const STORED_TRACES: u64 = 15_000;

#[tokio::main]
async fn main() -> Fallible<()> {
    if std::env::var_os(SERVER).is_some() {
        return serve().await;
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("skipped; run `cargo bench`");
        return Ok(());
    }
    // Short traces reach the limit of traces, long traces reach the limit of bytes.
    load(1).await?;
    load(100).await?;
    large_trace().await?;
    searches().await
}

/// Runs Jaeger on free ports until standard input reaches its end.
async fn serve() -> Fallible<()> {
    let jaeger = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await?;
    println!("{} {}", jaeger.otlp_grpc_addr(), jaeger.ui_addr());
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    jaeger.stop().await;
    Ok(())
}

struct Server {
    process: Child,
    otlp: String,
    ui: String,
}

impl Server {
    fn start() -> Fallible<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .env(SERVER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let out = process.stdout.take().ok_or("no output")?;
        BufReader::new(out).read_line(&mut line)?;
        let (otlp, ui) = line.trim().split_once(' ').ok_or("no addresses")?;
        let (otlp, ui) = (format!("http://{otlp}"), format!("http://{ui}"));
        Ok(Self { process, otlp, ui })
    }

    async fn client(&self) -> Fallible<TraceServiceClient<Channel>> {
        Ok(TraceServiceClient::connect(self.otlp.clone()).await?)
    }

    async fn get(&self, path: &str) -> Fallible<(Duration, usize)> {
        let begin = Instant::now();
        let body =
            reqwest::get(format!("{}{path}", self.ui)).await?.error_for_status()?.bytes().await?;
        Ok((begin.elapsed(), body.len()))
    }

    /// Returns the current and the peak resident memory in MiB. Works only on Linux.
    fn resident_mib(&self) -> Option<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let mib = |name: &str| -> Option<u64> {
            let line = status.lines().find(|line| line.starts_with(name))?;
            Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
        };
        Some((mib("VmRSS:")?, mib("VmHWM:")?))
    }

    fn stop(mut self) -> Fallible<()> {
        drop(self.process.stdin.take());
        self.process.wait()?;
        Ok(())
    }
}

async fn load(requests_per_trace: u64) -> Fallible<()> {
    println!("load: traces of {} spans", 3 * requests_per_trace);
    let server = Server::start()?;
    let begin = Instant::now();
    let requests = LOAD_SPANS / 3;
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let mut client = server.client().await?;
        senders.spawn(async move {
            let mut next = 1 + sender * (requests / SENDERS + 1);
            let end = next + requests / SENDERS;
            while next < end {
                let batch = next..(next + BATCH_REQUESTS).min(end);
                next = batch.end;
                client.export(request(batch_of(batch, requests_per_trace))).await?;
            }
            Fallible::Ok(())
        });
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "load: {LOAD_SPANS} spans in {seconds:.1} s, {:.0} spans/s",
        LOAD_SPANS as f64 / seconds
    );
    print_memory("load", &server);
    let metrics = reqwest::get(format!("{}/metrics", server.ui)).await?.text().await?;
    for line in metrics.lines().filter(|line| line.starts_with("otel_store")) {
        println!("load: {line}");
    }
    // A search that returns all traces is the most expensive request.
    let (time, bytes) = server.get("/api/traces?service=service-b&limit=1000000").await?;
    println!("load: all traces read: {bytes} bytes of JSON in {} ms", time.as_millis());
    print_memory("load: after reading all traces", &server);
    server.stop()
}

fn print_memory(label: &str, server: &Server) {
    if let Some((now, peak)) = server.resident_mib() {
        println!("{label}: {now} MiB resident, {peak} MiB at the peak");
    }
}

/// Returns the spans of a range of requests, of which `requests_per_trace` share a trace.
fn batch_of(requests: Range<u64>, requests_per_trace: u64) -> Vec<ResourceSpans> {
    // Exporters send one entry for each service.
    let mut service_b = of_service("service-b", Vec::new());
    let mut service_a = of_service("service-a", Vec::new());
    for number in requests {
        let spans = call_echo(number, now_ns(), number.is_multiple_of(10));
        for (mut from, to) in spans.into_iter().zip([&mut service_b, &mut service_a]) {
            let spans = &mut from.scope_spans[0].spans;
            for span in spans.iter_mut() {
                span.trace_id = trace_id(number / requests_per_trace + 1);
            }
            to.scope_spans[0].spans.append(spans);
        }
    }
    vec![service_b, service_a]
}

async fn large_trace() -> Fallible<()> {
    let server = Server::start()?;
    let mut client = server.client().await?;
    let spans: Vec<_> = (1..=LARGE_TRACE_SPANS).map(|id| span(1, id, id / 4, "step")).collect();
    let batches: Vec<_> = spans
        .chunks(500)
        .map(|batch| request(vec![of_service("service-b", batch.to_vec())]))
        .collect();
    let begin = Instant::now();
    for batch in batches {
        client.export(batch).await?;
    }
    println!(
        "large trace: {LARGE_TRACE_SPANS} spans exported in {} ms",
        begin.elapsed().as_millis()
    );
    let (time, bytes) = server.get(&format!("/api/traces/{}", trace_hex(1))).await?;
    println!("large trace: read as {bytes} bytes of JSON in {} ms", time.as_millis());
    server.stop()
}

async fn searches() -> Fallible<()> {
    let server = Server::start()?;
    let mut client = server.client().await?;
    let mut next = 1;
    while next <= STORED_TRACES {
        let batch = next..(next + BATCH_REQUESTS).min(STORED_TRACES + 1);
        next = batch.end;
        client.export(request(batch_of(batch, 1))).await?;
    }
    for (label, path) in [
        ("services", "/api/services"),
        ("operations", "/api/services/service-a/operations"),
        ("newest 20", "/api/traces?service=service-b&limit=20"),
        ("newest 1500", "/api/traces?service=service-b&limit=1500"),
        (
            "failed traces",
            "/api/traces?service=service-a&limit=20&tags=%7B%22error%22%3A%22true%22%7D",
        ),
        (
            "no match by tag",
            "/api/traces?service=service-b&tags=%7B%22http.route%22%3A%22none%22%7D",
        ),
        ("no match by duration", "/api/traces?service=service-b&operation=GET&minDuration=1h"),
        ("dependencies", "/api/dependencies"),
    ] {
        let mut times = Vec::new();
        let mut size = 0;
        for _ in 0..9 {
            let (time, bytes) = server.get(path).await?;
            times.push(time);
            size = bytes;
        }
        times.sort();
        let (median, worst) = (times[4].as_secs_f64() * 1e3, times[8].as_secs_f64() * 1e3);
        println!(
            "{STORED_TRACES} traces, {label}: median {median:.1} ms, worst {worst:.1} ms, {size} bytes"
        );
    }
    server.stop()
}

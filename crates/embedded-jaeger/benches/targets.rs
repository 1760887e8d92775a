//! Benchmark over loopback: millions of spans over OTLP/gRPC, one large trace, and searches over
//! many traces. It prints results and asserts nothing.

#[path = "../tests/integration/support.rs"]
#[allow(dead_code)]
mod support;

use std::error::Error;
use std::ops::Range;
use std::time::{Duration, Instant};

use embedded_jaeger::{JaegerConfig, JaegerHandle};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use support::{call_echo, now_ns, of_service, request, span, trace_hex, trace_id};
use tokio::task::JoinSet;
use tonic::transport::Channel;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const LOAD_SPANS: u64 = 2_000_000;
const SENDERS: u64 = 4;
/// Requests per export. Each has 3 spans, and the SDK's batches have 512.
const BATCH_REQUESTS: u64 = 170;
const LARGE_TRACE_SPANS: u64 = 30_000;
const STORED_TRACES: u64 = 15_000;

#[tokio::main]
async fn main() -> Fallible<()> {
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

async fn start() -> Fallible<(JaegerHandle, TraceServiceClient<Channel>)> {
    let jaeger = embedded_jaeger::start(JaegerConfig::with_ephemeral_ports()).await?;
    let url = format!("http://{}", jaeger.otlp_grpc_addr());
    Ok((jaeger, TraceServiceClient::connect(url).await?))
}

/// Returns the time and the bytes of a response, which is not kept in memory.
async fn get(jaeger: &JaegerHandle, path: &str) -> Fallible<(Duration, usize)> {
    let begin = Instant::now();
    let url = format!("http://{}{path}", jaeger.ui_addr());
    let mut response = reqwest::get(url).await?.error_for_status()?;
    let mut bytes = 0;
    while let Some(chunk) = response.chunk().await? {
        bytes += chunk.len();
    }
    Ok((begin.elapsed(), bytes))
}

/// Exports requests in batches like those of the SDK.
async fn export(
    mut client: TraceServiceClient<Channel>,
    mut requests: Range<u64>,
    requests_per_trace: u64,
) -> Fallible<()> {
    while !requests.is_empty() {
        let end = requests.end.min(requests.start + BATCH_REQUESTS);
        client.export(request(batch_of(requests.start..end, requests_per_trace))).await?;
        requests.start = end;
    }
    Ok(())
}

async fn load(requests_per_trace: u64) -> Fallible<()> {
    println!("load: traces of {} spans", 3 * requests_per_trace);
    let (jaeger, client) = start().await?;
    let begin = Instant::now();
    let share = LOAD_SPANS / 3 / SENDERS;
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let requests = sender * share..(sender + 1) * share;
        senders.spawn(export(client.clone(), requests, requests_per_trace));
    }
    while let Some(sender) = senders.join_next().await {
        sender??;
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("load: {LOAD_SPANS} spans in {seconds:.1} s, {:.0}/s", LOAD_SPANS as f64 / seconds);
    print_memory("load");
    println!("load: {:?}", jaeger.stats());
    // A search that returns all traces is the most expensive request.
    let (time, bytes) = get(&jaeger, "/api/traces?service=service-b&limit=1000000").await?;
    println!("load: all traces read: {bytes} bytes of JSON in {} ms", time.as_millis());
    print_memory("load: after reading all traces");
    jaeger.stop().await;
    Ok(())
}

/// Prints the current and the peak resident memory of server and clients. Works only on Linux.
fn print_memory(label: &str) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"))
    {
        println!("{label}: {line}");
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
    let (jaeger, mut client) = start().await?;
    let spans: Vec<_> = (1..=LARGE_TRACE_SPANS).map(|id| span(1, id, id / 4, "step")).collect();
    let begin = Instant::now();
    for batch in spans.chunks(500) {
        client.export(request(vec![of_service("service-b", batch.to_vec())])).await?;
    }
    let time = begin.elapsed().as_millis();
    println!("large trace: {LARGE_TRACE_SPANS} spans exported in {time} ms");
    let (time, bytes) = get(&jaeger, &format!("/api/traces/{}", trace_hex(1))).await?;
    println!("large trace: read as {bytes} bytes of JSON in {} ms", time.as_millis());
    jaeger.stop().await;
    Ok(())
}

async fn searches() -> Fallible<()> {
    let (jaeger, client) = start().await?;
    export(client, 0..STORED_TRACES, 1).await?;
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
            let (time, bytes) = get(&jaeger, path).await?;
            times.push(time);
            size = bytes;
        }
        times.sort();
        let (median, worst) = (times[4].as_secs_f64() * 1e3, times[8].as_secs_f64() * 1e3);
        println!(
            "{STORED_TRACES} traces, {label}: median {median:.1} ms, worst {worst:.1} ms, {size} bytes"
        );
    }
    jaeger.stop().await;
    Ok(())
}

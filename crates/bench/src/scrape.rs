//! Scrapes of `/metrics`: their duration, and their effect on the requests of the same process.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testkit::Process;
use testkit::http::{Connection, Request};

use crate::stats::{Sorted, median};

/// Media types of `/metrics`, without their parameters that have defaults.
const FORMATS: [&str; 3] = [
    "text/plain",
    "application/openmetrics-text",
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
];

/// Highest duration of a request that is aimed at while `/metrics` is scraped.
const GOAL_MS: f64 = 1.0;
/// Number of keep-alive connections, which send one request after another in turns.
const CONNECTIONS: usize = 10;
/// Time without a change of the scraper.
const TURN: Duration = Duration::from_secs(1);

/// Sends a request to each of `routes` routes, which creates their series, and returns the number of all series.
pub(crate) fn create_series(process: &Process, routes: usize) -> Result<usize> {
    for n in 0..routes {
        let response = process.get(&format!("/r/{n}"));
        ensure!(response.status == 200, "{response:?}");
    }
    let page = process.get("/metrics");
    Ok(page.text().lines().filter(|line| !line.starts_with('#')).count())
}

/// Returns the median duration of a scrape in each format.
pub(crate) fn durations_ms(process: &Process) -> [f64; 3] {
    FORMATS.map(|format| {
        let scrape = Request::new("GET", "/metrics").header("Accept", format);
        median((0..5).map(|_| scrape.send(process.address()).elapsed.as_secs_f64() * 1e3))
    })
}

/// Requests during scrapes of one process.
struct Row {
    name: &'static str,
    scraped: Option<SocketAddr>,
    scrapes: u32,
    durations_ms: Vec<f64>,
}

/// Measures requests to `process` while it is not scraped, and while it is scraped without a pause. Scrapes of
/// `other`, which has the same series, show how much of the difference is competition for the cores.
pub(crate) fn print_effect(process: &Process, other: &Process, turns: u32) -> Result<()> {
    let mut rows = [
        ("nothing", None),
        ("another process", Some(other.address())),
        ("the same process", Some(process.address())),
    ]
    .map(|(name, scraped)| Row { name, scraped, scrapes: 0, durations_ms: Vec::new() });
    let mut connections: Vec<_> =
        (0..CONNECTIONS).map(|_| Connection::open(process.address())).collect();
    for _ in 0..turns {
        for row in &mut rows {
            let end = Instant::now() + TURN;
            let scrape = || row.scraped.map_or(Ok(0), |address| scrape_until(address, end));
            row.scrapes += thread::scope(|scope| {
                let scraper = scope.spawn(scrape);
                request_until(&mut connections, end, &mut row.durations_ms)?;
                scraper.join().ok().context("the scraper panicked")?
            })?;
        }
    }
    println!(
        "\nscrapes of         number  requests  p50 ms  p99 ms  p99.9 ms  maximum ms  above {GOAL_MS} ms"
    );
    for Row { name, scrapes, durations_ms, .. } in rows {
        let requests = Sorted::from_iter(durations_ms);
        let [p50, p99, p999, max] = [0.5, 0.99, 0.999, 1.0].map(|share| requests.quantile(share));
        let (count, slow) = (requests.len(), requests.count_above(GOAL_MS));
        let percent = 100.0 * slow as f64 / count as f64;
        println!(
            "{name:16}  {scrapes:7}  {count:8}  {p50:6.3}  {p99:6.3}  {p999:8.3}  {max:10.1}  {slow:10} ({percent:.2} %)"
        );
    }
    println!("goal: scrapes of the same process add no request above {GOAL_MS} ms");
    Ok(())
}

/// Scrapes `address` in each format in turn, and returns the number of scrapes.
fn scrape_until(address: SocketAddr, end: Instant) -> Result<u32> {
    let requests =
        FORMATS.map(|format| Request::new("GET", "/metrics").header("Accept", format).to_bytes());
    let mut connection = Connection::open(address);
    let mut scrapes = 0;
    for request in requests.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        exchange(&mut connection, request)?;
        scrapes += 1;
    }
    Ok(scrapes)
}

/// Sends requests over the connections in turn, one at a time.
fn request_until(
    connections: &mut [Connection],
    end: Instant,
    durations_ms: &mut Vec<f64>,
) -> Result<()> {
    let request = Request::new("GET", "/r/7").to_bytes();
    while Instant::now() < end {
        for connection in &mut *connections {
            let sent = Instant::now();
            exchange(connection, &request)?;
            durations_ms.push(sent.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(())
}

fn exchange(connection: &mut Connection, request: &[u8]) -> Result<()> {
    connection.send(request);
    let response = connection.response()?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

//! Helpers of the reliability tests.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use testkit::http::{Connection, Request};
use testkit::{Process, ProcessBuilder};

/// Returns a builder for service A on a free port.
pub(crate) fn service_a() -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_lab")).arg("service-a")
}

/// Returns a builder for service B on a free port that calls service A at this URL.
pub(crate) fn service_b(service_a_url: impl AsRef<str>) -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_lab"))
        .arg("service-b")
        .env("SERVICE_A_URL", service_a_url.as_ref())
}

/// Sends requests one after the other on one connection and returns the latency of each.
pub(crate) fn latencies(address: SocketAddr, target: &str, requests: usize) -> Vec<Duration> {
    let bytes = Request::new("GET", target).to_bytes();
    let mut connection = Connection::open(address);
    let one = |_| {
        let start = Instant::now();
        connection.send(&bytes);
        assert_eq!(connection.response().unwrap().status, 200);
        start.elapsed()
    };
    (0..requests).map(one).collect()
}

pub(crate) fn p99(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    latencies[(latencies.len() - 1) * 99 / 100]
}

/// Sends requests on one connection in batches of 64 and returns the status of each response.
pub(crate) fn pipeline(
    address: SocketAddr,
    requests: impl IntoIterator<Item = Request>,
) -> Vec<u16> {
    let mut connection = Connection::open(address);
    let mut requests = requests.into_iter();
    let mut statuses = Vec::new();
    loop {
        let batch: Vec<u8> = requests.by_ref().take(64).flat_map(|r| r.to_bytes()).collect();
        if batch.is_empty() {
            return statuses;
        }
        connection.send(&batch);
        let sent = batch.windows(4).filter(|bytes| bytes == b"\r\n\r\n").count();
        for _ in 0..sent {
            statuses.push(connection.response().unwrap().status);
        }
    }
}

/// Runs `work` on several threads and returns their results. `work` receives the index of its thread.
pub(crate) fn run_concurrently<T: Send>(
    threads: usize,
    work: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = (0..threads).map(|index| scope.spawn(move || work(index))).collect();
        handles.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Returns the number of open file descriptors of a process, sockets included.
pub(crate) fn open_files(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

/// Returns the number of requests of a long test: `RELIABILITY_REQUESTS`, or `default` if unset.
pub(crate) fn request_count(default: usize) -> usize {
    std::env::var("RELIABILITY_REQUESTS").map_or(default, |text| text.parse().unwrap())
}

/// Deterministic pseudorandom number generator (xorshift64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn choose<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[usize::try_from(self.next() % list.len() as u64).unwrap()]
    }
}

/// TCP load balancer with one target at a time. Open connections stay with the target that they were
/// opened to.
pub(crate) struct LoadBalancer {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl LoadBalancer {
    pub(crate) fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let current = Arc::clone(&target);
        thread::spawn(move || {
            for client in listener.incoming() {
                let target = *current.lock().unwrap();
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(target)) else {
                    continue;
                };
                for (mut from, mut to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    to.set_nodelay(true).unwrap();
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
            }
        });
        Self { address, target }
    }

    pub(crate) fn set_target(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }
}

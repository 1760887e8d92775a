//! What these tests share.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use testkit::http::{Connection, Request};
use testkit::{Process, ProcessBuilder, TEST_TIMEOUT};

/// Service A on a free port.
pub(crate) fn service_a() -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_lab")).arg("service-a")
}

/// Service B on a free port, with service A there.
pub(crate) fn service_b(service_a_url: impl AsRef<str>) -> ProcessBuilder {
    ProcessBuilder::new(env!("CARGO_BIN_EXE_lab"))
        .arg("service-b")
        .env("SERVICE_A_URL", service_a_url.as_ref())
}

pub(crate) fn url(process: &Process) -> String {
    format!("http://{}", process.address())
}

/// Sets the faults of service A.
pub(crate) fn set_faults(service_a: &Process, plan: &str) {
    let answer = Request::new("PUT", "/faults").body(plan).send(service_a.address());
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// How long each of so many requests takes, one after the other over one connection.
pub(crate) fn latencies(address: SocketAddr, target: &str, requests: usize) -> Vec<Duration> {
    let bytes = Request::new("GET", target).bytes();
    let mut connection = Connection::open(address);
    let one = |_| {
        let asked = Instant::now();
        connection.send(&bytes);
        assert_eq!(connection.answer().unwrap().status, 200);
        asked.elapsed()
    };
    (0..requests).map(one).collect()
}

pub(crate) fn p99(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort_unstable();
    latencies[(latencies.len() - 1) * 99 / 100]
}

/// Sends requests many at a time over one connection, and gives the statuses of their answers.
pub(crate) fn pipeline(
    address: SocketAddr,
    requests: impl IntoIterator<Item = Request>,
) -> Vec<u16> {
    let mut connection = Connection::open(address);
    let mut requests = requests.into_iter();
    let mut statuses = Vec::new();
    loop {
        let batch: Vec<u8> = requests.by_ref().take(64).flat_map(|r| r.bytes()).collect();
        if batch.is_empty() {
            return statuses;
        }
        connection.send(&batch);
        let sent = batch.windows(4).filter(|bytes| bytes == b"\r\n\r\n").count();
        for _ in 0..sent {
            statuses.push(connection.answer().unwrap().status);
        }
    }
}

/// Runs `work` on so many threads at once and gives what each came to.
pub(crate) fn at_once<T: Send>(threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|at| scope.spawn(move || work(at))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Open file descriptors of a process, sockets among them.
pub(crate) fn open_files(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().count()
}

/// Waits for something that leaves no sign but itself.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "time was up without {what}");
        thread::yield_now();
    }
}

/// How many requests an attack or a long time is made of, unless the test has its own number:
/// `RELIABILITY_REQUESTS`.
pub(crate) fn many(default: usize) -> usize {
    std::env::var("RELIABILITY_REQUESTS").map_or(default, |text| text.parse().unwrap())
}

/// Numbers that look random and are the same each time.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[usize::try_from(self.next() % list.len() as u64).unwrap()]
    }
}

/// What stands between callers and the instances of a service: new connections go to the one that is
/// named last, those that are there stay where they are.
pub(crate) struct Balancer {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
}

impl Balancer {
    pub(crate) fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = Arc::new(Mutex::new(target));
        let current = Arc::clone(&target);
        thread::spawn(move || {
            for caller in listener.incoming() {
                let target = *current.lock().unwrap();
                let (Ok(caller), Ok(instance)) = (caller, TcpStream::connect(target)) else {
                    continue;
                };
                for (mut from, mut to) in [
                    (caller.try_clone().unwrap(), instance.try_clone().unwrap()),
                    (instance, caller),
                ] {
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

    pub(crate) fn send_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }
}

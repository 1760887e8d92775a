//! The operating system's resolver, with a typed error and a bounded number of threads.
//!
//! A lookup blocks its thread and cannot be canceled. During an outage of the DNS it takes as long as the
//! system retries. On tokio's blocking pool, calls that time out meanwhile would leave a thread each, until
//! the pool is full and the scrapes and the shutdown of the service wait as well.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;

use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::error::DnsError;

/// Maximum number of lookups in the process at a time. Further ones wait.
const MAX_LOOKUPS: usize = 16;

static PERMITS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// Lookups that run. Calls to the same host share one.
static LOOKUPS: Mutex<BTreeMap<String, Lookup>> = Mutex::new(BTreeMap::new());

/// Result of a lookup, once it has ended.
type Lookup = watch::Receiver<Option<io::Result<Vec<SocketAddr>>>>;

pub(super) struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let addresses = resolve(name.as_str()).await.map_err(DnsError)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

async fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
    let running = LOOKUPS.lock().get(name).cloned();
    let mut lookup = match running {
        Some(lookup) => lookup,
        None => start(name, PERMITS.acquire().await.map_err(io::Error::other)?)?,
    };
    match &*lookup.wait_for(Option::is_some).await.map_err(io::Error::other)? {
        Some(Ok(addresses)) => Ok(addresses.clone()),
        Some(Err(error)) => Err(match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        }),
        None => Err(io::ErrorKind::Interrupted.into()),
    }
}

/// Starts a lookup, unless another call has done so while this one waited for its permit.
fn start(name: &str, permit: SemaphorePermit<'static>) -> io::Result<Lookup> {
    let mut lookups = LOOKUPS.lock();
    if let Some(lookup) = lookups.get(name) {
        return Ok(lookup.clone());
    }
    let (result_tx, lookup) = watch::channel(None);
    let host = name.to_owned();
    thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        let _permit = permit;
        let result = (host.as_str(), 0).to_socket_addrs().map(Iterator::collect);
        LOOKUPS.lock().remove(&host);
        let _ = result_tx.send(Some(result));
    })?;
    lookups.insert(name.to_owned(), lookup.clone());
    Ok(lookup)
}

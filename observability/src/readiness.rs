//! Readiness checks: named, asynchronous and bounded in time.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::BoxError;

use crate::error::error_chain;

pub(crate) type CheckFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// Readiness checks of a service.
#[derive(Default)]
pub(crate) struct ReadinessChecks(RwLock<Vec<ReadinessCheck>>);

#[derive(Clone)]
struct ReadinessCheck {
    name: &'static str,
    limit: Duration,
    start: Arc<dyn Fn() -> CheckFuture + Send + Sync>,
}

impl ReadinessChecks {
    pub(crate) fn add(
        &self,
        name: &'static str,
        limit: Duration,
        start: impl Fn() -> CheckFuture + Send + Sync + 'static,
    ) {
        self.0.write().push(ReadinessCheck { name, limit, start: Arc::new(start) });
    }

    /// Runs all checks at once. Returns the result of each, with the reason of a failure.
    pub(crate) async fn run(&self) -> BTreeMap<&'static str, Result<(), String>> {
        let checks = self.0.read().clone();
        let panicked = |check: &ReadinessCheck| (check.name, Err("panicked".to_owned()));
        let mut results: BTreeMap<_, _> = checks.iter().map(panicked).collect();
        let mut running = JoinSet::new();
        for check in checks {
            running.spawn(async move { (check.name, check.run().await) });
        }
        while let Some(joined) = running.join_next().await {
            results.extend(joined);
        }
        results
    }
}

impl ReadinessCheck {
    async fn run(&self) -> Result<(), String> {
        match timeout(self.limit, (self.start)()).await {
            Ok(result) => result.map_err(|error| error_chain(error.as_ref())),
            Err(_) => Err(format!("no result within {:?}", self.limit)),
        }
    }
}

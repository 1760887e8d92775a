//! One request, and what became of it.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use observability::{Error, ErrorKind};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;

/// What B is asked to have echoed.
const MESSAGE: &str = "load";

/// The largest answer that is read, in bytes; what is longer is not B's.
const MAX_BODY: usize = 64 * 1024;

/// Less than the 30 s after which our services close an idle connection, so that none is used at the
/// moment it is closed.
const IDLE: Duration = Duration::from_secs(20);

/// What a call fails for, and what B says where it makes none.
const KINDS: [&[ErrorKind]; 2] =
    [&ErrorKind::ALL_NAMED, &[ErrorKind::CircuitOpen, ErrorKind::Overload]];

/// What became of a request. A closed set, whatever bytes an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The echo came back.
    Ok,
    /// B answered in order that it could not help, for this reason.
    Failed(Reason),
    /// B answered with this status and no reason known to us.
    BStatus(u16),
    /// B's answer is not what was agreed.
    BDecode,
    /// There was no whole answer from B itself, for this reason.
    BNoAnswer(&'static str),
}

/// The `error` of B's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// An [`ErrorKind`] with a name of its own.
    Named(&'static str),
    /// The status A answered with.
    Status(u16),
}

impl Outcome {
    /// Whether B was there at all.
    pub(crate) fn is_answer(self) -> bool {
        !matches!(self, Self::BNoAnswer(_))
    }

    /// From what B answered.
    fn of_answer(status: StatusCode, body: &[u8]) -> Self {
        if status.is_success() {
            return match serde_json::from_slice(body) {
                Ok(Answer { service_a: Echo { echo } }) if echo == MESSAGE => Self::Ok,
                _ => Self::BDecode,
            };
        }
        let failure = serde_json::from_slice::<Failure>(body).ok();
        match failure.and_then(|failure| Reason::read(&failure.error)) {
            Some(reason) => Self::Failed(reason),
            None => Self::BStatus(status.as_u16()),
        }
    }

    fn of_error(error: &reqwest::Error) -> Self {
        let unresolved = causes(error).any(|cause| cause.is::<Unresolved>());
        let kind = if unresolved { ErrorKind::Dns } else { ErrorKind::from_reqwest(error) };
        Self::BNoAnswer(named(kind.as_str()).unwrap_or(ErrorKind::Other.as_str()))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failed(Reason::Named(word)) => f.write_str(word),
            Self::Failed(Reason::Status(code)) => write!(f, "{code}"),
            Self::BStatus(code) => write!(f, "B: status {code}"),
            Self::BDecode => write!(f, "B: {}", ErrorKind::Decode),
            Self::BNoAnswer(word) => write!(f, "B: {word}"),
        }
    }
}

impl Reason {
    fn read(word: &str) -> Option<Self> {
        if let Some(word) = named(word) {
            return Some(Self::Named(word));
        }
        let code = StatusCode::from_bytes(word.as_bytes()).ok()?;
        Some(Self::Status(code.as_u16()))
    }
}

/// The word as one of those we know.
fn named(word: &str) -> Option<&'static str> {
    KINDS.into_iter().flatten().map(ErrorKind::as_str).find(|known| *known == word)
}

#[derive(Deserialize)]
struct Answer {
    service_a: Echo,
}

#[derive(Deserialize)]
struct Echo {
    echo: String,
}

#[derive(Deserialize)]
struct Failure {
    error: String,
}

/// A request that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) outcome: Outcome,
    /// From the moment it was due to the end of the answer's body.
    pub(crate) latency: Duration,
}

/// Sends the requests; a clone shares the connections.
#[derive(Debug, Clone)]
pub(crate) struct Requester {
    client: Client,
    url: Url,
}

impl Requester {
    /// To B at `target`, whose path may be a prefix.
    pub(crate) fn new(target: &Url, timeout: Duration) -> Result<Self, Error> {
        let client = client(timeout)?;
        let mut url = endpoint(target, "call-echo");
        url.query_pairs_mut().append_pair("msg", MESSAGE);
        Ok(Self { client, url })
    }

    /// Sends one that was due at that moment.
    pub(crate) async fn send(self, due: Instant) -> Done {
        let outcome = match self.client.get(self.url).send().await {
            Ok(response) => read(response).await,
            Err(error) => Outcome::of_error(&error),
        };
        Done { outcome, latency: due.elapsed() }
    }
}

/// A plain client: what is measured is the target, so no proxy stands in between, and an answer that
/// sends us elsewhere is an answer.
pub(crate) fn client(timeout: Duration) -> Result<Client, Error> {
    Client::builder()
        .timeout(timeout)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .dns_resolver(Arc::new(Resolver))
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("lab-load/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(Error::from)
}

/// A path under a base URL.
pub(crate) fn endpoint(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// A URL without its credentials, for a person.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only for URLs that can have no credentials in the first place.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url.to_string().trim_end_matches('/').to_owned()
}

async fn read(mut response: Response) -> Outcome {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_BODY => body.extend(chunk),
            Ok(Some(_)) => return Outcome::BDecode,
            Ok(None) => return Outcome::of_answer(response.status(), &body),
            Err(error) => return Outcome::of_error(&error),
        }
    }
}

/// An error and its causes, those inside of I/O errors too.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

/// The system's resolver, with an error of a type of its own: reqwest's own is told apart only by its
/// text.
struct Resolver;

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(Unresolved)?;
            // Collected, since what is found borrows the name.
            let addresses: Vec<_> = found.collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[derive(Debug)]
struct Unresolved(std::io::Error);

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Unresolved {}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, body: &str) -> String {
        Outcome::of_answer(StatusCode::from_u16(status).unwrap(), body.as_bytes()).to_string()
    }

    #[test]
    fn an_echo_is_ok_and_nothing_else() {
        assert_eq!(outcome(200, r#"{"service_a":{"echo":"load"},"service_b":"ok"}"#), "ok");
        for body in ["", "{}", r#"{"service_a":{"echo":"other"},"service_b":"ok"}"#] {
            assert_eq!(outcome(200, body), "B: decode", "{body}");
        }
    }

    #[test]
    fn failure_uses_error_kind() {
        for kind in KINDS.into_iter().flatten() {
            assert_eq!(outcome(503, &format!(r#"{{"error":"{kind}"}}"#)), kind.as_str());
        }
        assert_eq!(outcome(503, r#"{"error":"500","http_status":502}"#), "500");
    }

    #[test]
    fn unexpected_response_counts_by_status() {
        for (status, body) in
            [(400, r#"{"error":"Missing 'msg' parameter"}"#), (404, ""), (503, "x")]
        {
            assert_eq!(outcome(status, body), format!("B: status {status}"));
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_told_apart_and_latency_counts_from_due() {
        // A label is at most 63 bytes long, so that no name server is asked.
        let target = Url::parse(&format!("http://{}", "a".repeat(64))).unwrap();
        let requester = Requester::new(&target, Duration::from_secs(30)).unwrap();
        let late = Duration::from_secs(5);
        let done = requester.send(Instant::now() - late).await;
        assert_eq!(done.outcome, Outcome::BNoAnswer("dns"));
        assert!(!done.outcome.is_answer());
        assert!(done.latency >= late, "{:?}", done.latency);
    }

    #[test]
    fn base_url_keeps_path_redacts_credentials() {
        let base = Url::parse("http://user:pw@b:1/prefix/?x#y").unwrap();
        assert_eq!(endpoint(&base, "call-echo").as_str(), "http://user:pw@b:1/prefix/call-echo");
        assert_eq!(shown(&endpoint(&base, "call-echo")), "http://b:1/prefix/call-echo");
        assert_eq!(shown(&Url::parse("http://b:1").unwrap()), "http://b:1");
    }
}

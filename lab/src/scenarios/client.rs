//! Requests to the services under test.

use std::time::Instant;

use observability::{Error, ErrorKind};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Url};
use serde::Serialize;
use tokio::task::JoinSet;

use super::args::Args;
use super::suites::{Request, Service};
use crate::http::{build_client, endpoint};

/// Maximum size of a body that is read. The rest is dropped.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// HTTP client with the addresses of both services.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) http: reqwest::Client,
    pub(super) service_a: Url,
    pub(super) service_b: Url,
}

/// Complete response.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: String,
    /// Time from the start of the request to the end of the body.
    pub(super) ms: u64,
    #[serde(skip)]
    pub(super) is_json: bool,
    #[serde(skip)]
    pub(super) trace_id: Option<String>,
}

/// Response, or the reason why there is none.
pub(super) type SendResult = Result<Response, ErrorKind>;

impl Client {
    pub(super) fn new(args: &Args, service_a: Url, service_b: Url) -> Result<Self, Error> {
        Ok(Self { http: build_client(args.response_timeout())?, service_a, service_b })
    }

    pub(super) fn url(&self, service: Service, path: &str) -> Url {
        let base = if service == Service::A { &self.service_a } else { &self.service_b };
        endpoint(base, path)
    }

    /// Sends all copies of a request at once. Returns the message and the result of each.
    pub(super) async fn send_all(&self, request: &Request) -> Vec<(String, SendResult)> {
        let mut tasks = JoinSet::new();
        for index in 0..request.copies {
            let number = if request.copies > 1 { format!(" {index}") } else { String::new() };
            let msg = request.msg.map(|msg| format!("{msg}{number}"));
            let (client, request) = (self.clone(), *request);
            tasks.spawn(async move {
                let result = client.send(&request, msg.as_deref()).await;
                (msg.unwrap_or_default(), result)
            });
        }
        tasks.join_all().await
    }

    async fn send(&self, request: &Request, msg: Option<&str>) -> SendResult {
        let mut url = self.url(request.service, request.path);
        if let Some(msg) = msg {
            url.query_pairs_mut().append_pair("msg", msg);
        }
        let method = if request.is_post { Method::POST } else { Method::GET };
        let start = Instant::now();
        self.read(method, url, start).await.map_err(|error| ErrorKind::from_reqwest(&error))
    }

    async fn read(&self, method: Method, url: Url, start: Instant) -> reqwest::Result<Response> {
        let mut response = self.http.request(method, url).send().await?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
        let trace_id = header("x-trace-id");
        let mut body = Vec::new();
        while body.len() < MAX_BODY_BYTES
            && let Some(chunk) = response.chunk().await?
        {
            body.extend_from_slice(&chunk);
        }
        Ok(Response {
            status: response.status().as_u16(),
            body: String::from_utf8_lossy(&body).into_owned(),
            ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            is_json: content_type.starts_with("application/json"),
            trace_id,
        })
    }
}

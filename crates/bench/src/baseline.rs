//! Baselines: the handlers of the services without telemetry, on the plainest server and client that
//! axum and reqwest offer. The cost of telemetry is the difference to them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use strict_query::StrictQuery;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Deserialize)]
struct EchoParams {
    #[serde(default)]
    msg: String,
}

#[derive(Serialize, Deserialize)]
struct Echo {
    echo: String,
}

#[derive(Serialize)]
struct CallEchoResponse {
    service_a: Echo,
    service_b: &'static str,
}

#[derive(Serialize)]
struct ErrorBody {
    error: String,
}

#[derive(Clone)]
struct ServiceAClient {
    client: reqwest::Client,
    echo_url: Url,
}

/// Returns the router of service A.
pub(crate) fn service_a() -> Router {
    Router::new().route("/echo", get(echo))
}

/// Returns the router of service B, which calls service A at `service_a_url`.
pub(crate) fn service_b(service_a_url: &Url) -> Result<Router> {
    let client =
        reqwest::Client::builder().timeout(Duration::from_secs(1)).tcp_nodelay(true).build()?;
    let echo_url = service_a_url.join("echo")?;
    let service_a = ServiceAClient { client, echo_url };
    Ok(Router::new().route("/call-echo", get(call_echo)).with_state(service_a))
}

/// Returns a router with `count` routes.
pub(crate) fn routes(count: usize) -> Router {
    (0..count).fold(Router::new(), |router, n| router.route(&format!("/r/{n}"), get(async || "ok")))
}

/// Serves `router` until SIGTERM.
#[tokio::main]
pub(crate) async fn serve(router: Router) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    log_listening(listener.local_addr()?);
    let router = router.route("/readyz", get(async || "ready"));
    Ok(axum::serve(listener, router).with_graceful_shutdown(terminated()).await?)
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

async fn echo(StrictQuery(params): StrictQuery<EchoParams>) -> Json<Echo> {
    Json(Echo { echo: params.msg })
}

async fn call_echo(
    State(service_a): State<ServiceAClient>,
    StrictQuery(params): StrictQuery<EchoParams>,
) -> Response {
    if params.msg.is_empty() {
        let error = "Missing 'msg' parameter".to_owned();
        return (StatusCode::BAD_REQUEST, Json(ErrorBody { error })).into_response();
    }
    match fetch_echo(&service_a, &params.msg).await {
        Ok(echo) => Json(CallEchoResponse { service_a: echo, service_b: "ok" }).into_response(),
        Err(error) => {
            let error = error.to_string();
            (StatusCode::SERVICE_UNAVAILABLE, Json(ErrorBody { error })).into_response()
        }
    }
}

async fn fetch_echo(service_a: &ServiceAClient, msg: &str) -> reqwest::Result<Echo> {
    let mut url = service_a.echo_url.clone();
    url.query_pairs_mut().append_pair("msg", msg);
    service_a.client.get(url).send().await?.error_for_status()?.json().await
}

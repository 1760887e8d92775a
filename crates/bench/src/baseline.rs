//! Baselines: the handlers of the services without telemetry, on the plainest server and client that
//! axum and reqwest offer. The cost of telemetry is the difference to them.

use std::env;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use strict_query::StrictQuery;
use tokio::net::TcpListener;

use crate::process::{log_listening, terminated};

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

#[derive(Clone)]
struct ServiceAClient {
    client: reqwest::Client,
    echo_url: Url,
}

/// Returns the router of service A.
pub(crate) fn service_a() -> Router {
    Router::new().route("/echo", get(echo))
}

/// Returns the router of service B, which calls service A at `SERVICE_A_URL`.
pub(crate) fn service_b() -> Result<Router> {
    let client =
        reqwest::Client::builder().timeout(Duration::from_secs(1)).tcp_nodelay(true).build()?;
    let echo_url = env::var("SERVICE_A_URL")?.parse::<Url>()?.join("echo")?;
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

async fn echo(StrictQuery(params): StrictQuery<EchoParams>) -> Json<Echo> {
    Json(Echo { echo: params.msg })
}

async fn call_echo(
    State(service_a): State<ServiceAClient>,
    StrictQuery(params): StrictQuery<EchoParams>,
) -> Result<Json<CallEchoResponse>, (StatusCode, String)> {
    if params.msg.is_empty() {
        return Err((StatusCode::BAD_REQUEST, "Missing 'msg' parameter".to_owned()));
    }
    let echo = fetch_echo(&service_a, &params.msg).await;
    let service_a = echo.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(Json(CallEchoResponse { service_a, service_b: "ok" }))
}

async fn fetch_echo(service_a: &ServiceAClient, msg: &str) -> reqwest::Result<Echo> {
    let mut url = service_a.echo_url.clone();
    url.query_pairs_mut().append_pair("msg", msg);
    service_a.client.get(url).send().await?.error_for_status()?.json().await
}

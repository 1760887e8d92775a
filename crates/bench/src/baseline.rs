//! Baselines: the handlers of the services without telemetry, on the plainest server and client that
//! axum and reqwest offer. The cost of telemetry is the difference to them.

use std::env;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use strict_query::StrictQuery;
use tokio::net::TcpListener;

use crate::process::{log_listening, terminated};
use crate::services::App;

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
struct Computed {
    hash: u64,
}

#[derive(Serialize)]
struct Item {
    id: u32,
    name: String,
    price: f64,
    in_stock: bool,
    tags: [&'static str; 3],
}

#[derive(Clone)]
struct ServiceAClient {
    client: reqwest::Client,
    echo_url: Url,
}

/// Returns the router of `app`.
pub(crate) fn router(app: App) -> Result<Router> {
    Ok(match app {
        App::A | App::Layer => service_a(),
        App::B => service_b()?,
        App::Api => api(),
        App::Compute => compute(),
    })
}

/// Returns the router of service A.
pub(crate) fn service_a() -> Router {
    Router::new().route("/echo", get(echo))
}

/// Returns the router of service B, which calls service A at `SERVICE_A_URL`.
fn service_b() -> Result<Router> {
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

/// Returns the router of a JSON API with 50 routes.
pub(crate) fn api() -> Router {
    let item = async |Path(id): Path<u32>| {
        let tags = ["red", "large", "fragile"];
        Json(Item { id, name: format!("item {id}"), price: 12.5, in_stock: true, tags })
    };
    (0..50)
        .fold(Router::new(), |router, n| router.route(&format!("/r/{n}/items/{{id}}"), get(item)))
}

/// Returns a router with a handler that computes for about 100 µs.
pub(crate) fn compute() -> Router {
    // A fixed number of steps, so that a busy machine does not change the work.
    let compute = async || {
        let steps = 0..100_000_u64;
        let hash =
            steps.fold(1_u64, |hash, step| black_box(hash ^ step).wrapping_mul(0x100_0000_01b3));
        Json(Computed { hash })
    };
    Router::new().route("/compute", get(compute))
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

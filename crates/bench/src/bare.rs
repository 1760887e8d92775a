//! The bare twins: the services' handlers with nothing around them, on the plainest server and
//! client that axum and reqwest offer. What ours costs more than these is what telemetry costs.

use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use strict_query::StrictQuery;
use tokio::net::TcpListener;

use crate::Result;

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    msg: String,
}

#[derive(Serialize, Deserialize)]
struct Echo {
    echo: String,
}

#[derive(Serialize)]
struct Answer {
    service_a: Echo,
    service_b: &'static str,
}

#[derive(Serialize)]
struct Problem {
    error: String,
}

#[derive(Clone)]
struct ServiceA {
    client: reqwest::Client,
    echo: reqwest::Url,
}

/// A's twin.
pub(crate) fn a() -> Router {
    Router::new().route("/echo", get(echo))
}

/// B's twin, calling A at `url`.
pub(crate) fn b(url: &str) -> Result<Router> {
    let client =
        reqwest::Client::builder().timeout(Duration::from_secs(1)).tcp_nodelay(true).build()?;
    let echo = reqwest::Url::parse(url)?.join("echo")?;
    Ok(Router::new().route("/call-echo", get(call_echo)).with_state(ServiceA { client, echo }))
}

/// Serves until the process is ended; says where in the words of our services' first log line.
pub(crate) fn serve(router: Router) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        println!("address={}", listener.local_addr()?);
        let router = router.route("/readyz", get(async || "ready"));
        Ok(axum::serve(listener, router).with_graceful_shutdown(terminated()).await?)
    })
}

pub(crate) async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    if let Ok(mut terminate) = signal(SignalKind::terminate()) {
        terminate.recv().await;
    }
}

async fn echo(StrictQuery(message): StrictQuery<Message>) -> Json<Echo> {
    Json(Echo { echo: message.msg })
}

async fn call_echo(
    State(service_a): State<ServiceA>,
    StrictQuery(message): StrictQuery<Message>,
) -> Response {
    if message.msg.is_empty() {
        let error = "Missing 'msg' parameter".to_owned();
        return (StatusCode::BAD_REQUEST, Json(Problem { error })).into_response();
    }
    match call(&service_a, &message.msg).await {
        Ok(echo) => Json(Answer { service_a: echo, service_b: "ok" }).into_response(),
        Err(error) => {
            let error = error.to_string();
            (StatusCode::SERVICE_UNAVAILABLE, Json(Problem { error })).into_response()
        }
    }
}

async fn call(service_a: &ServiceA, msg: &str) -> reqwest::Result<Echo> {
    let mut url = service_a.echo.clone();
    url.query_pairs_mut().append_pair("msg", msg);
    service_a.client.get(url).send().await?.error_for_status()?.json().await
}

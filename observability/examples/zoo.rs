//! Service with one route for each way in which a response can end. `tests/endings.rs` runs it.
//!
//! ```sh
//! cargo run -p observability --example zoo
//! ```

#![allow(clippy::panic, reason = "two routes panic on purpose")]

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, TRAILER, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use observability::{Config, Error, ServiceInfo, Telemetry};
use tracing::Instrument;

const SERVICE: ServiceInfo =
    observability::service!("zoo", log_label: "Z", listen_addr: "127.0.0.1:8085");

fn main() -> ExitCode {
    observability::run(async {
        let config: Config = SERVICE.parse(std::env::args_os())?;
        let telemetry = observability::init(SERVICE, &config)?;
        telemetry.serve(router(telemetry.clone())).await
    })
}

fn router(telemetry: Telemetry) -> Router {
    Router::new()
        .route("/announced", get(async || ([(CONTENT_LENGTH, "5")], chunks(Ok("hello")))))
        .route("/too-long", get(async || ([(CONTENT_LENGTH, "5")], chunks(Ok("hello, world")))))
        .route("/chunked", get(async || chunks(Ok("hello"))))
        .route("/trailers", get(trailers))
        .route("/no-content", get(async || (StatusCode::NO_CONTENT, endless())))
        .route("/not-modified", get(async || (StatusCode::NOT_MODIFIED, endless())))
        .route("/endless", get(async || endless()))
        .route("/upgrade", any(upgrade))
        .route("/unready-upgrade", any(unready_upgrade).with_state(telemetry))
        .route("/failing-body", get(async || chunks(Err(io::Error::other("disk error")))))
        .route("/panicking-body", get(async || panicking_body()))
        .route("/panic", get(panic))
        .route("/error", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route("/error-event", get(error_event))
        .route("/spawned", get(spawned))
        .route("/pending", get(pending::<()>))
}

/// Returns a body of two chunks, of which the second may be an error.
fn chunks(last: io::Result<&'static str>) -> Body {
    Body::from_stream(stream::iter([Ok(""), last]))
}

/// Returns a body that never ends.
fn endless() -> Body {
    let ticks = stream::repeat("tick").then(async |tick| {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok::<_, Infallible>(tick)
    });
    Body::from_stream(ticks)
}

async fn trailers() -> Response {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", HeaderValue::from_static("1"));
    let frames = [
        Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"hello"))),
        Ok(http_body::Frame::trailers(trailers)),
    ];
    // The stream never ends, so that only the trailers can complete the response.
    let frames = stream::iter(frames).chain(stream::pending());
    ([(TRAILER, "checksum")], Body::new(StreamBody::new(frames))).into_response()
}

async fn upgrade() -> Response {
    let headers = [(CONNECTION, "upgrade"), (UPGRADE, "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

/// Reports the service unready before it responds.
async fn unready_upgrade(State(telemetry): State<Telemetry>) -> Response {
    telemetry.set_ready(false);
    let response = upgrade().await;
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        telemetry.set_ready(true);
    });
    response
}

fn panicking_body() -> Body {
    Body::from_stream(stream::iter(0..2).map(|index| match index {
        0 => Ok::<_, Error>("hello"),
        _ => panic!("panic in a body"),
    }))
}

async fn panic() {
    panic!("panic in a handler");
}

async fn error_event() -> &'static str {
    tracing::error!("an event is not the outcome of the request");
    "hello"
}

/// Responds while a task holds the span of the request, and a child span never ends.
async fn spawned() -> &'static str {
    let child = async {
        tracing::info!("child started");
        pending::<()>().await
    };
    tokio::spawn(child.instrument(tracing::info_span!("child")));
    tokio::spawn(pending::<()>().in_current_span());
    "hello"
}

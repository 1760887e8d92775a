//! Service with responses that last: a WebSocket that echoes, and a stream of server-sent events.
//!
//! ```sh
//! cargo run -p observability --example websocket_sse
//! curl -N "http://127.0.0.1:8082/events"
//! websocat "ws://127.0.0.1:8082/echo"
//! ```

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::{any, get};
use futures_util::{Stream, StreamExt, stream};
use observability::{Error, ServiceInfo};
use tracing::Instrument;

const SERVICE: ServiceInfo = observability::service!("websocket-sse", log_label: "websocket-sse", listen_addr: "127.0.0.1:8082");

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let config = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &config)?;
    let upgrade = async |upgrade: WebSocketUpgrade| {
        // The request ends with its response 101. The log lines of the socket carry its trace.
        let span = tracing::Span::current();
        upgrade.on_upgrade(|socket| echo(socket).instrument(span))
    };
    let router = Router::new()
        .route("/echo", any(upgrade))
        .route("/events", get(async || Sse::new(events())));
    telemetry.serve(router).await
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
            break;
        }
    }
    tracing::info!("socket closed");
}

/// Returns an event each second. The media type `text/event-stream` keeps the response out of the latency
/// histogram and of `MAX_CONCURRENT_REQUESTS`.
fn events() -> impl Stream<Item = Result<Event, Infallible>> {
    stream::iter(0_u64..).then(async |number| {
        if number > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(Event::default().data(number.to_string()))
    })
}

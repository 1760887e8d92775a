//! gRPC service beside a JSON route, on one port. Method and status of each call are recorded.
//!
//! With code that `tonic-prost-build` generates, the router is
//! `Routes::new(GreeterServer::new(greeter)).into_axum_router()`. The types are written by hand here, so that
//! the example needs no `protoc`.
//!
//! ```sh
//! cargo run -p observability --example tonic_grpc
//! curl -i "http://127.0.0.1:8082/hello"
//! ```

use std::process::ExitCode;

use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};
use futures_util::{Stream, stream};
use observability::{Error, ServiceInfo};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Response, Status};
use tonic_prost::ProstCodec;
use tower::service_fn;

const SERVICE: ServiceInfo =
    observability::service!("tonic-grpc", log_label: "tonic-grpc", listen_addr: "127.0.0.1:8082");

/// The request of both methods.
#[derive(Clone, PartialEq, prost::Message)]
struct HelloRequest {
    #[prost(string, tag = "1")]
    name: String,
}

/// The response of both methods.
#[derive(Clone, PartialEq, prost::Message)]
struct HelloReply {
    #[prost(string, tag = "1")]
    message: String,
}

fn main() -> ExitCode {
    observability::run(serve())
}

async fn serve() -> Result<(), Error> {
    let config = SERVICE.parse(std::env::args_os())?;
    let telemetry = observability::init(SERVICE, &config)?;
    let router = Router::new()
        .route("/hello", get(async || "hello"))
        .route("/helloworld.Greeter/SayHello", post(say_hello))
        .route("/helloworld.Greeter/StreamHello", post(stream_hello))
        .fallback(async || Status::unimplemented("unknown method").into_http::<Body>());
    telemetry.serve(router).await
}

async fn say_hello(request: Request) -> http::Response<Body> {
    let greet = async |request: tonic::Request<HelloRequest>| {
        greet(&request.into_inner().name).map(Response::new)
    };
    Grpc::new(ProstCodec::default()).unary(service_fn(greet), request).await
}

async fn stream_hello(request: Request) -> http::Response<Body> {
    let greet = async |request: tonic::Request<HelloRequest>| {
        Ok::<_, Status>(Response::new(greetings(request.into_inner().name)))
    };
    Grpc::new(ProstCodec::default()).server_streaming(service_fn(greet), request).await
}

fn greet(name: &str) -> Result<HelloReply, Status> {
    match name {
        "stranger" => Err(Status::not_found("no such person")),
        "database" => Err(Status::internal("cannot read the name")),
        _ => Ok(HelloReply { message: format!("hello {name}") }),
    }
}

fn greetings(name: String) -> impl Stream<Item = Result<HelloReply, Status>> {
    stream::iter((1..=3).map(move |_| greet(&name)))
}

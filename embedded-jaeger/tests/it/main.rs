//! The in-memory Jaeger over real sockets: OTLP in, JSON and pages out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod bounds;
mod ingest;
mod jaeger;
mod page;
mod shape;
mod start;
#[allow(dead_code)]
mod support;

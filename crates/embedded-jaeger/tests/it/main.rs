//! The in-memory Jaeger over real sockets: OTLP in, JSON and pages out.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod ingest;
mod jaeger;
mod limits;
mod page;
mod startup;
#[allow(dead_code)]
mod support;
mod trace_tree;

//! OTLP receivers. Both transports pass the bytes of a request to `export`.

mod encoded_span;
mod export;
pub(crate) mod grpc;
pub(crate) mod http;

pub(crate) use export::{decode_json, export};

//! Parts that requests to the service and calls of its clients share.

mod accept;
mod body;
mod method;
mod text;
mod url;

pub(crate) use accept::Weight;
pub(crate) use body::{BodyEnd, InstrumentedBody, OnBodyEnd};
pub(crate) use method::KnownMethod;
pub(crate) use text::truncate;
pub(crate) use url::redact_url;

//! Parts that requests to the service and calls of its clients share.

mod accept;
mod body;
mod method;
mod scheme;
mod text;
mod url;

pub(crate) use accept::Weight;
pub(crate) use body::{BodyEnd, InstrumentedBody, OnBodyEnd};
pub(crate) use method::{KnownMethod, KnownMethods};
pub(crate) use scheme::UrlScheme;
pub(crate) use text::{MAX_CLIENT_TEXT_BYTES, truncate};
pub(crate) use url::redact_url;

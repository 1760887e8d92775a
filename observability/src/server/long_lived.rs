//! Responses that may last as long as the client stays, such as server-sent events.

use http::{Response, header};

/// Extension that marks a response as long-lived, for streams whose media type does not tell.
///
/// A handler returns `(Extension(LongLived), body)`. Such a response is not measured by the latency
/// histogram and does not count towards `MAX_CONCURRENT_REQUESTS`, and a client that leaves it is no
/// failure. The media types of `LONG_LIVED_TYPES` need no mark.
#[derive(Debug, Clone, Copy)]
pub struct LongLived;

pub(super) fn is_long_lived<B>(response: &Response<B>, types: &[String]) -> bool {
    let content_type = || {
        let value = response.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
        Some(value.split(';').next().unwrap_or_default().trim())
    };
    response.extensions().get::<LongLived>().is_some()
        || content_type().is_some_and(|media_type| {
            types.iter().any(|long_lived| long_lived.eq_ignore_ascii_case(media_type))
        })
}

//! Causes that have a type of their own, and the text of a chain of causes.

use std::error::Error;
use std::io;

/// A host name that did not resolve.
#[derive(Debug, thiserror::Error)]
#[error("name resolution failed")]
pub(crate) struct DnsError(#[source] pub(crate) io::Error);

/// A call that the circuit breaker did not admit.
#[derive(Debug, thiserror::Error)]
#[error("circuit breaker is open")]
pub(crate) struct CircuitOpenError;

/// Returns an error and its causes, outermost first. Includes the error that an `io::Error` wraps, which
/// its `source` skips.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}

/// Returns an error and its causes on one line, outermost first. A cause whose text ends its parent's
/// text is not repeated.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer<E: Error + 'static>(#[source] E);

    #[test]
    fn error_chain_lists_each_cause_once() {
        let error = Outer(Outer(io::Error::other("inner")));
        assert_eq!(error_chain(&error), "outer: inner");
    }
}

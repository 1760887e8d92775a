//! Results as text and as JSON.

use observability::Error;
use serde::Serialize;

use super::client::Response;
use super::witnesses::Witnesses;
use crate::terminal::{paint, print_line};

/// Maximum number of characters of a response that the text shows.
const MAX_BODY_CHARS: usize = 200;

/// Outcome of a run, which `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) service_a: String,
    pub(super) service_b: String,
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) skipped: usize,
    pub(super) suites: Vec<SuiteReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct SuiteReport {
    pub(super) name: &'static str,
    pub(super) tests: Vec<TestReport>,
}

#[derive(Debug, Serialize)]
pub(super) struct TestReport {
    pub(super) name: &'static str,
    pub(super) result: Outcome,
    /// Reason why the test failed or was skipped.
    pub(super) reason: Option<String>,
    /// One of the responses; the first that fails the test if there is one.
    pub(super) response: Option<Response>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) witnesses: Option<Witnesses>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl TestReport {
    pub(super) fn skipped(name: &'static str, reason: String) -> Self {
        let (result, reason) = (Outcome::Skipped, Some(reason));
        Self { name, result, reason, response: None, witnesses: None }
    }

    pub(super) fn print(&self) {
        let (color, result) = match self.result {
            Outcome::Passed => ("32", "passed "),
            Outcome::Failed => ("1;31", "FAILED "),
            Outcome::Skipped => ("33", "skipped"),
        };
        print_line(format_args!("  {}  {}", paint(color, result), self.name));
        let detail = |text: &str| print_line(format_args!("           {text}"));
        if let Some(reason) = &self.reason {
            detail(reason);
        }
        if let Some(Response { status, body, ms, .. }) = &self.response {
            let body = if body.is_empty() { "no body" } else { &shorten(body) };
            detail(&format!("{status} in {ms} ms: {body}"));
        }
        if let Some(witnesses) = &self.witnesses {
            let log_a = witnesses.log_a.as_deref().unwrap_or("none, because A is down");
            detail(&format!("log of B  {}", witnesses.log_b.as_deref().unwrap_or("none")));
            detail(&format!("log of A  {log_a}"));
            detail(&format!("counter   {}", witnesses.counter));
            detail(&format!("trace     {}", witnesses.trace.as_deref().unwrap_or("none")));
            if let Some(kind) = witnesses.common_word() {
                detail(&format!("kind      {kind}, the same in body, counter, log of B and trace"));
            }
        }
    }
}

impl Report {
    pub(super) fn add(&mut self, test: TestReport) {
        match test.result {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Skipped => self.skipped += 1,
        }
        if let Some(suite) = self.suites.last_mut() {
            suite.tests.push(test);
        }
    }

    pub(super) fn print_summary(&self) {
        let Self { passed, failed, skipped, .. } = self;
        let color = if *failed == 0 { "32" } else { "1;31" };
        let summary = format!("{passed} passed, {failed} failed, {skipped} skipped");
        print_line(format_args!("\n{}", paint(color, summary)));
    }

    /// Returns an error unless no test failed and at least one passed.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self {
            Self { failed: 0, passed: 1.., .. } => Ok(()),
            Self { failed: 0, .. } => Err(Error::other("lab scenarios: neither service is up")),
            Self { failed: 1, .. } => Err(Error::other("lab scenarios: 1 test failed")),
            Self { failed, .. } => {
                Err(Error::other(format!("lab scenarios: {failed} tests failed")))
            }
        }
    }
}

/// Shortens a body and escapes control characters, which could change the terminal.
fn shorten(body: &str) -> String {
    let mut text = String::new();
    for char in body.chars().take(MAX_BODY_CHARS) {
        if char.is_control() { text.extend(char.escape_default()) } else { text.push(char) }
    }
    if body.chars().nth(MAX_BODY_CHARS).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(shorten("{\"echo\":\"é\"}\r\n\u{1b}[2J"), r#"{"echo":"é"}\r\n\u{1b}[2J"#);
        assert_eq!(shorten(&"x".repeat(MAX_BODY_CHARS)).chars().last(), Some('x'));
        assert_eq!(shorten(&"x".repeat(2000)).chars().count(), MAX_BODY_CHARS + 1);
    }
}

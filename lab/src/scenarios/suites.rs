//! Table of the suites and their tests.

use std::time::Duration;

use Expected::{Echo, ErrorBody, Healthy, NoResponse, Status};
use Fault::{Hang, MalformedBody, Reset, Slow, Status500};
use Service::{A, B};
use State::{BothUp, Down, Failing, Restarted, Up};

/// Group of tests.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    pub(super) tests: &'static [Test],
}

/// Request in a state of the system, and the response that it must receive.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) name: &'static str,
    pub(super) state: State,
    pub(super) request: Request,
    pub(super) expected: Expected,
}

impl Test {
    /// Returns `true` if the request is a call from B to A that fails.
    pub(super) fn is_failed_call(&self) -> bool {
        self.request.copies == 1 && matches!(self.expected, Status(&[503]) | ErrorBody(503))
    }
}

/// Service under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    A,
    B,
}

/// State that a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// This service runs.
    Up(Service),
    /// Both services run.
    BothUp,
    /// This service is stopped and the other one runs.
    Down(Service),
    /// Both services run again after [`Down`](Self::Down), the state of the previous test.
    Restarted(Service),
    /// B runs, and A fails each call.
    Failing(Fault),
}

/// Behaviour of service A when it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A never responds.
    Hang,
    /// A echoes after [`slow_delay`].
    Slow,
    /// A responds with status 500.
    Status500,
    /// A responds 200 with a body that is not JSON.
    MalformedBody,
    /// A closes the connection before the response is complete.
    Reset,
}

/// Returns the delay of [`Fault::Slow`], which is within the time limit of B.
pub(super) fn slow_delay(time_limit: Duration) -> Duration {
    time_limit / 4
}

/// Request to a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub(super) service: Service,
    pub(super) is_post: bool,
    /// Path without the leading slash.
    pub(super) path: &'static str,
    /// Value of the parameter `msg`.
    pub(super) msg: Option<&'static str>,
    /// Number of requests at once. A number is appended to the message of each.
    pub(super) copies: usize,
}

/// Expected response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// 200 with a positive `status`.
    Healthy,
    /// 200 with the message of the request.
    Echo,
    /// One of these statuses.
    Status(&'static [u16]),
    /// This status with a JSON object that has `error`.
    ErrorBody(u16),
    /// No connection.
    NoResponse,
}

const LONG: &str = match std::str::from_utf8(&[b'x'; 2000]) {
    Ok(text) => text,
    Err(_) => "",
};
const SPECIAL: &str = "é 🦀 &x=1 #%+ \"\\</b>\n";

const fn test(name: &'static str, state: State, request: Request, expected: Expected) -> Test {
    Test { name, state, request, expected }
}

const fn get(service: Service, path: &'static str) -> Request {
    Request { service, is_post: false, path, msg: None, copies: 1 }
}

const fn echo(msg: &'static str) -> Request {
    Request { msg: Some(msg), ..get(A, "echo") }
}

const fn call(msg: &'static str) -> Request {
    Request { msg: Some(msg), ..get(B, "call-echo") }
}

/// All suites in the order in which they run.
pub(super) const SUITES: &[Suite] = &[
    Suite {
        name: "health checks",
        tests: &[
            test("A is healthy", Up(A), get(A, "health"), Healthy),
            test("B is healthy", Up(B), get(B, "health"), Healthy),
        ],
    },
    Suite {
        name: "success",
        tests: &[
            test("A echoes a message", Up(A), echo("hello"), Echo),
            test("A echoes an empty message", Up(A), echo(""), Echo),
            test("A echoes special characters", Up(A), echo(SPECIAL), Echo),
            test("A echoes a long message", Up(A), echo(LONG), Echo),
            test("B returns the echo of A", BothUp, call("hello"), Echo),
            test("B passes special characters on", BothUp, call(SPECIAL), Echo),
            test("B passes a long message on", BothUp, call(LONG), Echo),
        ],
    },
    Suite {
        name: "A down",
        tests: &[
            test("B stays healthy", Down(A), get(B, "health"), Healthy),
            test("B responds 503", Down(A), call("hello"), Status(&[503])),
            test("B works again once A is back", Restarted(A), call("hello"), Echo),
        ],
    },
    Suite {
        name: "invalid requests",
        tests: &[
            test("B rejects a call without msg", Up(B), get(B, "call-echo"), Status(&[400])),
            test("B rejects an empty msg", Up(B), call(""), Status(&[400])),
            test("B rejects it even if A is down", Down(A), get(B, "call-echo"), Status(&[400])),
            test("A responds 404 to an unknown path", Up(A), get(A, "nowhere"), Status(&[404])),
            test("B responds 404 to an unknown path", Up(B), get(B, "nowhere"), Status(&[404])),
            test(
                "B rejects POST",
                Up(B),
                Request { is_post: true, ..call("hello") },
                Status(&[404, 405]),
            ),
        ],
    },
    Suite {
        name: "B down",
        tests: &[
            test("B accepts no connection", Down(B), get(B, "health"), NoResponse),
            test("A stays healthy", Down(B), get(A, "health"), Healthy),
            test("A still echoes", Down(B), echo("hello"), Echo),
            test("B works again once it is back", Restarted(B), call("hello"), Echo),
        ],
    },
    Suite {
        name: "timeouts",
        tests: &[
            test("B responds 503 in time if A hangs", Failing(Hang), call("hello"), Status(&[503])),
            test("B stays healthy while A hangs", Failing(Hang), get(B, "health"), Healthy),
            test("B waits for a slow A", Failing(Slow), call("hello"), Echo),
        ],
    },
    Suite {
        name: "concurrent requests",
        tests: &[
            test("A echoes 20 messages at once", Up(A), times(20, echo("hello")), Echo),
            test("B returns 20 echoes at once", BothUp, times(20, call("hello")), Echo),
            test(
                "B responds 503 to 20 calls if A hangs",
                Failing(Hang),
                times(20, call("hello")),
                Status(&[503]),
            ),
        ],
    },
    Suite {
        name: "error response format",
        tests: &[
            test("call without msg", Up(B), get(B, "call-echo"), ErrorBody(400)),
            test("A is down", Down(A), call("hello"), ErrorBody(503)),
            test("A hangs", Failing(Hang), call("hello"), ErrorBody(503)),
            test("A responds 500", Failing(Status500), call("hello"), ErrorBody(503)),
            test("A sends malformed JSON", Failing(MalformedBody), call("hello"), ErrorBody(503)),
            test("A closes the connection", Failing(Reset), call("hello"), ErrorBody(503)),
        ],
    },
];

const fn times(copies: usize, request: Request) -> Request {
    Request { copies, ..request }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_follows_stop() {
        assert_eq!(SUITES.len(), 8);
        for suite in SUITES {
            for (index, test) in suite.tests.iter().enumerate() {
                if let Restarted(service) = test.state {
                    assert_eq!(suite.tests[index - 1].state, Down(service), "{}", test.name);
                }
            }
        }
    }
}

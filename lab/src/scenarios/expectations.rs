//! Comparison of a response with the expected one. Each shape of the original systems is accepted, and so
//! are additional keys.

use observability::ErrorKind;
use serde_json::Value;

use super::client::{Response, SendResult};
use super::suites::{Expected, Service};

/// Values of `status` in the response to a health check.
const HEALTHY: [&str; 4] = ["ok", "healthy", "up", "UP"];

impl Expected {
    /// Checks the response of `service` to a request with the message `msg`.
    pub(super) fn check(
        self,
        service: Service,
        msg: &str,
        result: &SendResult,
    ) -> Result<(), String> {
        let response = match result {
            Ok(response) => response,
            Err(_) if self == Self::NoResponse => return Ok(()),
            Err(ErrorKind::Timeout) => return Err("no response within the time limit".to_owned()),
            Err(kind) => return Err(format!("no response: {kind}")),
        };
        match self {
            Self::Healthy => {
                check_status(response, &[200])?;
                let status = &json_object(response)?["status"];
                let is_healthy = HEALTHY.iter().any(|healthy| status == healthy);
                ensure(is_healthy, || format!("expected a `status` such as \"ok\", not {status}"))
            }
            Self::Echo => {
                check_status(response, &[200])?;
                let body = json_object(response)?;
                let is_echo = match service {
                    Service::A => body["echo"] == msg,
                    Service::B => has_echo(&body, msg),
                };
                ensure(is_echo, || "expected the message of the request in the body".to_owned())
            }
            Self::Status(statuses) => check_status(response, statuses),
            Self::ErrorBody(status) => {
                check_status(response, &[status])?;
                ensure(response.is_json, || "expected the type application/json".to_owned())?;
                let body = json_object(response)?;
                let has_error = body["error"].as_str().is_some_and(|error| !error.is_empty());
                ensure(has_error, || "expected the key `error` with a text".to_owned())
            }
            Self::NoResponse => Err("expected no response".to_owned()),
        }
    }
}

/// Recognizes `{"service_a":{"echo":…},"service_b":"ok"}` and `{"msg":…,"echo_response":{"echo":…}}`.
fn has_echo(body: &Value, msg: &str) -> bool {
    (body["service_a"]["echo"] == msg && body["service_b"] == "ok")
        || (body["echo_response"]["echo"] == msg && body["msg"] == msg)
}

fn check_status(response: &Response, statuses: &[u16]) -> Result<(), String> {
    ensure(statuses.contains(&response.status), || {
        let statuses: Vec<_> = statuses.iter().map(u16::to_string).collect();
        format!("expected status {}, not {}", statuses.join(" or "), response.status)
    })
}

fn json_object(response: &Response) -> Result<Value, String> {
    let body = serde_json::from_str(&response.body).ok().filter(Value::is_object);
    body.ok_or_else(|| "expected a JSON object".to_owned())
}

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: Expected, service: Service, status: u16, body: &str) -> Result<(), String> {
        let body = body.to_owned();
        let response = Response { status, body, ms: 1, is_json: true, trace_id: None };
        expected.check(service, "hello", &Ok(response))
    }

    #[test]
    fn each_original_shape_is_accepted() {
        for body in [
            r#"{"service_a":{"echo":"hello"},"service_b":"ok"}"#,
            r#"{"service_a":{"echo":"hello","id":1},"service_b":"ok","more":[]}"#,
            r#"{"msg":"hello","echo_response":{"echo":"hello"}}"#,
        ] {
            assert_eq!(check(Expected::Echo, Service::B, 200, body), Ok(()), "{body}");
            let other = body.replace(r#"echo":"hello"#, r#"echo":"other"#);
            assert!(check(Expected::Echo, Service::B, 200, &other).is_err(), "{other}");
        }
        for body in [r#"{"status":"ok"}"#, r#"{"service":"A","status":"healthy"}"#] {
            assert_eq!(check(Expected::Healthy, Service::A, 200, body), Ok(()), "{body}");
        }
    }

    #[test]
    fn incomplete_error_is_rejected() {
        let error = Expected::ErrorBody(503);
        assert_eq!(check(error, Service::B, 503, r#"{"error":"timeout","x":1}"#), Ok(()));
        for (status, body) in [(500, r#"{"error":"x"}"#), (503, r#"{"error":""}"#), (503, "x")] {
            assert!(check(error, Service::B, status, body).is_err(), "{status} {body}");
        }
    }

    #[test]
    fn missing_response_is_named() {
        let check = |expected: Expected, kind| expected.check(Service::B, "", &Err(kind));
        assert_eq!(check(Expected::NoResponse, ErrorKind::Refused), Ok(()));
        let timeout = check(Expected::Healthy, ErrorKind::Timeout).unwrap_err();
        assert_eq!(timeout, "no response within the time limit");
        let refused = check(Expected::Healthy, ErrorKind::Refused).unwrap_err();
        assert_eq!(refused, "no response: refused");
    }
}

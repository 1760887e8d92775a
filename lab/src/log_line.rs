//! Fields of the log lines that the services write, in either format.

use std::net::SocketAddr;

/// Returns the address in the log line of a service that listens.
pub(crate) fn listening_address(line: &str) -> Option<SocketAddr> {
    log_field(line, "address")?.parse().ok()
}

/// Returns the trace id in the log line of a failed request.
pub(crate) fn failed_trace_id(line: &str) -> Option<&str> {
    let is_error = line.contains(" level=error ") || line.contains("\"level\":\"error\"");
    let id = log_field(line, "trace_id").filter(|_| is_error)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// Returns the last field with this name, in either log format. A value of an earlier field may quote
/// a client.
pub(crate) fn log_field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let key = if line.starts_with('{') { format!("\"{name}\":\"") } else { format!(" {name}=") };
    let (_, value) = line.rsplit_once(&key)?;
    value.trim_start_matches('"').split([' ', '"']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_address_in_both_formats() {
        let address = "127.0.0.1:4000".parse().ok();
        for line in [
            r#"t level=info service=A msg="listening" address=127.0.0.1:4000 admin_address=127.0.0.1:1"#,
            r#"{"ts":"t","service":"A","msg":"listening","address":"127.0.0.1:4000"}"#,
        ] {
            assert_eq!(listening_address(line), address);
        }
        assert_eq!(listening_address("address=x"), None);
    }

    #[test]
    fn failed_request_has_trace_id() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        for line in [
            format!(
                "t level=error service=B error=\"timeout\" trace_id={id} span_id=b7ad6b7169203331"
            ),
            format!(
                r#"{{"ts":"t","level":"error","trace_id":"{id}","span_id":"b7ad6b7169203331"}}"#
            ),
        ] {
            assert_eq!(failed_trace_id(&line), Some(id));
            assert_eq!(failed_trace_id(&line.replace("error", "info")), None);
        }
        assert_eq!(failed_trace_id("t level=error msg=\"no trace_id=here\""), None);
    }
}

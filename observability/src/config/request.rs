//! Settings of what is recorded about requests.

use std::net::IpAddr;

use clap::ArgAction;
use ipnet::IpNet;

/// Settings of what is recorded about requests, and which of their headers are trusted.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RequestConfig {
    /// Addresses or networks of proxies whose Forwarded and X-Forwarded-* headers are trusted, such as
    /// 10.0.0.0/8,::1
    #[arg(long, env, value_name = "NET,NET", value_delimiter = ',', value_parser = network)]
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Hosts that requests may name beside localhost, such as a.example; others receive 403; unset: any
    #[arg(long, env, value_name = "HOST,HOST", value_delimiter = ',', value_parser = host)]
    pub(crate) allowed_hosts: Vec<String>,
    /// Start a new trace, linked to that of the client, for each request
    #[arg(long, env, value_name = "true|false", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub(crate) public_endpoint: bool,
    /// Record the parameter names of the query in the span attribute url.query, without the values
    #[arg(long, env, value_name = "true|false", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub(crate) record_url_query: bool,
    /// Add the path without query to the log lines of requests
    #[arg(long, env, value_name = "true|false", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, default_missing_value = "true", default_value = "false")]
    pub(crate) log_path: bool,
    /// Media types of responses that may last long: not measured by the latency histogram, not limited
    /// by MAX_CONCURRENT_REQUESTS, and no failure if the client leaves
    #[arg(long, env, value_name = "TYPE,TYPE", value_delimiter = ',')]
    #[arg(default_value = "text/event-stream")]
    pub(crate) long_lived_types: Vec<String>,
}

fn host(text: &str) -> Result<String, &'static str> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_host = !text.is_empty() && text.bytes().all(is_name) || text.parse::<IpAddr>().is_ok();
    is_host.then(|| text.to_ascii_lowercase()).ok_or("expected a host name or an IP address")
}

fn network(text: &str) -> Result<IpNet, &'static str> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "expected an IP address or a network such as 10.0.0.0/8")
}

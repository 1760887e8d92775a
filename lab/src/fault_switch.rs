//! Fault injection of service A, from outside.

use std::time::Duration;

use observability::ErrorKind;
use reqwest::{Client, StatusCode, Url};

/// Timeout of a request to `/faults`.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// Sets the faults of service A, or clears them if `config` is empty.
pub(crate) async fn set_fault(client: &Client, url: &Url, config: &str) -> Result<(), String> {
    let request = match config {
        "" => client.delete(url.clone()),
        config => client.put(url.clone()).body(config.to_owned()),
    };
    match request.timeout(TIMEOUT).send().await.map(|response| response.status()) {
        Ok(status) if status.is_success() => Ok(()),
        Ok(StatusCode::NOT_FOUND) => {
            Err("A responded with 404: is FAULTS_ENABLED=true, and is this its admin address?"
                .into())
        }
        Ok(status) => Err(format!("A responded with {status}")),
        Err(error) => Err(format!("no response from A: {}", ErrorKind::from_reqwest(&error))),
    }
}

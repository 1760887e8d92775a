//! Client of service A.

use std::sync::Arc;

use observability::{CallError, Client, RequestBuilderExt};
use reqwest::Url;
use serde::{Deserialize, Serialize};

/// Client of service A. A clone shares its connections.
#[derive(Debug, Clone)]
pub struct ServiceAClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    echo_url: Url,
}

/// Response of A.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echo {
    echo: String,
}

impl ServiceAClient {
    /// Creates a client of the service at `base`, whose path is kept as a prefix.
    pub fn new(client: Client, base: &Url) -> Self {
        let mut echo_url = base.clone();
        echo_url.set_path(&format!("{}/echo", base.path().trim_end_matches('/')));
        echo_url.set_query(None);
        echo_url.set_fragment(None);
        Self(Arc::new(Inner { client, echo_url }))
    }

    pub(crate) async fn echo(&self, msg: &str) -> Result<Echo, CallError> {
        let mut url = self.0.echo_url.clone();
        url.query_pairs_mut().append_pair("msg", msg);
        self.0.client.get(url).fetch_json().await
    }
}

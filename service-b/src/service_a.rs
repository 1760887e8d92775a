//! B's client of service A.

use std::sync::Arc;

use observability::{CallError, Client, RequestBuilderExt};
use reqwest::Url;
use serde::{Deserialize, Serialize};

/// Service A, as B sees it; a clone shares its connections.
#[derive(Debug, Clone)]
pub struct ServiceA(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    echo: Url,
}

/// A's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echo {
    echo: String,
}

impl ServiceA {
    /// A at `base`, whose path may be a prefix.
    pub fn new(client: Client, base: &Url) -> Self {
        let mut echo = base.clone();
        echo.set_path(&format!("{}/echo", base.path().trim_end_matches('/')));
        echo.set_query(None);
        echo.set_fragment(None);
        Self(Arc::new(Inner { client, echo }))
    }

    pub(crate) async fn echo(&self, msg: &str) -> Result<Echo, CallError> {
        let mut url = self.0.echo.clone();
        url.query_pairs_mut().append_pair("msg", msg);
        self.0.client.get(url).fetch_json().await
    }
}

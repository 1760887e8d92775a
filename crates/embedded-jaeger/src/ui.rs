//! Jaeger's UI, embedded by `build.rs`.

use std::io::Read as _;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, StatusCode, Uri};
use serde_json::json;

/// Version of the embedded Jaeger UI.
pub const JAEGER_UI_VERSION: &str = "2.14.1";

/// Notice and licence of the embedded Jaeger UI.
pub const LICENSES: &str = concat!(
    "Jaeger UI 2.14.1\n",
    "Copyright (c) The Jaeger Authors\n",
    "https://github.com/jaegertracing/jaeger-ui\n\n",
    "This program includes the build of Jaeger UI under the Apache License 2.0, which follows. Its\n",
    "scripts are changed to repair the button \"Download Results\". The files package.json and\n",
    "package-lock.json at the address above list the packages that the build contains, with their\n",
    "licences.\n\n",
    include_str!(concat!(env!("OUT_DIR"), "/jaeger-ui-license.txt")),
);

/// Page of the UI, with placeholders for its configuration.
const INDEX_HTML: &str = include_str!(concat!(env!("OUT_DIR"), "/index.html"));

/// Paths of the files that the page loads, and their contents, compressed with gzip.
static ASSETS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/assets.rs"));

pub(crate) fn router() -> Router {
    Router::new()
        .route("/static/{*path}", get(asset))
        .route("/licenses", get(|| async { LICENSES }))
        .fallback(get(index))
        .with_state(Bytes::from(index_html()))
}

/// Returns the same page for every other path. The UI reads the path in the browser.
async fn index(State(html): State<Bytes>) -> Response {
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
    (headers, [(X_CONTENT_TYPE_OPTIONS, "nosniff")], html).into_response()
}

async fn asset(uri: Uri, headers: HeaderMap) -> Response {
    let Some((path, gzip)) = ASSETS.iter().find(|(path, _)| *path == uri.path()) else {
        return (StatusCode::NOT_FOUND, "no such file\n").into_response();
    };
    let asset_headers = [
        (CONTENT_TYPE, media_type(path)),
        // The file names contain a hash of the contents.
        (CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (VARY, "accept-encoding"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    if accepts_gzip(&headers) {
        return (asset_headers, [(CONTENT_ENCODING, "gzip")], *gzip).into_response();
    }
    let mut plain = Vec::new();
    // Decompression cannot fail because build.rs has compressed the data.
    let _ = GzDecoder::new(*gzip).read_to_end(&mut plain);
    (asset_headers, plain).into_response()
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        _ => "application/octet-stream",
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let is_zero =
            |weight: &str| weight.strip_prefix("q=").and_then(|q| q.parse().ok()) == Some(0.0);
        is_gzip && !parts.any(is_zero)
    })
}

/// Returns the page with its configuration, which replaces the same placeholders as in Jaeger.
fn index_html() -> String {
    let mut html = INDEX_HTML.to_owned();
    for (placeholder, value) in placeholders() {
        html = html.replace(placeholder, &value);
    }
    html
}

fn placeholders() -> [(&'static str, String); 2] {
    let version = concat!("embedded-jaeger ", env!("CARGO_PKG_VERSION"));
    let config = json!({
        "archiveEnabled": false,
        "monitor": { "menuEnabled": true },
        "menu": [{
            "label": "About",
            "items": [
                { "label": "Jaeger's documentation", "url": "https://www.jaegertracing.io/docs/" },
                { "label": format!("{version}: traces are in memory only") },
                { "label": format!("Jaeger UI v{JAEGER_UI_VERSION}") },
                { "label": "Licences", "url": "/licenses", "anchorTarget": "_self" },
            ],
        }],
    });
    let version = json!({ "gitCommit": "", "gitVersion": version, "buildDate": "" });
    [
        ("JAEGER_CONFIG = DEFAULT_CONFIG", format!("JAEGER_CONFIG = {config}")),
        ("JAEGER_VERSION = DEFAULT_VERSION", format!("JAEGER_VERSION = {version}")),
    ]
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn index_html_has_placeholders() {
        let page = index_html();
        for (placeholder, value) in placeholders() {
            assert_eq!(INDEX_HTML.matches(placeholder).count(), 1, "{placeholder}");
            assert!(page.contains(&value), "{value}");
        }
        let referenced: Vec<&str> = INDEX_HTML
            .split("./")
            .skip(1)
            .filter_map(|rest| rest.split(['"', '\'']).next())
            .filter(|name| name.starts_with("static/"))
            .collect();
        assert!(referenced.len() >= 4, "{referenced:?}");
        for name in referenced {
            assert!(ASSETS.iter().any(|(path, _)| path[1..] == *name), "{name}");
        }
    }

    #[test]
    fn license_notice_is_complete() {
        for part in [JAEGER_UI_VERSION, "The Jaeger Authors", "Apache License", "END OF TERMS"] {
            assert!(LICENSES.contains(part), "{part}");
        }
    }

    #[test]
    fn accept_encoding_selects_gzip() {
        for (value, expected) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("identity", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepts_gzip(&headers), expected, "{value:?}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}

//! The embedded UI.

use std::io::Read as _;

use embedded_jaeger::LICENSES;
use flate2::read::GzDecoder;

use crate::jaeger::Jaeger;

#[tokio::test]
async fn spa_routes_return_index() {
    let jaeger = Jaeger::start().await;
    for path in
        ["/", "/search", "/trace/abc", "/trace/a...b", "/compare", "/dependencies", "/monitor"]
    {
        let response = jaeger.get(path).await;
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8", "{path}");
        assert_eq!(response.headers()["cache-control"], "no-cache", "{path}");
        let page = response.text().await.unwrap();
        assert!(page.contains("<title>Jaeger UI</title>"), "{path}");
        assert!(page.contains("\"archiveEnabled\":false"), "{path}: no configuration");
    }
}

#[tokio::test]
async fn assets_negotiate_gzip() {
    let jaeger = Jaeger::start().await;
    let page = jaeger.get("/").await.text().await.unwrap();
    let script = page.split("src=\".").nth(1).unwrap().split('"').next().unwrap();
    assert!(script.ends_with(".js"), "{script}");
    let plain = jaeger.get(script).await;
    assert_eq!(plain.headers()["content-type"], "text/javascript; charset=utf-8");
    assert!(plain.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert!(!plain.headers().contains_key("content-encoding"));
    let plain = plain.bytes().await.unwrap();

    let url = format!("http://{}{script}", jaeger.handle.ui_addr());
    let packed = jaeger.http.get(url).header("accept-encoding", "gzip, br").send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert_eq!(packed.headers()["vary"], "accept-encoding");
    let packed = packed.bytes().await.unwrap();
    assert!(packed.len() * 2 < plain.len());
    let mut unpacked = Vec::new();
    GzDecoder::new(&*packed).read_to_end(&mut unpacked).unwrap();
    assert!(unpacked == plain, "the contents differ");
}

#[tokio::test]
async fn missing_asset_returns_404() {
    let jaeger = Jaeger::start().await;
    for path in
        ["/static/none.js", "/static/../Cargo.toml", "/static/%2e%2e/Cargo.toml", "/static/"]
    {
        let response = jaeger.get(path).await;
        let media_type = response.headers().get("content-type");
        let is_page = media_type.is_some_and(|value| value == "text/html; charset=utf-8");
        assert!(response.status() == 404 || is_page, "{path}: {}", response.status());
    }
    assert_eq!(jaeger.get("/static/none.js").await.status(), 404);
}

#[tokio::test]
async fn licenses_are_served() {
    let jaeger = Jaeger::start().await;
    let text = jaeger.get("/licenses").await.text().await.unwrap();
    assert_eq!(text, LICENSES);
}

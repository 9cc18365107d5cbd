//! What is recorded of requests: metrics and the access log.

use serde_json::{Value, json};

use crate::support::{File, backend, collect, empty, file, http2, proxy, raw_backend};

use super::{answering, read_head};

/// With an access log, closing clients after one answer.
fn logging() -> File {
    file().top("[log]\naccess = \"access.log\"")
}

fn sample<'a>(metrics: &'a str, series: &str) -> &'a str {
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in\n{metrics}"))
}

fn requests(metrics: &str, labels: &str) -> u64 {
    sample(metrics, &format!("gradual_requests_total{{{labels}}}")).parse().unwrap()
}

#[tokio::test]
async fn requests_are_counted_by_worker_version_reason_and_class_of_status() {
    let (v1, v2) = (backend("v1").start().await, backend("v2").start().await);
    let proxy = proxy(&file().version("v1", &v1, 100).version("v2", &v2, 0)).await;
    for _ in 0..3 {
        proxy.get("/").await;
    }
    proxy.get_with("/", &["Cloudflare-Workers-Version-Key: k"]).await;
    proxy.get_with("/", &["Cloudflare-Workers-Version-Overrides: shop=\"v2\""]).await;
    proxy.get_with("/", &["Cloudflare-Workers-Version-Overrides: shop=\"v3\""]).await;
    proxy.get_with("/", &["Cloudflare-Workers-Version-Overrides: shop=1"]).await;
    let (metrics, _) = proxy.records().await;
    for (version, reason, count) in [("v1", "random", 5), ("v1", "key", 1), ("v2", "override", 1)] {
        let labels = format!(r#"worker="shop",version="{version}",reason="{reason}",status="2xx""#);
        assert_eq!(requests(&metrics, &labels), count, "{labels}\n{metrics}");
    }
    for (result, count) in [("applied", "1"), ("not-in-deployment", "1"), ("not-a-string", "1")] {
        let series = format!(r#"gradual_overrides_total{{worker="shop",result="{result}"}}"#);
        assert_eq!(sample(&metrics, &series), count);
    }
}

#[tokio::test]
async fn durations_are_counted_for_each_version() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    proxy.get("/").await;
    proxy.get("/").await;
    let (metrics, _) = proxy.records().await;
    let series = r#"gradual_request_duration_seconds_count{worker="shop",version="v1"}"#;
    assert_eq!(sample(&metrics, series), "2");
    let series = r#"gradual_request_duration_seconds_bucket{worker="shop",version="v1",le="+Inf"}"#;
    assert_eq!(sample(&metrics, series), "2");
}

#[tokio::test]
async fn missing_scripts_styles_images_and_fonts_are_counted_on_every_worker() {
    let (v1, _) = answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    for target in ["/app.3f2a.js", "/a.css?x", "/b.WOFF2", "/page", "/page.html", "/js", "/?x=a.js"] {
        assert_eq!(proxy.get(target).await.status, 404);
    }
    let (metrics, _) = proxy.records().await;
    let series = r#"gradual_asset_misses_total{worker="shop",version="v1",rescued="false"}"#;
    assert_eq!(sample(&metrics, series), "3");
}

#[tokio::test]
async fn every_request_is_one_line_of_the_access_log() {
    let (v1, v2) = (backend("v1").start().await, backend("v2").start().await);
    let file = logging().version("v1", &v1, 100).version("v2", &v2, 0);
    let proxy = proxy(&file).await;
    let request = "POST /a%20b?q=%22x HTTP/1.1\r\nHost: shop.example:81\r\nContent-Length: 5\r\n\
                   Cloudflare-Workers-Version-Overrides: shop=\"v2\"\r\n\r\nhello";
    assert_eq!(proxy.send(request).await.status, 200);
    let (_, lines) = proxy.records().await;
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    for (pointer, value) in [
        ("/EventType", json!("fetch")),
        ("/Outcome", json!("ok")),
        ("/ScriptName", json!("shop")),
        ("/ScriptVersion", json!({ "id": "v2", "tag": "tag-v2" })),
        ("/Event/Request/URL", json!("http://shop.example:81/a%20b?q=%22x")),
        ("/Event/Request/Method", json!("POST")),
        ("/Event/Response/Status", json!(200)),
        ("/Reason", json!("override")),
        ("/Override", json!("applied")),
        ("/Upstream", json!(v2.url())),
        ("/Error", Value::Null),
        ("/ClientIP", json!("127.0.0.1")),
        ("/RequestBytes", json!(5)),
        ("/ResponseBytes", json!(2)),
    ] {
        assert_eq!(line.pointer(pointer), Some(&value), "{pointer} in {line}");
    }
    assert!(line["EventTimestampMs"].as_u64().unwrap() > 1_700_000_000_000);
    assert!(line["WallTimeMs"].is_number());
    assert_eq!(line["Event"]["RayID"].as_str().unwrap().len(), 16);
}

#[tokio::test]
async fn the_log_says_what_went_wrong_and_whose_request_it_was() {
    let (v1, _) = answering("nonsense\r\n\r\n").await;
    let file = logging().worker("routes = [\"shop.example/*\"]").version("v1", &v1, 100);
    let proxy = proxy(&file).await;
    proxy.get_with("/", &["Cloudflare-Workers-Version-Overrides: shop=1"]).await;
    proxy.send("GET /x HTTP/1.1\r\nHost: other.example\r\n\r\n").await;
    proxy.send("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
    let (metrics, mut lines) = proxy.records().await;
    lines.sort_by_key(|line| line["Error"].as_str().unwrap().to_owned());
    let of = |name: &str| lines.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(of("Error"), ["bad-request", "no-worker", "upstream-protocol"]);
    assert_eq!(of("Outcome"), ["ok", "ok", "exception"]);
    assert_eq!(of("ScriptName"), [Value::Null, Value::Null, json!("shop")]);
    assert_eq!(of("Override"), [Value::Null, Value::Null, json!("not-a-string")]);
    let statuses: Vec<_> = lines.iter().map(|line| line["Event"]["Response"]["Status"].clone()).collect();
    assert_eq!(statuses, [400, 404, 502]);
    let class = r#"worker="shop",version="v1",reason="random",status="5xx""#;
    assert_eq!(requests(&metrics, class), 1);
}

#[tokio::test]
async fn a_response_that_is_cut_short_is_an_exception_and_one_that_the_client_leaves_is_canceled() {
    let (v1, _) = answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").await;
    let cut = proxy(&logging().version("v1", &v1, 100)).await;
    assert!(!cut.get("/").await.whole);
    let (_, lines) = cut.records().await;
    assert_eq!((&lines[0]["Outcome"], &lines[0]["ResponseBytes"]), (&json!("exception"), &json!(4)));
    let endless = raw_backend(async |mut socket| {
        read_head(&mut socket).await;
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart";
        tokio::io::AsyncWriteExt::write_all(&mut socket, head).await.unwrap();
        read_head(&mut socket).await;
    })
    .await;
    let left = proxy(&logging().version("v1", &endless, 100)).await;
    let mut connection = left.connect().await;
    connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(connection.head().await.status, 200);
    drop(connection);
    let (_, lines) = left.records().await;
    assert_eq!(lines[0]["Outcome"], "canceled");
}

#[tokio::test]
async fn requests_over_http_2_are_logged_with_their_authority_and_what_is_odd_in_them_is_escaped() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&logging().version("v1", &v1, 100)).await;
    let mut client = http2(proxy.pipe().await).await;
    let request = http::Request::get("http://two.example:8/x?a=\\").body(empty()).unwrap();
    collect(client.send_request(request).await.unwrap()).await;
    drop(client);
    proxy.send(b"GET / HTTP/1.1\r\nHost: \"\xff\r\n\r\n").await;
    let (_, lines) = proxy.records().await;
    let urls: Vec<_> = lines.iter().map(|line| line["Event"]["Request"]["URL"].as_str().unwrap()).collect();
    assert!(urls.contains(&"http://two.example:8/x?a=\\"), "{urls:?}");
    assert!(urls.contains(&"http://\"\u{fffd}/"), "{urls:?}");
}

#[tokio::test]
async fn a_redirect_a_health_check_and_a_head_request_are_requests_too() {
    let v1 = backend("v1").start().await;
    let file = logging().listener("health_path = \"/up\"").version("v1", &v1, 100);
    let proxy = proxy(&file).await;
    proxy.get("/up").await;
    let mut connection = proxy.connect().await;
    connection.send("HEAD / HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n").await;
    assert_eq!(connection.head().await.header("content-length").as_deref(), Some("2"));
    assert!(connection.is_closed().await);
    let (_, mut lines) = proxy.records().await;
    lines.sort_by_key(|line| line["Event"]["Request"]["Method"].as_str().unwrap().to_owned());
    let brief = |line: &Value| (line["ScriptName"].clone(), line["ResponseBytes"].clone());
    assert_eq!(brief(&lines[0]), (Value::Null, json!(3)));
    assert_eq!(brief(&lines[1]), (json!("shop"), json!(0)));
    assert!(lines.iter().all(|line| line["Outcome"] == "ok"), "{lines:?}");
}

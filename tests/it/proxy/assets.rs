//! Static assets: what a version has not got is asked of others, within bounds; and a page says which version it is of.

mod bounds;
mod life;
mod pins;

use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderValue, Method, Request, Response};

use crate::support::{
    Answer, Backend, Body, File, Proxy, backend, body, collect, empty, eventually, file, http2, proxy, record,
};

/// An application's server: it has some files, and answers as its state says for all others.
struct Site {
    backend: Backend,
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    has: Vec<String>,
    /// The status for what it has not got; 200 is a page.
    otherwise: u16,
    /// What it was asked for: method and target, with who it was told to be.
    asked: Vec<String>,
    /// The headers of what it was asked for last.
    last: Vec<(String, String)>,
    /// Every site's requests, in the order of their arrival.
    order: Order,
}

type Order = Arc<Mutex<Vec<&'static str>>>;

/// A server with these files.
async fn site(name: &'static str, has: &[&str]) -> Site {
    one_of(&Order::default(), name, has, false).await
}

async fn one_of(order: &Order, name: &'static str, has: &[&str], h2c: bool) -> Site {
    let has = has.iter().map(|path| (*path).to_owned()).collect();
    let (asked, last, order) = (Vec::new(), Vec::new(), Arc::clone(order));
    let state = Arc::new(Mutex::new(State { has, otherwise: 404, asked, last, order }));
    let of_server = Arc::clone(&state);
    let server = backend(name).answering(move |request| answer(name, Arc::clone(&of_server), request));
    let server = if h2c { server.h2c() } else { server };
    Site { backend: server.start().await, state }
}

async fn answer(
    name: &'static str,
    state: Arc<Mutex<State>>,
    request: Request<hyper::body::Incoming>,
) -> Response<Body> {
    let (method, headers, path) =
        (request.method().clone(), request.headers().clone(), request.uri().path().to_owned());
    let received = record(request).await.unwrap();
    let mut state = state.lock().unwrap();
    state.order.lock().unwrap().push(name);
    let target = received.target.strip_prefix("http://shop.example").unwrap_or(&received.target).to_owned();
    let version = received.header("gradual-version-id").unwrap_or_default();
    state.asked.push(format!("{method} {target} as {version}"));
    state.last = received.headers;
    if state.has.contains(&path) { asset(name, &method, &headers) } else { other(name, state.otherwise) }
}

/// A file, all of it or what is asked of it.
fn asset(name: &str, method: &Method, headers: &HeaderMap) -> Response<Body> {
    let text = format!("the file of {name}");
    let etag = format!("\"{name}\"");
    let response = Response::builder()
        .header("content-type", "text/javascript")
        .header("cache-control", "public, max-age=31536000, immutable")
        .header("set-cookie", format!("session={name}"))
        .header("etag", &etag);
    if headers.get("if-none-match").is_some_and(|value| value.as_bytes() == etag.as_bytes()) {
        return response.status(304).body(empty()).unwrap();
    }
    match headers.get("range").map(HeaderValue::as_bytes) {
        Some(b"bytes=0-7") => {
            let range = format!("bytes 0-7/{}", text.len());
            response.status(206).header("content-range", range).body(body(text[..8].to_owned())).unwrap()
        }
        Some(_) => response.status(416).body(empty()).unwrap(),
        None if method == Method::HEAD => {
            response.header("content-length", text.len()).body(empty()).unwrap()
        }
        None => response.body(body(text)).unwrap(),
    }
}

/// What a server says of a path that it does not know.
fn other(name: &str, status: u16) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "text/html; charset=utf-8")
        .header("cache-control", "public, max-age=600")
        .header("cdn-cache-control", "max-age=6000")
        .body(body(format!("not at {name}")))
        .unwrap()
}

impl Site {
    fn asked(&self) -> Vec<String> {
        self.state.lock().unwrap().asked.clone()
    }

    fn count(&self) -> usize {
        self.state.lock().unwrap().asked.len()
    }

    fn last(&self, name: &str) -> Option<String> {
        let state = self.state.lock().unwrap();
        let found = state.last.iter().find(|(line, _)| line == name);
        found.map(|(_, value)| value.clone())
    }

    fn otherwise(&self, status: u16) {
        self.state.lock().unwrap().otherwise = status;
    }

    fn has(&self, paths: &[&str]) {
        self.state.lock().unwrap().has = paths.iter().map(|path| (*path).to_owned()).collect();
    }
}

/// A worker whose assets are below `/assets/`, on one thread.
fn assets(more: &str) -> File {
    let settings = format!("assets = {{ paths = [\"/assets/*\"]{more} }}");
    let log = "[server]\nthreads = 1\n[log]\naccess = \"access.log\"";
    file().top(log).worker("expose_version = true").worker(&settings)
}

/// `v1` has it all, and `v2` is retained.
fn retaining(v1: &Site, v2: &Site) -> File {
    assets(", retain = [\"v2\"]").version("v1", &v1.backend, 100).spare("v2", &v2.backend)
}

/// What an answer says of its version.
fn version(answer: &Answer) -> String {
    let item = answer.header("gradual-version").unwrap();
    let id = item.split('"').nth(1).unwrap();
    format!("{id} {}", answer.reason())
}

/// The line of a request whose own version is this one.
fn own(id: &str) -> String {
    format!("Cloudflare-Workers-Version-Overrides: shop=\"{id}\"")
}

fn misses(proxy: &Proxy, version: &str, rescued: bool) -> u64 {
    proxy.metric(&format!(
        r#"gradual_asset_misses_total{{worker="shop",version="{version}",rescued="{rescued}"}}"#
    ))
}

fn asked_of_others(proxy: &Proxy, result: &str) -> u64 {
    proxy.metric(&format!(r#"gradual_asset_requests_total{{worker="shop",result="{result}"}}"#))
}

#[tokio::test]
async fn an_asset_that_its_version_has_not_got_comes_from_one_that_has_it() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &["/assets/a.js"]).await);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    let answer = proxy.get_with("/assets/a.js?x=1", &["Cloudflare-Workers-Version-Key: k"]).await;
    assert_eq!((answer.status, answer.text()), (200, "the file of v2"));
    assert_eq!(
        answer.header("gradual-version").as_deref(),
        Some(r#""v2";worker=shop;tag="tag-v2";reason=asset"#)
    );
    // It would put the client on the other version; how long it may be kept is that version's to say.
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(answer.header("cache-control").as_deref(), Some("public, max-age=31536000, immutable"));
    assert_eq!(v1.asked(), ["GET /assets/a.js?x=1 as v1"]);
    assert_eq!(v2.asked(), ["GET /assets/a.js?x=1 as v2"]);
    assert_eq!(v2.last("gradual-version-tag").as_deref(), Some("tag-v2"));
    assert_eq!(v2.last("cloudflare-workers-version-key").as_deref(), Some("k"));
    assert_eq!((misses(&proxy, "v1", true), misses(&proxy, "v1", false)), (1, 0));
    assert_eq!(asked_of_others(&proxy, "hit"), 1);
    let (metrics, lines) = proxy.records().await;
    let series = r#"gradual_requests_total{worker="shop",version="v2",reason="asset",status="2xx"} 1"#;
    assert!(metrics.contains(series) && !metrics.contains(r#"version="v1",reason="key""#), "{metrics}");
    assert_eq!((&lines[0]["ScriptVersion"]["id"], &lines[0]["Reason"]), (&"v2".into(), &"asset".into()));
    assert_eq!(lines[0]["Upstream"], v2.backend.url());
}

#[tokio::test]
async fn versions_with_a_share_are_asked_in_their_order_then_retained_ones_and_no_more_than_four() {
    let order = Order::default();
    let mut file = assets(r#", retain = ["r2", "r1", "v3", "r3"]"#);
    let mut sites = Vec::new();
    for (name, share) in [("v1", 70), ("v2", 0), ("v3", 20), ("v4", 10)] {
        let site = one_of(&order, name, &[], false).await;
        file = file.version(name, &site.backend, share);
        sites.push(site);
    }
    for name in ["r1", "r2", "r3", "r4"] {
        let site = one_of(&order, name, &[], false).await;
        file = file.spare(name, &site.backend);
        sites.push(site);
    }
    for (id, expected) in [
        ("v1", ["v1", "v3", "v4", "r2", "r1"]),
        ("v4", ["v4", "v1", "v3", "r2", "r1"]),
        // An override reaches a version at 0 %; nothing else does.
        ("v2", ["v2", "v1", "v3", "v4", "r2"]),
    ] {
        order.lock().unwrap().clear();
        // With a budget of its own, and nothing remembered.
        let proxy = proxy(&file).await;
        assert_eq!(proxy.get_with("/assets/a.js", &[&own(id)]).await.status, 404);
        assert_eq!(*order.lock().unwrap(), expected);
    }
    assert_eq!(sites[7].count(), 0);
}

#[tokio::test]
async fn where_all_miss_the_first_answer_is_served_and_nobody_may_keep_it() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &[]).await);
    v1.otherwise(410);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    let answer = proxy.get("/assets/a.js").await;
    assert_eq!((answer.status, answer.text(), &*version(&answer)), (410, "not at v1", "v1 random"));
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
    assert_eq!(answer.header("cdn-cache-control"), None);
    assert_eq!((misses(&proxy, "v1", false), misses(&proxy, "v2", false)), (1, 0));
    assert_eq!(asked_of_others(&proxy, "miss"), 1);
    let (metrics, lines) = proxy.records().await;
    assert!(!metrics.contains("reason=\"asset\""), "{metrics}");
    assert_eq!((&lines[0]["ScriptVersion"]["id"], &lines[0]["Reason"]), (&"v1".into(), &"random".into()));
    assert_eq!(lines[0]["Upstream"], v1.backend.url());
}

#[tokio::test]
async fn a_page_where_a_script_should_be_is_a_miss() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &["/assets/a.js"]).await);
    v1.otherwise(200);
    v2.otherwise(200);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    assert_eq!(proxy.get("/assets/a.js").await.text(), "the file of v2");
    assert_eq!(misses(&proxy, "v1", true), 1);
    // Another version's page is no better than the own one's, which goes on as it came.
    let answer = proxy.get("/assets/b.js").await;
    assert_eq!((answer.status, answer.text(), &*version(&answer)), (200, "not at v1", "v1 random"));
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
    assert_eq!((misses(&proxy, "v1", false), asked_of_others(&proxy, "miss")), (1, 1));
    // A page where a page may be is what was asked for.
    for path in ["/assets/page.html", "/assets/page"] {
        let answer = proxy.get(path).await;
        assert_eq!((answer.status, answer.text()), (200, "not at v1"));
        assert_eq!(answer.header("cache-control").as_deref(), Some("public, max-age=600"));
    }
    assert_eq!(v2.count(), 2);
}

#[tokio::test]
async fn another_versions_page_is_no_file_of_any_kind() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &[]).await);
    let v3 = site("v3", &["/assets/lang/de.json"]).await;
    v2.otherwise(200);
    let file = assets(", retain = [\"v2\", \"v3\"]").version("v1", &v1.backend, 100);
    let proxy = proxy(&file.spare("v2", &v2.backend).spare("v3", &v3.backend)).await;
    assert_eq!(proxy.get("/assets/lang/de.json").await.text(), "the file of v3");
    let answer = proxy.get("/assets/lang/fr.json").await;
    assert_eq!((answer.status, answer.text()), (404, "not at v1"));
    // Where a page may be, it is the answer.
    for path in ["/assets/page.HTML", "/assets/page.htm", "/assets/v1.2/page", "/assets/"] {
        assert_eq!(proxy.get(path).await.text(), "not at v2", "{path}");
    }
    // The own version says itself what it has but scripts, styles, images and fonts.
    v1.otherwise(200);
    assert_eq!(proxy.get("/assets/lang/it.json").await.text(), "not at v1");
}

#[tokio::test]
async fn a_part_of_a_page_where_a_font_should_be_is_a_miss() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &[]).await);
    let v3 = site("v3", &["/assets/a.woff2"]).await;
    let file = assets(", retain = [\"v2\", \"v3\"]").version("v1", &v1.backend, 100);
    let proxy = proxy(&file.spare("v2", &v2.backend).spare("v3", &v3.backend)).await;
    for status in [416, 206] {
        v1.otherwise(status);
        v2.otherwise(status);
        let answer = proxy.get_with("/assets/a.woff2", &["Range: bytes=0-7"]).await;
        assert_eq!((answer.status, answer.text()), (206, "the file"), "{status}");
        let answer = proxy.get_with("/assets/b.woff2", &["Range: bytes=0-7"]).await;
        assert_eq!((answer.status, answer.text()), (status, "not at v1"));
        assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
        let answer = proxy.get_with("/assets/page", &["Range: bytes=0-7"]).await;
        assert_eq!(answer.header("cache-control").as_deref(), Some("public, max-age=600"));
    }
    assert_eq!((misses(&proxy, "v1", true), misses(&proxy, "v1", false)), (2, 2));
}

#[tokio::test]
async fn what_is_for_an_object_is_asked_of_nobody_else() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &["/assets/a.js"]).await);
    let objects = "[worker.objects]\nkey = 'http.request.headers[\"x-room\"][0]'";
    let proxy = proxy(&retaining(&v1, &v2).worker_table(objects)).await;
    let answer = proxy.get_with("/assets/a.js", &["X-Room: a"]).await;
    assert_eq!((answer.status, answer.text(), &*version(&answer)), (404, "not at v1", "v1 object"));
    assert_eq!(v2.count(), 0);
    // Nor does a page's name move it.
    let answer = proxy.get_with("/assets/a.js?dpl=v2", &["X-Room: a"]).await;
    assert_eq!((answer.text(), v2.count()), ("not at v1", 0));
    // What is for none is asked.
    assert_eq!(proxy.get("/assets/a.js").await.text(), "the file of v2");
}

#[tokio::test]
async fn heads_ranges_and_conditions_are_asked_and_answered_as_they_are() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &["/assets/a.js"]).await);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    let mut connection = proxy.connect().await;
    connection.send("HEAD /assets/a.js HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    let head = connection.head().await;
    assert_eq!((head.status, head.header("content-length").as_deref()), (200, Some("14")));
    assert_eq!(
        (v1.asked(), v2.asked()),
        (vec!["HEAD /assets/a.js as v1".to_owned()], vec!["HEAD /assets/a.js as v2".to_owned()])
    );
    let part = proxy.get_with("/assets/a.js", &["Range: bytes=0-7", "If-Range: \"v2\""]).await;
    assert_eq!((part.status, part.text()), (206, "the file"));
    assert_eq!(part.header("content-range").as_deref(), Some("bytes 0-7/14"));
    assert_eq!(v2.last("if-range").as_deref(), Some("\"v2\""));
    let none = proxy.get_with("/assets/a.js", &["Range: bytes=99-"]).await;
    assert_eq!((none.status, &*version(&none)), (416, "v2 asset"));
    let unchanged = proxy.get_with("/assets/a.js", &["If-None-Match: \"v2\""]).await;
    assert_eq!((unchanged.status, &*version(&unchanged)), (304, "v2 asset"));
    assert_eq!(unchanged.header("set-cookie"), None);
}

#[tokio::test]
async fn what_may_be_for_one_client_alone_or_changes_something_is_not_asked_elsewhere() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &["/assets/a.js", "/a.js"]).await);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    for request in [
        "GET /assets/a.js HTTP/1.1\r\nHost: shop.example\r\nAuthorization: Bearer x\r\n\r\n",
        "POST /assets/a.js HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n",
        "DELETE /assets/a.js HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        "GET /assets/a.js HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1\r\n\r\nx",
        "GET /assets/a.js HTTP/1.1\r\nHost: shop.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        // No asset.
        "GET /a.js HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        "GET /Assets/a.js HTTP/1.1\r\nHost: shop.example\r\n\r\n",
    ] {
        let answer = proxy.send(request).await;
        assert_eq!((answer.status, answer.text()), (404, "not at v1"), "{request}");
        assert_eq!(answer.header("cache-control").as_deref(), Some("public, max-age=600"), "{request}");
    }
    assert_eq!(v2.count(), 0);
    let off = assets(", fallback = false, retain = [\"v2\"]")
        .version("v1", &v1.backend, 100)
        .spare("v2", &v2.backend);
    let proxy = crate::support::proxy(&off).await;
    assert_eq!(proxy.get("/assets/a.js").await.status, 404);
    assert_eq!(v2.count(), 0);
}

#[tokio::test]
async fn a_version_that_fails_redirects_or_refuses_is_passed_over() {
    let (v1, v2, v3) = (site("v1", &[]).await, site("v2", &[]).await, site("v3", &["/assets/a.js"]).await);
    let file = assets("").version("v1", &v1.backend, 98).version("v2", &v2.backend, 1);
    let file = file.version("v3", &v3.backend, 1);
    for status in [500, 503, 301, 302, 401, 403, 429] {
        v2.otherwise(status);
        // A new one remembers nothing.
        let proxy = proxy(&file).await;
        let answer = proxy.get_with("/assets/a.js", &[&own("v1")]).await;
        assert_eq!((answer.status, answer.text()), (200, "the file of v3"), "{status}");
        assert_eq!((asked_of_others(&proxy, "failure"), asked_of_others(&proxy, "hit")), (1, 1));
        assert_eq!((misses(&proxy, "v1", true), misses(&proxy, "v2", true)), (1, 0));
    }
}

#[tokio::test]
async fn an_answer_that_says_something_else_than_missing_is_the_answer() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &["/assets/a.js"]).await);
    for status in [500, 302, 401, 403, 406] {
        v1.otherwise(status);
        let proxy = proxy(&retaining(&v1, &v2)).await;
        assert_eq!(proxy.get("/assets/a.js").await.status, status);
    }
    assert_eq!(v2.count(), 0);
}

#[tokio::test]
async fn assets_are_asked_of_others_over_http2_on_both_sides_as_well() {
    let order = Order::default();
    for (first, second) in [(true, true), (true, false), (false, true)] {
        let v1 = one_of(&order, "v1", &[], first).await;
        let v2 = one_of(&order, "v2", &["/assets/a.js"], second).await;
        let proxy = proxy(&retaining(&v1, &v2)).await;
        let mut client = http2(proxy.pipe().await).await;
        let get = |path: &str| Request::get(format!("http://shop.example{path}")).body(empty()).unwrap();
        let (found, missed) =
            (client.send_request(get("/assets/a.js")), client.send_request(get("/assets/b.js")));
        let (found, missed) = tokio::join!(found, missed);
        let (found, missed) = (collect(found.unwrap()).await, collect(missed.unwrap()).await);
        assert_eq!((found.status, found.text(), &*version(&found)), (200, "the file of v2", "v2 asset"));
        assert_eq!((missed.status, missed.text(), &*version(&missed)), (404, "not at v1", "v1 random"));
        assert_eq!(missed.header("cache-control").as_deref(), Some("no-store"));
        assert_eq!(v2.last("host").or(Some("shop.example".to_owned())).as_deref(), Some("shop.example"));
        eventually("nothing is under way", || proxy.registry.under_way().is_empty()).await;
    }
}

#[tokio::test]
async fn the_connections_of_small_answers_that_nobody_wants_are_kept() {
    let (v1, v2) = (site("v1", &[]).await, site("v2", &["/assets/a.js"]).await);
    let proxy = proxy(&retaining(&v1, &v2)).await;
    for number in 0..10 {
        v2.has(&[&format!("/assets/{number}.js")]);
        assert_eq!(proxy.get(&format!("/assets/{number}.js")).await.status, 200);
    }
    assert!(v1.backend.connections() < 5, "{}", v1.backend.connections());
    assert_eq!(v1.count(), 10);
}

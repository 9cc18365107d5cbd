//! Rules on real requests: what they see and do, and what no client can make of them.

use crate::support::{Answer, Backend, File, Proxy, backend, collect, empty, file, http2, proxy};

use super::two;

const KEY: &str = "cloudflare-workers-version-key";
const OVERRIDES: &str = "cloudflare-workers-version-overrides";

/// A rule that sets one header to a value of the request's own.
fn compute(filter: &str, name: &str, expression: &str) -> String {
    format!(
        "[[worker.rule]]\nexpression = '''{filter}'''\n[worker.rule.headers.\"{name}\"]\noperation = \"set\"\n\
         expression = '''{expression}'''"
    )
}

/// A rule that sets one header to the same for all.
fn set(filter: &str, name: &str, value: &str) -> String {
    compute(filter, name, "").replace("expression = ''''''", &format!("value = '''{value}'''"))
}

fn remove(filter: &str, name: &str) -> String {
    compute(filter, name, "").replace("\"set\"\nexpression = ''''''", "\"remove\"").trim_end().to_owned()
}

fn user_cookie() -> String {
    compute("http.cookie contains \"user_id\"", KEY, "http.request.cookies[\"user_id\"][0]")
}

/// A proxy before one version.
async fn one(rules: &[String]) -> (Backend, Proxy) {
    one_with("", rules).await
}

async fn one_with(worker: &str, rules: &[String]) -> (Backend, Proxy) {
    let backend = backend("v1").start().await;
    let top = "[log]\naccess = \"access.log\"";
    let file = file().top(top).worker("expose_version = true").worker(worker);
    let file = rules.iter().fold(file, |file, rule| file.worker(rule)).version("v1", &backend, 100);
    let proxy = proxy(&file).await;
    (backend, proxy)
}

/// All on `v1`, and `v2` by override only.
fn split(backends: &(Backend, Backend), worker: &str, rules: &[String]) -> File {
    let file = file().worker("expose_version = true").worker(worker);
    let file = rules.iter().fold(file, |file, rule| file.worker(rule));
    file.version("v1", &backends.0, 100).version("v2", &backends.1, 0)
}

fn exposed(answer: &Answer) -> String {
    answer.header("gradual-version").unwrap()
}

/// A GET whose lines may be any bytes.
async fn get(proxy: &Proxy, target: &str, lines: &[&[u8]]) -> Answer {
    let mut request = format!("GET {target} HTTP/1.1\r\nHost: shop.example\r\n").into_bytes();
    for line in lines {
        request.extend_from_slice(line);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    proxy.send(request).await
}

/// How many values were dropped.
fn dropped(proxy: &Proxy) -> u64 {
    proxy.metric(r#"gradual_rule_values_dropped_total{worker="shop"}"#)
}

#[tokio::test]
async fn headers_are_set_computed_and_removed_before_the_request_goes_on() {
    let (backend, proxy) = one(&[
        set("true", "X-Static", "always this"),
        compute("true", "X-Computed", "concat(http.request.method, \" \", http.request.uri.path)"),
        remove("true", "X-Gone"),
        set("http.host eq \"other.example\"", "X-Untouched", "rule"),
    ])
    .await;
    let lines = ["x-static: client", "X-Static: client", "X-Gone: 1", "x-gone: 2", "X-Untouched: client"];
    assert_eq!(proxy.get_with("/a?b", &lines).await.status, 200);
    let received = backend.last();
    for (name, value) in [
        ("x-static", Some("always this")),
        ("x-computed", Some("GET /a")),
        ("x-gone", None),
        ("x-untouched", Some("client")),
    ] {
        assert_eq!(received.header(name).as_deref(), value, "{name}");
    }
}

#[tokio::test]
async fn rules_run_in_the_order_of_the_file_and_each_sees_the_request_as_it_came() {
    let header = |value: &str| format!("any(http.request.headers[\"x-a\"][*] eq \"{value}\")");
    let (backend, proxy) = one(&[
        set("true", "X-A", "first"),
        set(&header("first"), "X-Saw-The-Rule", "1"),
        set(&header("client"), "X-Saw-The-Client", "1"),
        set("true", "X-B", "kept"),
        remove("true", "X-B"),
        remove("true", "X-C"),
        set("true", "X-C", "back"),
        compute("true", "X-A", "concat(http.request.headers[\"x-a\"][0], \" last\")"),
    ])
    .await;
    proxy.get_with("/", &["X-A: client"]).await;
    let received = backend.last();
    for (name, value) in [
        ("x-a", Some("client last")),
        ("x-saw-the-rule", None),
        ("x-saw-the-client", Some("1")),
        ("x-b", None),
        ("x-c", Some("back")),
    ] {
        assert_eq!(received.header(name).as_deref(), value, "{name}");
    }
}

#[tokio::test]
async fn a_key_that_its_sender_may_not_send_is_seen_by_no_rule() {
    let sees = format!("len(http.request.headers[\"{KEY}\"]) > 0");
    let (backend, proxy) = one_with("keys = \"never\"", &[set(&sees, "X-Saw", "1")]).await;
    let answer = proxy.get_with("/", &[&format!("{KEY}: mine")]).await;
    assert!(exposed(&answer).ends_with("reason=random"), "{answer:?}");
    assert_eq!((backend.last().header("x-saw"), backend.last().header(KEY)), (None, None));
}

#[tokio::test]
async fn a_key_that_a_rule_sets_counts_whoever_may_send_one() {
    for keys in ["anyone", "trusted", "never"] {
        let (backend, proxy) = one_with(&format!("keys = \"{keys}\""), &[user_cookie()]).await;
        let answer = proxy.get_with("/", &["Cookie: user_id=7", &format!("{KEY}: mine")]).await;
        assert!(exposed(&answer).ends_with("reason=key"), "{keys}: {answer:?}");
        assert_eq!(backend.last().header(KEY).as_deref(), Some("7"), "{keys}");
    }
}

#[tokio::test]
async fn overrides_that_a_rule_sets_count_whoever_may_send_them() {
    let backends = two().await;
    let rule = set("http.request.uri.path eq \"/beta\"", OVERRIDES, "shop=\"v2\"");
    for overrides in ["anyone", "trusted", "never"] {
        let file = split(&backends, &format!("overrides = \"{overrides}\""), std::slice::from_ref(&rule));
        let proxy = proxy(&file).await;
        let answer = proxy.get_with("/beta", &[&format!("{OVERRIDES}: shop=\"v1\"")]).await;
        assert_eq!(answer.text(), "v2", "{overrides}");
        assert!(exposed(&answer).ends_with("reason=override"), "{answer:?}");
        assert_eq!(backends.1.last().header(OVERRIDES).as_deref(), Some("shop=\"v2\""));
    }
}

#[tokio::test]
async fn an_override_that_its_sender_may_not_send_is_said_to_be_denied_with_rules_too() {
    let backends = two().await;
    let rule = set("http.request.uri.path eq \"/beta\"", OVERRIDES, "other=\"x\"");
    let proxy = proxy(&split(&backends, "overrides = \"never\"", &[rule])).await;
    for target in ["/", "/beta"] {
        let answer = proxy.get_with(target, &[&format!("{OVERRIDES}: shop=\"v2\"")]).await;
        assert_eq!(answer.text(), "v1", "{target}");
        assert!(exposed(&answer).ends_with("reason=random;override=denied"), "{target}: {answer:?}");
    }
    let other = proxy.get_with("/", &[&format!("{OVERRIDES}: other=\"v2\"")]).await;
    assert!(exposed(&other).ends_with("reason=random"), "{other:?}");
    assert_eq!(backends.0.last().header(OVERRIDES), None);
}

#[tokio::test]
async fn overrides_that_a_rule_sets_need_no_secret_and_a_clients_do() {
    let backends = two().await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "s3cret-s3cret-s3cret\n").unwrap();
    let rule = set("http.request.uri.path eq \"/beta\"", OVERRIDES, "shop=\"v2\"");
    let file = split(&backends, "overrides_secret_file = \"secret\"", &[rule]);
    let proxy = Proxy::start(folder, &file.text()).await;
    assert_eq!(proxy.get("/beta").await.text(), "v2");
    let without = proxy.get_with("/", &[&format!("{OVERRIDES}: shop=\"v2\"")]).await;
    assert!(exposed(&without).ends_with("override=denied"), "{without:?}");
    let with = format!("{OVERRIDES}: shop=\"v2\";token=\"s3cret-s3cret-s3cret\"");
    assert_eq!(proxy.get_with("/", &[&with]).await.text(), "v2");
    assert_eq!(backends.1.last().header(OVERRIDES).as_deref(), Some("shop=\"v2\""));
}

#[tokio::test]
async fn the_number_that_a_rule_sets_is_that_of_the_access_log() {
    let (backend, proxy) = one(&[compute("true", "X-Ray", "cf.ray_id")]).await;
    proxy.get("/1").await;
    proxy.get("/2").await;
    // Two threads serve, and may log in any order.
    let received = backend.received();
    let mut rays: Vec<_> =
        received.iter().map(|one| (one.target.clone(), one.header("x-ray").unwrap())).collect();
    assert_ne!(rays[0].1, rays[1].1);
    let (_, lines) = proxy.records().await;
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let event = |line: &serde_json::Value| {
        let url = word(&line["Event"]["Request"]["URL"]);
        (url.replace("http://shop.example", ""), word(&line["Event"]["RayID"]))
    };
    let mut logged: Vec<_> = lines.iter().map(event).collect();
    rays.sort();
    logged.sort();
    assert_eq!(logged, rays);
}

#[tokio::test]
async fn cookies_of_any_form_are_a_key_or_none_and_the_request_is_served() {
    let (backend, proxy) = one(&[user_cookie()]).await;
    let long = format!("Cookie: {}; user_id=7", "a=b; ".repeat(1600));
    assert!(long.len() > 8000);
    for (line, key) in [
        (&b"Cookie: user_id"[..], None),
        (b"Cookie: user_id;", None),
        (b"Cookie: =user_id", None),
        (b"Cookie: ;;=; =x;user_id=;;", None),
        (b"Cookie: user_id=", None),
        (b"Cookie: my_user_id=1", None),
        (b"Cookie: user_id; user_id=7", Some("7")),
        (b"Cookie: user_id=7; user_id=8", Some("7")),
        (b"Cookie:user_id = 7 ", Some("7")),
        (b"Cookie: user_id=a=b", Some("a=b")),
        (b"Cookie: user_id=%zz%", Some("%zz%")),
        (b"Cookie: user_id=%ff", Some("%ff")),
        (b"Cookie: %zz=1; %=2; user_id=7", Some("7")),
        (b"Cookie: \xff\xfe=1; user_id=7", Some("7")),
        // What is not UTF-8 is a key as any other; the tests show it as U+FFFD.
        (b"Cookie: user_id=\xff\xfe", Some("\u{fffd}\u{fffd}")),
        (long.as_bytes(), Some("7")),
    ] {
        let answer = get(&proxy, "/", &[line]).await;
        let name = String::from_utf8_lossy(line).into_owned();
        assert_eq!((answer.status, answer.text()), (200, "v1"), "{name}");
        assert_eq!(backend.last().header(KEY).as_deref(), key, "{name}");
        let reason = if key.is_some() { "reason=key" } else { "reason=random" };
        assert!(exposed(&answer).ends_with(reason), "{name}");
    }
    assert_eq!(dropped(&proxy), 0);
}

#[tokio::test]
async fn a_value_that_no_header_can_have_is_dropped_and_counted_and_the_request_is_served() {
    let (backend, proxy) =
        one(&[user_cookie(), compute("true", "X-Arg", "url_decode(http.request.uri.args[\"a\"][0])")]).await;
    let mine = format!("{KEY}: mine");
    let cookie = format!("Cookie: user_id={}", "x".repeat(8192));
    let answer = get(&proxy, "/", &[mine.as_bytes(), cookie.as_bytes()]).await;
    assert!(answer.status == 200 && exposed(&answer).ends_with("reason=random"), "{answer:?}");
    assert_eq!(backend.last().header(KEY), None);
    for (argument, value) in [
        ("x%00y", None),
        ("x%0d%0aX-Evil:%201", None),
        ("%0a", None),
        ("%7f", None),
        ("%ff%fe", Some("\u{fffd}\u{fffd}")),
        ("%c3%28", Some("\u{fffd}(")),
        ("%", Some("%")),
        ("%zz%4", Some("%zz%4")),
        ("%20%20", None),
        ("+x%20", Some("x")),
        ("a%26b%3Dc", Some("a&b=c")),
    ] {
        let answer = get(&proxy, &format!("/?a={argument}"), &[b"X-Arg: client"]).await;
        assert_eq!(answer.status, 200, "{argument}");
        let received = backend.last();
        assert_eq!(received.header("x-arg").as_deref(), value, "{argument}");
        assert_eq!(received.header("x-evil"), None, "{argument}");
        assert_eq!(received.target, format!("/?a={argument}"));
    }
    // A value of white space is empty: that removes the header, and is no value that was dropped.
    assert_eq!(dropped(&proxy), 5);
}

#[tokio::test]
async fn nothing_that_a_client_sends_makes_a_rule_fail_its_request() {
    let rules = [
        user_cookie(),
        compute("true", "X-1", "lower(url_decode(http.request.uri.query, \"ru\"))"),
        compute(
            "any(http.request.headers[\"x-in\"][*] contains \"a\")",
            "X-2",
            "http.request.headers[\"x-in\"][3]",
        ),
        compute(
            "http.request.uri.path matches \"(a|b)+$\"",
            "X-3",
            "regex_replace(http.cookie, \"(.*)=\", \"${1}\")",
        ),
        compute("true", "X-4", "join(split(http.cookie, \"=\", 5), \",\")"),
        compute("true", "X-5", "decode_base64(http.cookie)"),
        compute("true", "X-6", "lookup_json_string(http.cookie, \"a\", 0)"),
        compute("true", "X-7", "substring(http.cookie, -3)"),
        compute("true", "X-8", "http.request.accepted_languages[0]"),
        compute(
            "any(lower(http.request.headers.values[*])[*] contains \"z\")",
            "X-9",
            "http.request.uri.path.extension",
        ),
    ];
    let (backend, proxy) = one(&rules).await;
    // A generator of its own, so that a failure can be repeated.
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut connection = proxy.connect().await;
    for round in 0..400 {
        let mut bytes = |alphabet: &[u8], most: u64| -> Vec<u8> {
            (0..random(most))
                .map(|_| alphabet[usize::try_from(random(alphabet.len() as u64)).unwrap()])
                .collect()
        };
        let any: Vec<u8> = (b' '..=0xff).filter(|byte| *byte != 0x7f).chain([b'\t']).collect();
        let mut request = b"GET /".to_vec();
        request.extend(bytes(b"ab./%", 9));
        request.push(b'?');
        request.extend(bytes(b"a=&%0fuDc3+;", 40));
        request.extend_from_slice(b" HTTP/1.1\r\nHost: shop.example\r\nCookie: ");
        request.extend(bytes(b"user_id=;; \"%{}[:a,0]\xff\xc3", 60));
        for name in ["Cookie", "X-In", "X-In", "Accept-Language"] {
            request.extend_from_slice(format!("\r\n{name}: ").as_bytes());
            request.extend(bytes(&any, 30));
        }
        request.extend_from_slice(b"\r\n\r\n");
        connection.send(&request).await;
        let answer = connection.answer().await;
        let sent = String::from_utf8_lossy(&request).into_owned();
        assert_eq!((answer.status, answer.text()), (200, "v1"), "round {round}: {sent}");
    }
    assert_eq!(backend.received().len(), 400);
}

#[tokio::test]
async fn a_cookie_in_crumbs_of_http_2_is_one_line_to_rules() {
    let (backend, proxy) =
        one(&[user_cookie(), compute("http.cookie eq \"a=b; user_id=7; c=d\"", "X-Cookie", "http.cookie")])
            .await;
    let mut client = http2(proxy.pipe().await).await;
    let request = http::Request::get("http://shop.example/")
        .header("cookie", "a=b")
        .header("cookie", "user_id=7")
        .header("cookie", "c=d")
        .body(empty())
        .unwrap();
    let answer = collect(client.send_request(request).await.unwrap()).await;
    assert_eq!(answer.status, 200);
    let received = backend.last();
    assert_eq!(received.header(KEY).as_deref(), Some("7"));
    assert_eq!(received.header("cookie").as_deref(), Some("a=b; user_id=7; c=d"));
    assert_eq!(received.header("x-cookie").as_deref(), Some("a=b; user_id=7; c=d"));
}

/// Rules that say what they saw of the lines of one name, in headers of theirs.
fn saw(name: &str) -> [String; 4] {
    let lines = format!("http.request.headers[\"{name}\"]");
    let named = format!("any(http.request.headers.names[*] == \"{name}\")");
    [
        compute("true", "X-First", &format!("{lines}[0]")),
        compute("true", "X-Lines", &format!("len({lines})")),
        compute("true", "X-All", "join(http.request.headers.values, \"|\")"),
        set(&named, "X-Named", "yes"),
    ]
}

/// What a backend was told by these rules: the first line, how many there were, and whether the name is among the names.
fn said(backend: &Backend) -> (Option<String>, Option<String>, bool) {
    let received = backend.last();
    (received.header("x-first"), received.header("x-lines"), received.header("x-named").is_some())
}

#[tokio::test]
async fn the_crumbs_of_http_2_are_one_cookie_line_among_the_headers_and_lines_of_http_1_are_as_sent() {
    let (backend, proxy) = one(&saw("cookie")).await;
    let mut client = http2(proxy.pipe().await).await;
    for (crumbs, line) in [(&["a=b"][..], "a=b"), (&["a=b", "user_id=7", "c=d"], "a=b; user_id=7; c=d")] {
        let request = http::Request::get("http://shop.example/").header("x-a", "1");
        let request = crumbs.iter().fold(request, |request, crumb| request.header("cookie", *crumb));
        collect(client.send_request(request.body(empty()).unwrap()).await.unwrap()).await;
        assert_eq!(said(&backend), (Some(line.into()), Some("1".into()), true));
        let all = backend.last().header("x-all").unwrap();
        assert_eq!(all.split('|').filter(|value| value.contains("a=b")).collect::<Vec<_>>(), [line]);
    }
    proxy.get_with("/", &["Cookie: a=b", "X-A: 1", "Cookie: c=d"]).await;
    assert_eq!(said(&backend), (Some("a=b".into()), Some("2".into()), true));
}

#[tokio::test]
async fn the_host_that_a_request_is_for_is_its_one_host_line_whatever_version_of_http_says_it() {
    let (backend, proxy) = one(&saw("host")).await;
    let shop = (Some("shop.example".to_owned()), Some("1".to_owned()), true);
    for request in [
        "GET / HTTP/1.1\r\nX-A: 1\r\nHost: shop.example\r\n\r\n",
        "GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        "GET http://shop.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
        "GET http://shop.example/ HTTP/1.0\r\n\r\n",
    ] {
        assert_eq!(proxy.send(request).await.status, 200, "{request}");
        assert_eq!(said(&backend), shop, "{request}");
        assert!(!backend.last().header("x-all").unwrap().contains("other.example"), "{request}");
    }
    let mut client = http2(proxy.pipe().await).await;
    for line in [None, Some("shop.example"), Some("other.example")] {
        let mut request = http::Request::get("http://shop.example/").body(empty()).unwrap();
        if let Some(line) = line {
            request.headers_mut().insert("host", line.parse().unwrap());
        }
        collect(client.send_request(request).await.unwrap()).await;
        assert_eq!(said(&backend), shop, "{line:?}");
        assert_eq!(backend.last().header("x-all").as_deref(), Some("shop.example"), "{line:?}");
    }
    proxy.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(said(&backend), (None, None, false));
}

#[tokio::test]
async fn no_client_takes_away_what_a_rule_has_set_by_calling_it_hop_by_hop() {
    let header = "http.request.headers[\"x-plan\"][0]";
    let (backend, proxy) = one(&[set("true", "X-Plan", "free"), compute("true", "X-Saw", header)]).await;
    proxy.get_with("/", &["Connection: keep-alive, X-Plan, X-Mine", "X-Mine: 1", "X-Plan: paid"]).await;
    assert_eq!(backend.last().header("x-plan").as_deref(), Some("free"));
    assert_eq!(backend.last().header("x-saw").as_deref(), Some("paid"));
    assert_eq!(backend.last().header("x-mine"), None);
    proxy.get_with("/", &["Connection: X-Plan", "Connection: TE, X-Saw", "TE: trailers"]).await;
    assert_eq!(backend.last().header("x-plan").as_deref(), Some("free"));
    assert_eq!(backend.last().header("te").as_deref(), Some("trailers"));
}

#[tokio::test]
async fn rules_see_no_header_of_the_name_space_that_only_the_proxy_may_use() {
    let claimed = "any(http.request.headers.names[*] contains \"gradual\")";
    let (backend, proxy) = one(&[set(claimed, "X-Claimed", "1")]).await;
    proxy.get_with("/", &["Gradual-Version-Id: v9", "Gradual-Anything: 1"]).await;
    assert_eq!(backend.last().header("x-claimed"), None);
    assert_eq!(backend.last().header("gradual-version-id").as_deref(), Some("v1"));
}

#[tokio::test]
async fn an_assets_pin_is_the_one_that_came_unless_a_rule_edits_its_header() {
    let backends = two().await;
    let other = set("true", "X-A", "1");
    let (pins, unpins) = (set("true", "X-Deployment-Id", "v2"), remove("true", "X-Deployment-Id"));
    let pin = "x-deployment-id: v2";
    let nominated = [pin, "Connection: x-deployment-id"];
    for (rules, lines, version) in [
        (&[][..], &nominated[..], "v2"),
        (std::slice::from_ref(&other), &nominated, "v2"),
        (std::slice::from_ref(&other), &["X-B: 1"], "v1"),
        (std::slice::from_ref(&pins), &["X-B: 1"], "v2"),
        (std::slice::from_ref(&pins), &["x-deployment-id: v1", "Connection: x-deployment-id"], "v2"),
        (&[unpins], &[pin], "v1"),
    ] {
        let assets = "[worker.assets]\npaths = [\"/assets/*\"]\nretain = [\"v2\"]";
        let proxy = proxy(&split(&backends, assets, rules)).await;
        assert_eq!(proxy.get_with("/assets/a.js", lines).await.text(), version, "{rules:?} {lines:?}");
    }
}

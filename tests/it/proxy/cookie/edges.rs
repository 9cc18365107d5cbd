//! The affinity cookie beside what else decides, over each protocol, and through a second proxy.

use std::collections::BTreeSet;

use super::super::two;
use super::{HTML, KEY, given};
use crate::support::{
    Authority, Backend, Connection, File, Proxy, backend, collect, empty, file, http2, proxy, tls_client,
};

const COOKIE: &str = "[worker.affinity]\ncookie = \"vk\"";

/// Half of all on each of two versions.
fn split(urls: [&str; 2], worker: &str) -> File {
    let file = file().worker("expose_version = true").worker(worker);
    file.version_at("v1", &urls[..1], 50).version_at("v2", &urls[1..], 50)
}

fn rule(name: &str, operation: &str) -> String {
    format!("[[worker.rule]]\nexpression = 'true'\nheaders = {{ \"{name}\" = {{ {operation} }} }}")
}

/// A worker with the cookie, and more lines.
async fn one(lines: &str) -> (Backend, Proxy) {
    let backend = backend("v1").start().await;
    let file = file().worker("expose_version = true").worker(lines);
    let proxy = proxy(&file.version("v1", &backend, 100)).await;
    (backend, proxy)
}

#[tokio::test]
async fn a_key_that_a_rule_sets_wins_over_the_cookie_and_no_cookie_is_given() {
    let rule = rule("Cloudflare-Workers-Version-Key", "operation = \"set\", value = \"ruled\"");
    let (backend, proxy) = one(&format!("{COOKIE}\n{rule}")).await;
    for line in ["Cookie: vk=me", "Cookie: a=b"] {
        let answer = proxy.get_with("/", &[HTML, line]).await;
        assert_eq!(answer.header("set-cookie"), None, "{line}");
        assert_eq!(backend.last().header(KEY).as_deref(), Some("ruled"), "{line}");
    }
}

#[tokio::test]
async fn where_a_rule_removes_the_key_the_cookie_is_it() {
    let rule = rule("Cloudflare-Workers-Version-Key", "operation = \"remove\"");
    let (backend, proxy) = one(&format!("{COOKIE}\n{rule}")).await;
    proxy.get_with("/", &[HTML, "Cookie: vk=me", &format!("{KEY}: mine")]).await;
    assert_eq!(backend.last().header(KEY).as_deref(), Some("me"));
    let answer = proxy.get_with("/", &[HTML, &format!("{KEY}: mine")]).await;
    assert_eq!(backend.last().header(KEY), given(&answer));
    assert!(given(&answer).is_some());
}

#[tokio::test]
async fn who_can_receive_the_cookie_is_told_by_the_request_as_it_came_whatever_rules_do_to_it() {
    for (operation, line, expected) in [
        ("operation = \"remove\"", HTML, true),
        ("operation = \"set\", value = \"*/*\"", HTML, true),
        ("operation = \"set\", value = \"text/html\"", "Accept: */*", false),
    ] {
        let (_backend, proxy) = one(&format!("{COOKIE}\n{}", rule("Accept", operation))).await;
        let answer = proxy.get_with("/", &[line]).await;
        assert_eq!(given(&answer).is_some(), expected, "{operation} {line}");
    }
}

#[tokio::test]
async fn nobody_loses_the_cookie_by_calling_accept_hop_by_hop_whether_or_not_a_rule_matches() {
    let rule = rule("X-A", "operation = \"set\", value = \"1\"");
    for worker in [COOKIE.to_owned(), format!("{COOKIE}\n{rule}")] {
        let (backend, proxy) = one(&worker).await;
        let answer = proxy.get_with("/", &[HTML, "Connection: accept"]).await;
        assert!(given(&answer).is_some(), "{worker}");
        assert_eq!(backend.last().header("accept"), None, "{worker}");
        let answer = proxy.get_with("/", &["Sec-Fetch-Dest: document", "Connection: sec-fetch-dest"]).await;
        assert!(given(&answer).is_some(), "{worker}");
    }
}

#[tokio::test]
async fn where_clients_may_send_no_key_the_cookie_still_counts() {
    let (backend, proxy) = one(&format!("keys = \"never\"\n{COOKIE}")).await;
    let answer = proxy.get_with("/", &[HTML, "Cookie: vk=me", &format!("{KEY}: mine")]).await;
    assert!(answer.header("gradual-version").unwrap().ends_with("reason=key"), "{answer:?}");
    assert_eq!(backend.last().header(KEY).as_deref(), Some("me"));
}

#[tokio::test]
async fn an_override_that_is_denied_leaves_the_cookie_in_force_and_is_said() {
    let (_backend, proxy) = one(&format!("overrides = \"never\"\n{COOKIE}")).await;
    let answer = proxy.get_with("/", &[HTML, "Cloudflare-Workers-Version-Overrides: shop=\"v1\""]).await;
    assert!(given(&answer).is_some());
    assert!(answer.header("gradual-version").unwrap().ends_with("reason=key;override=denied"), "{answer:?}");
}

#[tokio::test]
async fn of_several_cookies_of_the_name_the_first_valid_one_counts() {
    let (backend, proxy) = one(COOKIE).await;
    let answer = proxy.get_with("/", &[HTML, "Cookie: vk=; vk=\"x\"; vk=first; vk=second"]).await;
    assert_eq!((given(&answer), backend.last().header(KEY).as_deref()), (None, Some("first")));
}

#[tokio::test]
async fn a_page_that_comes_by_any_method_is_given_the_cookie_and_what_accepts_a_page_only_by_get() {
    let (_backend, proxy) = one(COOKIE).await;
    for (method, line, expected) in [
        ("POST", "Sec-Fetch-Dest: document", true),
        ("HEAD", "Sec-Fetch-Dest: document", true),
        ("HEAD", HTML, false),
        ("PUT", HTML, false),
        ("GET", "Accept: text/html;q=0", false),
        ("GET", "Accept: application/xhtml+xml, TEXT/HTML;level=1;q=0.1", true),
        ("GET", "Sec-Fetch-Dest: iframe", false),
    ] {
        let mut connection = proxy.connect().await;
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n{line}\r\nContent-Length: 0\r\n\r\n");
        connection.send(request).await;
        let head = connection.head().await;
        assert_eq!((head.status, given(&head).is_some()), (200, expected), "{method} {line}");
    }
}

#[tokio::test]
async fn over_http_2_the_cookie_is_found_in_crumbs_and_given() {
    let (backend, proxy) = one(COOKIE).await;
    let mut client = http2(proxy.pipe().await).await;
    let request = || http::Request::get("http://shop.example/").header("accept", "text/html");
    let crumbs = request().header("cookie", "a=b").header("cookie", "vk=me").body(empty()).unwrap();
    let answer = collect(client.send_request(crumbs).await.unwrap()).await;
    assert_eq!((answer.status, given(&answer)), (200, None));
    assert_eq!(backend.last().header(KEY).as_deref(), Some("me"));
    assert_eq!(backend.last().header("cookie").as_deref(), Some("a=b; vk=me"));
    let bare = request().header("cookie", "a=b").body(empty()).unwrap();
    let answer = collect(client.send_request(bare).await.unwrap()).await;
    assert_eq!(backend.last().header(KEY), given(&answer));
    assert!(given(&answer).is_some());
}

#[tokio::test]
async fn over_http_2_the_cookie_can_be_kept_from_upstreams_too() {
    let (backend, proxy) = one(&format!("{COOKIE}\ncookie_forward = false")).await;
    let mut client = http2(proxy.pipe().await).await;
    for (crumbs, left) in [(["a=b", "vk=me"], Some("a=b")), (["vk=me", "vk=you"], None)] {
        let request = http::Request::get("http://shop.example/");
        let request = crumbs.iter().fold(request, |request, crumb| request.header("cookie", *crumb));
        collect(client.send_request(request.body(empty()).unwrap()).await.unwrap()).await;
        assert_eq!(backend.last().header("cookie").as_deref(), left);
        assert_eq!(backend.last().header(KEY).as_deref(), Some("me"));
    }
}

#[tokio::test]
async fn over_https_the_cookie_is_secure() {
    let backend = backend("v1").start().await;
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    authority.write(folder.path(), "shop", &["shop.example"]);
    let tls = "tls = [{ certificate = \"shop.pem\", key = \"shop.key\" }]";
    let file = file().listener(tls).worker(COOKIE).version("v1", &backend, 100);
    let proxy = Proxy::start(folder, &file.text()).await;
    let config = authority.client(&["http/1.1"]);
    let stream = tls_client(proxy.pipe().await, config, "shop.example").await.unwrap();
    let mut connection = Connection::new(Box::new(stream));
    connection.send(format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{HTML}\r\n\r\n")).await;
    let line = connection.answer().await.header("set-cookie").unwrap();
    assert!(line.ends_with("; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=31536000"), "{line}");
}

#[tokio::test]
async fn a_proxy_behind_with_the_same_split_agrees_from_the_first_page_on() {
    let backends = two().await;
    let inner = proxy(&split([backends.0.url(), backends.1.url()], "")).await;
    let url = format!("http://{}", inner.authority());
    let outer = proxy(&split([&url, &url], COOKIE)).await;
    let mut seen = BTreeSet::new();
    for _ in 0..24 {
        let first = outer.get_with("/", &[HTML]).await;
        let id = given(&first).unwrap();
        let says = first.header("gradual-version").unwrap();
        assert!(says.starts_with(&format!("\"{}\"", first.text())), "{says} {first:?}");
        let next = outer.get_with("/", &[HTML, &format!("Cookie: vk={id}")]).await;
        assert_eq!(next.text(), first.text());
        seen.insert(first.text().to_owned());
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn a_path_that_the_file_calls_an_asset_gives_no_cookie() {
    let (_backend, proxy) = one(&format!("assets = {{ paths = [\"/assets/*\"] }}\n{COOKIE}")).await;
    assert_eq!(proxy.get_with("/assets/page", &[HTML]).await.header("set-cookie"), None);
    assert!(given(&proxy.get_with("/page", &[HTML]).await).is_some());
}

#[tokio::test]
async fn a_rule_that_removes_the_cookie_does_not_take_its_key_away() {
    let (backend, proxy) = one(&format!("{COOKIE}\n{}", rule("Cookie", "operation = \"remove\""))).await;
    let answer = proxy.get_with("/", &[HTML, "Cookie: vk=me"]).await;
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(backend.last().header("cookie"), None);
    assert_eq!(backend.last().header(KEY).as_deref(), Some("me"));
}

#[tokio::test]
async fn a_cookie_that_browsers_keep_over_https_alone_is_given_over_https_alone() {
    let file = |name: &str| {
        let cookie = format!("[worker.affinity]\ncookie = \"{name}\"");
        file().worker("expose_version = true").worker(&cookie)
    };
    let backend = backend("v1").start().await;
    for (name, bare) in [("__Host-vk", "random"), ("__sEcure-vk", "random"), ("vk", "key")] {
        let file = file(name).listener("trusted_proxies = [\"127.0.0.1\"]");
        let proxy = proxy(&file.version("v1", &backend, 100)).await;
        let answer = proxy.get_with("/", &[HTML]).await;
        assert_eq!((answer.header("set-cookie").is_some(), answer.reason().as_str()), (bare == "key", bare));
        assert_eq!(backend.last().header(KEY).is_some(), bare == "key", "{name}");
        let answer = proxy.get_with("/", &[HTML, "X-Forwarded-Proto: https"]).await;
        let cookie = answer.header("set-cookie").unwrap();
        assert!(cookie.starts_with(&format!("{name}=")) && cookie.contains("; Secure"), "{cookie}");
        assert!(cookie.contains("; Path=/;") && !cookie.contains("Domain"), "{cookie}");
        assert_eq!(answer.reason(), "key");
        // Who has one keeps to it, however it comes.
        proxy.get_with("/", &[HTML, &format!("Cookie: {name}=me")]).await;
        assert_eq!(backend.last().header(KEY).as_deref(), Some("me"));
    }
}

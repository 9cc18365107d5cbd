//! The affinity cookie: who is given one, who is not, and where it leads.

mod edges;

use gradual::config;
use gradual::model::decision::Sent;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::support::{Answer, Backend, Body, File, Proxy, backend, body, file, nobody, proxy};

use super::two;

const HTML: &str = "Accept: text/html,*/*;q=0.8";
const KEY: &str = "cloudflare-workers-version-key";

fn split(backends: &(Backend, Backend), v1: u32, affinity: &str) -> File {
    file()
        .worker("expose_version = true")
        .worker(&format!("[worker.affinity]\ncookie = \"vk\"\n{affinity}"))
        .version("v1", &backends.0, v1)
        .version("v2", &backends.1, 100 - v1)
}

/// What the ring says about a key.
fn expected(file: &File, key: &str) -> &'static str {
    let (config, _) = config::parse("gradual.toml", &file.text(), std::path::Path::new("/")).unwrap();
    let sent = Sent { key: Some(key.as_bytes()), ..Sent::default() };
    ["v1", "v2"][config.workers[0].policy.select(&sent).decision.member.index()]
}

/// The id in the cookie that an answer sets.
fn given(answer: &Answer) -> Option<String> {
    let line = answer.header("set-cookie")?;
    Some(line.strip_prefix("vk=")?.split(';').next().unwrap().to_owned())
}

/// A proxy before a backend that answers with these lines.
async fn answering(status: u16, lines: &'static [(&'static str, &'static str)]) -> (Backend, Proxy) {
    let answer = move |_: Request<Incoming>| async move {
        let mut response = Response::builder().status(status);
        for (name, value) in lines {
            response = response.header(*name, *value);
        }
        response.body::<Body>(body("x")).unwrap()
    };
    let backend = backend("v1").answering(answer).start().await;
    let file = file().worker("[worker.affinity]\ncookie = \"vk\"").version("v1", &backend, 100);
    let proxy = proxy(&file).await;
    (backend, proxy)
}

#[tokio::test]
async fn the_first_page_view_is_already_on_the_version_of_the_cookie_that_it_is_given() {
    let backends = two().await;
    let file = split(&backends, 50, "");
    let proxy = proxy(&file).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let first = proxy.get_with("/", &[HTML]).await;
        let id = given(&first).unwrap();
        assert_eq!(first.reason(), "key");
        assert_eq!(first.text(), expected(&file, &id));
        let cookie = format!("Cookie: a=b; vk={id}");
        let second = proxy.get_with("/next", &[HTML, &cookie]).await;
        assert_eq!((second.text(), second.reason().as_str()), (first.text(), "key"));
        assert_eq!(second.header("set-cookie"), None);
        // Scripts that the page loads follow it, too.
        assert_eq!(proxy.get_with("/app.js", &[&cookie]).await.text(), first.text());
        seen.insert((first.text().to_owned(), id));
    }
    assert_eq!(seen.len(), 40, "every id is another one");
    assert_eq!(seen.iter().map(|(version, _)| version).collect::<std::collections::BTreeSet<_>>().len(), 2);
}

#[tokio::test]
async fn the_cookie_is_for_the_whole_site_for_a_year_and_for_no_script() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 50, "")).await;
    let answer = proxy.get_with("/deep/page", &["Sec-Fetch-Dest: document"]).await;
    let id = given(&answer).unwrap();
    let line = format!("vk={id}; Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000");
    assert_eq!(answer.header("set-cookie"), Some(line));
    assert_eq!(answer.header("cache-control").as_deref(), Some("private"));
    assert_eq!(answer.header("vary").as_deref(), Some("Cookie"));
}

#[tokio::test]
async fn the_cookie_is_secure_where_the_believed_scheme_is_https() {
    let backends = two().await;
    let proto = "X-Forwarded-Proto: https";
    let file = split(&backends, 50, "");
    let believing = proxy(&file.clone().listener("trusted_proxies = [\"127.0.0.1\"]")).await;
    let cookie = believing.get_with("/", &[HTML, proto]).await.header("set-cookie").unwrap();
    assert!(cookie.contains("; HttpOnly; Secure; SameSite=Lax"), "{cookie}");
    let doubting = proxy(&file).await;
    let cookie = doubting.get_with("/", &[HTML, proto]).await.header("set-cookie").unwrap();
    assert!(!cookie.contains("Secure"), "{cookie}");
}

#[tokio::test]
async fn who_asks_for_no_page_is_given_no_cookie_and_draws() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 50, "")).await;
    for (target, line) in [
        ("/", "Accept: */*"),
        ("/api", "Accept: application/json"),
        ("/", "Sec-Fetch-Dest: script"),
        ("/app.js", "Sec-Fetch-Dest: document"),
        ("/logo.png", HTML),
    ] {
        let answer = proxy.get_with(target, &[line]).await;
        assert_eq!(
            (answer.header("set-cookie"), answer.reason().as_str()),
            (None, "random"),
            "{target} {line}"
        );
        assert_eq!(answer.header("cache-control"), None);
        assert_eq!(answer.header("vary"), None);
    }
    let post = proxy.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{HTML}\r\nContent-Length: 0\r\n\r\n")).await;
    assert_eq!((post.header("set-cookie"), post.reason().as_str()), (None, "random"));
}

#[tokio::test]
async fn a_value_that_is_not_valid_is_replaced() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 50, "")).await;
    for value in ["", "\"quoted\"", "a b", "a,b", "\\", &"x".repeat(129)] {
        let answer = proxy.get_with("/", &[HTML, &format!("Cookie: vk={value}")]).await;
        assert!(given(&answer).is_some(), "{value}");
    }
    let answer = proxy.get_with("/", &[HTML, "Cookie: vk"]).await;
    assert!(given(&answer).is_some());
    let chosen = proxy.get_with("/", &[HTML, &format!("Cookie: vk={}", "x".repeat(128))]).await;
    assert_eq!((given(&chosen), chosen.reason().as_str()), (None, "key"));
}

#[tokio::test]
async fn a_key_header_wins_over_the_cookie() {
    let backends = two().await;
    let file = split(&backends, 50, "");
    let proxy = proxy(&file).await;
    let key =
        |version| (0..).map(|n| format!("user-{n}")).find(|key| expected(&file, key) == version).unwrap();
    let (one, two) = (key("v1"), key("v2"));
    let lines = [format!("Cookie: vk={one}"), format!("{KEY}: {two}")];
    let answer = proxy.get_with("/", &[HTML, &lines[0], &lines[1]]).await;
    assert_eq!((answer.text(), given(&answer)), ("v2", None));
    assert_eq!(backends.1.last().header(KEY), Some(two.clone()));
    // A key of nothing is none.
    let answer = proxy.get_with("/", &[HTML, &lines[0], &format!("{KEY}: ")]).await;
    assert_eq!(answer.text(), "v1");
    assert_eq!(backends.0.last().header(KEY), Some(one));
    let alone = proxy.get_with("/", &[HTML, &lines[1]]).await;
    assert_eq!((alone.text(), given(&alone)), ("v2", None));
}

#[tokio::test]
async fn workers_behind_see_the_key_of_the_cookie_and_the_id_that_was_made() {
    let backend = backend("v1").start().await;
    let file = file().worker("[worker.affinity]\ncookie = \"vk\"").version("v1", &backend, 100);
    let proxy = proxy(&file).await;
    let id = given(&proxy.get_with("/", &[HTML]).await).unwrap();
    assert_eq!(backend.last().header(KEY), Some(id));
    assert_eq!(backend.last().header("cookie"), None);
    proxy.get_with("/", &["Cookie: a=1; vk=me"]).await;
    assert_eq!(backend.last().header(KEY).as_deref(), Some("me"));
    assert_eq!(backend.last().header("cookie").as_deref(), Some("a=1; vk=me"));
    proxy.get_with("/", &[]).await;
    assert_eq!(backend.last().header(KEY), None);
}

#[tokio::test]
async fn the_cookie_can_be_kept_from_upstreams() {
    let backend = backend("v1").start().await;
    let affinity = "[worker.affinity]\ncookie = \"vk\"\ncookie_forward = false";
    let proxy = proxy(&file().worker(affinity).version("v1", &backend, 100)).await;
    for (sent, forwarded) in [
        ("a=1; vk=me; b=2", Some("a=1; b=2")),
        ("vk=me", None),
        ("vk=me; vk=\"you\"", None),
        ("a=1; wvk=2", Some("a=1; wvk=2")),
    ] {
        proxy.get_with("/", &[&format!("Cookie: {sent}")]).await;
        assert_eq!(backend.last().header("cookie").as_deref(), forwarded, "{sent}");
    }
    proxy.get_with("/", &["Cookie: vk=me; a=1", "Cookie: b=2"]).await;
    assert_eq!(backend.last().header("cookie").as_deref(), Some("a=1; b=2"));
}

#[tokio::test]
async fn an_override_neither_needs_nor_gets_a_cookie() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 100, "")).await;
    let answer = proxy.get_with("/", &[HTML, "Cloudflare-Workers-Version-Overrides: shop=\"v2\""]).await;
    assert_eq!((answer.text(), given(&answer)), ("v2", None));
    assert_eq!(answer.reason(), "override");
    assert_eq!(backends.1.last().header(KEY), None);
    let ignored = proxy.get_with("/", &[HTML, "Cloudflare-Workers-Version-Overrides: shop=\"v3\""]).await;
    assert!(given(&ignored).is_some());
}

#[tokio::test]
async fn errors_public_answers_and_the_applications_own_cookie_are_left_alone() {
    for (status, lines) in [
        (404, &[][..]),
        (500, &[]),
        (200, &[("cache-control", "public, max-age=60")]),
        (200, &[("cache-control", "s-maxage=1")]),
        (200, &[("cache-control", "max-age=60")]),
    ] {
        let (_backend, proxy) = answering(status, lines).await;
        let answer = proxy.get_with("/", &[HTML]).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (status, None), "{lines:?}");
        let control = lines.iter().map(|(_, value)| (*value).to_owned()).next();
        assert_eq!((answer.header("cache-control"), answer.header("vary")), (control, None));
    }
    let (_backend, proxy) =
        answering(200, &[("set-cookie", "vk=theirs; Path=/"), ("set-cookie", "a=1")]).await;
    let answer = proxy.get_with("/", &[HTML]).await;
    assert_eq!(answer.header("set-cookie").as_deref(), Some("vk=theirs; Path=/ | a=1"));
}

#[tokio::test]
async fn an_answer_with_the_cookie_is_private_and_says_that_it_varies() {
    for (lines, control, vary) in [
        (&[][..], "private", "Cookie"),
        (&[("cache-control", "no-cache")], "no-cache, private", "Cookie"),
        (&[("cache-control", "private, max-age=60")], "private, max-age=60", "Cookie"),
        (&[("cache-control", "no-store")], "no-store", "Cookie"),
        (&[("vary", "Accept-Encoding")], "private", "Accept-Encoding, Cookie"),
        (&[("vary", "accept"), ("vary", "cookie")], "private", "accept | cookie"),
    ] {
        let (_backend, proxy) = answering(200, lines).await;
        let answer = proxy.get_with("/", &[HTML]).await;
        assert!(given(&answer).is_some(), "{lines:?}");
        assert_eq!(answer.header("cache-control").as_deref(), Some(control), "{lines:?}");
        assert_eq!(answer.header("vary").as_deref(), Some(vary), "{lines:?}");
    }
}

#[tokio::test]
async fn a_redirect_and_an_unchanged_page_may_carry_the_cookie() {
    for status in [302, 304] {
        let (_backend, proxy) = answering(status, &[]).await;
        assert!(given(&proxy.get_with("/", &[HTML]).await).is_some(), "{status}");
    }
}

#[tokio::test]
async fn what_the_proxy_answers_itself_carries_no_cookie() {
    let gone = nobody();
    let file = file().worker("[worker.affinity]\ncookie = \"vk\"").version_at("v1", &[gone.url()], 100);
    let proxy = proxy(&file).await;
    let answer = proxy.get_with("/", &[HTML]).await;
    assert_eq!((answer.status, answer.header("set-cookie")), (503, None));
}

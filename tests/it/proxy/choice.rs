//! Which version a request goes to, seen from outside.

use gradual::config;
use gradual::model::decision::Sent;

use crate::support::{Answer, Backend, File, Proxy, backend, file, proxy};

const KEY: &str = "Cloudflare-Workers-Version-Key";
const OVERRIDES: &str = "Cloudflare-Workers-Version-Overrides";

async fn two() -> (Backend, Backend) {
    (backend("v1").start().await, backend("v2").start().await)
}

fn split(backends: &(Backend, Backend), v1: u32) -> File {
    file().worker("expose_version = true").version("v1", &backends.0, v1).version("v2", &backends.1, 100 - v1)
}

/// What the model says about a key.
fn expected(file: &File, key: &str) -> &'static str {
    let (config, _) = config::parse("gradual.toml", &file.text(), std::path::Path::new("/")).unwrap();
    let sent = Sent { key: Some(key.as_bytes()), ..Sent::default() };
    ["v1", "v2"][config.workers[0].policy.select(&sent).decision.member.index()]
}

fn exposed(answer: &Answer) -> String {
    answer.header("gradual-version").unwrap()
}

async fn overridden(proxy: &Proxy, field: &str) -> Answer {
    proxy.get_with("/", &[&format!("{OVERRIDES}: {field}")]).await
}

#[tokio::test]
async fn an_override_reaches_the_version_it_names_even_at_0_per_cent() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 100)).await;
    let answer = overridden(&proxy, r#"other="x", shop="v2";a=1"#).await;
    assert_eq!(answer.text(), "v2");
    assert_eq!(exposed(&answer), r#""v2";worker=shop;tag="tag-v2";reason=override"#);
    let forwarded = backends.1.last().header(&OVERRIDES.to_ascii_lowercase());
    assert_eq!(forwarded.as_deref(), Some(r#"other="x", shop="v2";a=1"#));
}

#[tokio::test]
async fn override_lines_are_joined_and_the_last_duplicate_wins() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 100)).await;
    let lines = [format!(r#"{OVERRIDES}: shop="v1", a=1"#), format!(r#"{OVERRIDES}: shop="v2""#)];
    let answer = proxy.get_with("/", &[&lines[0], &lines[1]]).await;
    assert_eq!(answer.text(), "v2");
    let forwarded = backends.1.last().header(&OVERRIDES.to_ascii_lowercase());
    assert_eq!(forwarded.as_deref(), Some(r#"shop="v1", a=1 | shop="v2""#));
}

#[tokio::test]
async fn an_override_that_does_not_count_says_why_and_the_request_goes_on_as_without_it() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 100)).await;
    for (field, why) in [
        (r#"shop="v2", ="#, "invalid"),
        ("shop=v2", "not-a-string"),
        (r#"shop="v2", shop=1"#, "not-a-string"),
        (r#"shop="v3""#, "not-in-deployment"),
    ] {
        let answer = overridden(&proxy, field).await;
        assert_eq!(answer.text(), "v1", "{field}");
        let says = format!(r#""v1";worker=shop;tag="tag-v1";reason=random;override={why}"#);
        assert_eq!(exposed(&answer), says, "{field}");
    }
    let other = overridden(&proxy, r#"other="v2""#).await;
    assert_eq!(exposed(&other), r#""v1";worker=shop;tag="tag-v1";reason=random"#);
}

#[tokio::test]
async fn a_key_always_reaches_the_version_that_the_ring_says_and_is_forwarded() {
    let backends = two().await;
    let file = split(&backends, 40);
    let proxy = proxy(&file).await;
    let mut seen = [0, 0];
    for number in 0..40 {
        let key = format!("user-{number}");
        let expected = expected(&file, &key);
        for _ in 0..2 {
            let answer = proxy.get_with("/", &[&format!("{KEY}:  {key} ")]).await;
            assert_eq!(answer.text(), expected, "{key}");
            assert_eq!(
                exposed(&answer),
                format!(r#""{expected}";worker=shop;tag="tag-{expected}";reason=key"#)
            );
        }
        seen[usize::from(expected == "v2")] += 1;
        let last = if expected == "v1" { backends.0.last() } else { backends.1.last() };
        assert_eq!(last.header(&KEY.to_ascii_lowercase()), Some(key));
    }
    assert!(seen[0] > 0 && seen[1] > 0);
}

#[tokio::test]
async fn several_key_lines_joined_are_the_key() {
    let backends = two().await;
    let file = split(&backends, 50);
    let proxy = proxy(&file).await;
    for number in 0..16 {
        let lines = [format!("{KEY}: a{number}"), format!("{KEY}: b")];
        let answer = proxy.get_with("/", &[&lines[0], &lines[1]]).await;
        assert_eq!(answer.text(), expected(&file, &format!("a{number}, b")));
    }
}

#[tokio::test]
async fn an_empty_key_is_no_key() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 100)).await;
    let answer = proxy.get_with("/", &[&format!("{KEY}: \t ")]).await;
    assert!(exposed(&answer).ends_with("reason=random"), "{answer:?}");
}

#[tokio::test]
async fn an_override_beats_a_key() {
    let backends = two().await;
    let file = split(&backends, 50);
    let proxy = proxy(&file).await;
    let key = (0..).map(|number| format!("k{number}")).find(|key| expected(&file, key) == "v1").unwrap();
    let lines = [format!("{KEY}: {key}"), format!(r#"{OVERRIDES}: shop="v2""#)];
    let answer = proxy.get_with("/", &[&lines[0], &lines[1]]).await;
    assert_eq!(answer.text(), "v2");
}

#[tokio::test]
async fn draws_follow_the_shares() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 25)).await;
    let mut connection = proxy.connect().await;
    let mut v1 = 0;
    for _ in 0..800 {
        connection.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        let answer = connection.answer().await;
        assert!(exposed(&answer).ends_with("reason=random"));
        v1 += usize::from(answer.text() == "v1");
    }
    // More than five standard deviations to either side.
    assert!((130..=270).contains(&v1), "{v1} of 800 at 25 %");
}

#[tokio::test]
async fn a_version_at_0_per_cent_is_reached_by_no_key_and_no_draw() {
    let backends = two().await;
    let proxy = proxy(&split(&backends, 100)).await;
    for number in 0..50 {
        let key = format!("{KEY}: {number}");
        let lines: &[&str] = if number % 2 == 0 { &[] } else { &[&key] };
        assert_eq!(proxy.get_with("/", lines).await.text(), "v1");
    }
    assert_eq!(backends.1.connections(), 0);
}

#[tokio::test]
async fn headers_that_the_sender_may_not_send_do_not_count_and_are_not_forwarded() {
    let backends = two().await;
    for settings in ["keys = \"never\"\noverrides = \"never\"", "keys = \"trusted\"\noverrides = \"trusted\""]
    {
        let proxy = proxy(&split(&backends, 100).worker(settings)).await;
        let lines = [format!("{KEY}: a"), format!(r#"{OVERRIDES}: shop="v2""#)];
        let answer = proxy.get_with("/", &[&lines[0], &lines[1]]).await;
        assert_eq!(exposed(&answer), r#""v1";worker=shop;tag="tag-v1";reason=random;override=denied"#);
        let received = backends.0.last();
        assert_eq!(received.header(&KEY.to_ascii_lowercase()), None);
        assert_eq!(received.header(&OVERRIDES.to_ascii_lowercase()), None);
    }
}

#[tokio::test]
async fn trusted_proxies_may_send_what_is_for_trusted_ones_but_not_what_is_for_nobody() {
    let backends = two().await;
    let file = split(&backends, 100).listener("trusted_proxies = [\"127.0.0.0/8\"]");
    let lines = [format!("{KEY}: a"), format!(r#"{OVERRIDES}: shop="v2""#)];
    let lines = [&lines[0][..], &lines[1][..]];
    let trusting = proxy(&file.clone().worker("keys = \"trusted\"\noverrides = \"trusted\"")).await;
    assert_eq!(trusting.get_with("/", &lines).await.text(), "v2");
    assert!(exposed(&trusting.get_with("/", &lines[..1]).await).ends_with("reason=key"));
    let never = proxy(&file.worker("keys = \"never\"\noverrides = \"never\"")).await;
    let answer = never.get_with("/", &lines).await;
    assert!(exposed(&answer).ends_with("reason=random;override=denied"), "{answer:?}");
}

#[tokio::test]
async fn the_version_header_is_a_structured_field_whose_tag_is_escaped() {
    let v1 = backend("v1").start().await;
    let file = file().worker("expose_version = true").version("v1", &v1, 100);
    let proxy = proxy(&file.version_with(r#"tag = 'say "hi" \o/'"#)).await;
    let answer = proxy.get("/").await;
    assert_eq!(exposed(&answer), r#""v1";worker=shop;tag="say \"hi\" \\o/";reason=random"#);
}

#[tokio::test]
async fn the_version_is_not_exposed_unless_the_worker_says_so() {
    let v1 = backend("v1").start().await;
    let proxy = proxy(&file().version("v1", &v1, 100)).await;
    let answer = overridden(&proxy, "shop=1").await;
    assert_eq!((answer.status, answer.header("gradual-version")), (200, None));
}

#[tokio::test]
async fn the_version_is_exposed_on_failures_too() {
    let file = file().worker("expose_version = true").version_at("v1", &["http://127.0.0.1:9"], 100);
    let proxy = proxy(&file).await;
    let answer = proxy.get("/").await;
    assert_eq!(answer.status, 503);
    assert_eq!(exposed(&answer), r#""v1";worker=shop;tag="tag-v1";reason=random"#);
}

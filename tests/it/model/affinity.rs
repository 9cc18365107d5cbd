//! The affinity cookie's rules, edge by edge.

use gradual::model::affinity::{
    can_receive, find, is_kept, is_private, is_valid, looks_like_a_session, may_set, varies_by_cookie,
    wants_https, without,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    lines.iter().map(line).collect()
}

#[test]
fn a_value_of_1_to_128_cookie_octets_is_valid_whoever_chose_it() {
    for value in ["a", "user-1", "!#$%&'()*+-./:<=>?@[]^_`{|}~", &"x".repeat(128)] {
        assert!(is_valid(value.as_bytes()), "{value}");
    }
    for value in ["", "a b", "a\"b", "\"quoted\"", "a,b", "a\\b", "a;b", "a\tb", "é", &"x".repeat(129)] {
        assert!(!is_valid(value.as_bytes()), "{value}");
    }
    assert!(!is_valid(b"\xff") && !is_valid(b"\x7f") && !is_valid(b"\0"));
}

#[test]
fn the_first_valid_value_of_the_name_is_the_key() {
    for (lines, found) in [
        (&["key=a"][..], Some("a")),
        (&["x=1; key=a; key=b"], Some("a")),
        (&["x=1", "key=a"], Some("a")),
        (&["key=; key=b"], Some("b")),
        (&["key=\"a\"; key=b"], Some("b")),
        (&[" key = a ;"], Some("a")),
        (&["key=a=b"], Some("a=b")),
        (&["Key=a"], None),
        (&["xkey=a; key"], None),
        (&["key"], None),
        (&[""], None),
        (&[";;;=;"], None),
        (&[], None),
    ] {
        let lines: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
        assert_eq!(find(&headers(&lines), "key"), found.map(str::as_bytes), "{lines:?}");
    }
}

#[test]
fn a_line_without_the_cookie_keeps_every_other_one() {
    for (line, left) in [
        ("key=a", Some("")),
        ("x=1; key=a; y=2", Some("x=1; y=2")),
        ("key=a;key=b;;x=1", Some("x=1")),
        ("x=1; mykey=a", None),
        ("x=key=a", None),
        ("key", None),
    ] {
        assert_eq!(without(line.as_bytes(), "key"), left.map(|left| left.as_bytes().to_vec()), "{line}");
    }
}

#[test]
fn who_asks_for_a_document_can_receive_the_cookie() {
    for (method, line, can) in [
        ("GET", ("accept", "text/html"), true),
        ("GET", ("accept", "application/xml, TEXT/HTML;q=0.9, */*;q=0.8"), true),
        ("GET", ("accept", "text/html;q=0, */*"), false),
        ("GET", ("accept", "text/html;level=1;q=0.000"), false),
        ("GET", ("accept", "a/b;c=\"d, text/html\""), false),
        ("GET", ("accept", "a/b;c=\"\\\", d\", text/html"), true),
        ("GET", ("accept", "*/*"), false),
        ("GET", ("accept", "application/json"), false),
        ("HEAD", ("accept", "text/html"), false),
        ("POST", ("accept", "text/html"), false),
        ("POST", ("sec-fetch-dest", "document"), true),
        ("GET", ("sec-fetch-dest", "script"), false),
        ("GET", ("x", "text/html"), false),
    ] {
        assert_eq!(can_receive(method, &headers(&[line])), can, "{method} {line:?}");
    }
}

#[test]
fn the_cookie_stands_on_no_error_and_on_nothing_that_others_may_be_given() {
    let none: &[(&str, &str)] = &[];
    for (status, lines, may) in [
        (200, none, true),
        (303, none, true),
        (404, none, false),
        (500, none, false),
        (200, &[("set-cookie", "key=theirs; Path=/")], false),
        (200, &[("set-cookie", "key2=theirs"), ("set-cookie", "xkey=theirs")], true),
        (200, &[("cache-control", "public")], false),
        (200, &[("cache-control", "no-cache, Public")], false),
        (200, &[("cache-control", "s-maxage=60, private")], false),
        (200, &[("cache-control", "max-age=60")], false),
        (200, &[("cache-control", "no-cache"), ("cache-control", "max-age=60")], false),
        (200, &[("cache-control", "max-age=60, private")], true),
        (200, &[("cache-control", "private=\"set-cookie\", max-age=60")], false),
        (200, &[("cache-control", "max-age=0, must-revalidate")], true),
        (200, &[("cache-control", "no-store, max-age=60")], true),
        (200, &[("cdn-cache-control", "max-age=60")], false),
        (200, &[("cache-control", "max-age=0"), ("vercel-cdn-cache-control", "max-age=60")], false),
        (200, &[("surrogate-control", "max-age=60")], false),
        (200, &[("cdn-cache-control", "no-store")], true),
        // What is quoted is one value, whatever is in it (RFC 9110 section 5.6.4).
        (200, &[("cache-control", "ext=\"a, no-store, b\", public, max-age=60")], false),
        (200, &[("cache-control", "ext=\"a, private\", max-age=60")], false),
        (200, &[("cache-control", "ext=\"a\\\", no-store, b\", public")], false),
        (200, &[("cache-control", "ext=\"a, public, b\", no-cache")], true),
        (200, &[("cache-control", "ext=\"a\\\", public, b\"")], true),
        (200, &[("cache-control", "public, no-store=\"a\"")], true),
        (200, &[("cache-control", "private=\"a, b\", max-age=\"60\"")], false),
        // Whoever cannot be understood may be understood otherwise by a cache.
        (200, &[("cache-control", "ext=\"a, no-store")], false),
        (200, &[("cache-control", "no-store, ext=\"a")], false),
        (200, &[("cache-control", "ext=\"a\\\"")], false),
        (200, &[("cache-control", "private"), ("cache-control", "x=\"")], false),
        (200, &[("cdn-cache-control", "no-store, x=\"")], false),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(may_set(status, &headers(lines), "key"), may, "{status} {lines:?}");
    }
}

#[test]
fn an_answer_says_itself_whether_it_is_private_and_varies() {
    for (value, private) in [
        ("private", true),
        ("no-store", true),
        ("private=\"x\"", false),
        ("no-cache", false),
        ("", false),
        ("x=\"a, private\"", false),
        ("x=\"a, b\", private", true),
        ("private, x=\"", false),
    ] {
        assert_eq!(is_private(&headers(&[("cache-control", value)])), private, "{value}");
    }
    for (value, varies) in
        [("cookie", true), ("Accept, Cookie", true), ("*", true), ("accept", false), ("cookies", false)]
    {
        assert_eq!(varies_by_cookie(&headers(&[("vary", value)])), varies, "{value}");
    }
}

#[test]
fn a_cookie_whose_name_wants_https_is_kept_over_https_alone() {
    for name in
        ["__Host-vk", "__Secure-vk", "__HOST-vk", "__secure-vk", "__Host-", "__Http-vk", "__Host-Http-vk"]
    {
        assert!(wants_https(name) && is_kept(name, true) && !is_kept(name, false), "{name}");
    }
    for name in ["vk", "_Host-vk", "__Hostvk", "__Host_vk", "x__Host-vk", "__Secure", "Host-vk"] {
        assert!(!wants_https(name) && is_kept(name, true) && is_kept(name, false), "{name}");
    }
}

#[test]
fn names_of_sessions_are_known() {
    for name in ["session_id", "PHPSESSID", "JSESSIONID", "connect.sid", "sid", "auth_token", "_app_session"]
    {
        assert!(looks_like_a_session(name), "{name}");
    }
    for name in ["version-key", "gradual", "inside", "ab_group"] {
        assert!(!looks_like_a_session(name), "{name}");
    }
}

/// Whether a part of a line is the cookie `k`.
fn is_k(part: &str) -> bool {
    part.split_once('=').is_some_and(|(name, _)| name.trim_matches([' ', '\t']) == "k")
}

proptest! {
    #[test]
    fn whatever_a_cookie_line_is_a_key_that_is_found_in_it_is_valid(
        lines in prop::collection::vec("[ -~]{0,40}|([ky];?=?){0,20}", 0..4),
    ) {
        let lines: Vec<_> = lines.iter().map(|line| ("cookie", line.as_str())).collect();
        let headers = headers(&lines);
        if let Some(found) = find(&headers, "k") {
            prop_assert!(is_valid(found));
        }
        for (_, line) in lines {
            if let Some(left) = without(line.as_bytes(), "k") {
                prop_assert_eq!(without(&left, "k"), None);
                let others = |line: &str| {
                    let parts = line.split(';').map(|part| part.trim_matches([' ', '\t']).to_owned());
                    let other = |part: &String| !part.is_empty() && !is_k(part);
                    parts.filter(other).collect::<Vec<_>>()
                };
                prop_assert_eq!(others(&String::from_utf8(left).unwrap()), others(line));
            }
        }
    }
}

//! The expressions of Cloudflare's documentation of version affinity, word for word.

use super::get;

#[test]
fn a_cookie_of_a_user_or_session_is_the_key() {
    for (filter, value) in [
        ("http.cookie contains \"user_id\"", "http.request.cookies[\"user_id\"][0]"),
        ("http.cookie contains \"session_id\"", "http.request.cookies[\"session_id\"][0]"),
        ("http.cookie contains \"version-key\"", "http.request.cookies[\"version-key\"][0]"),
    ] {
        let name = value.split('"').nth(1).unwrap();
        let request = get("/").with("cookie", format!("a=b; {name}=u-123; c=d"));
        assert!(request.matches(filter));
        assert_eq!(request.value(value).unwrap(), b"u-123");
        let other = get("/").with("cookie", format!("my_{name}=u-123"));
        assert!(other.matches(filter));
        assert_eq!(other.value(value), None);
        assert!(!get("/").matches(filter));
    }
}

#[test]
fn the_address_of_the_client_is_the_key() {
    assert!(get("/").matches("true"));
    assert_eq!(get("/").value("ip.src").unwrap(), b"203.0.113.7");
}

#[test]
fn a_part_of_the_path_is_the_key() {
    let filter = "starts_with(http.request.uri.path, \"/asset/\")";
    let value = "regex_replace(http.request.uri.path, \"/asset/(.*)\", \"${1}\")";
    let request = get("/asset/img/logo.png");
    assert!(request.matches(filter));
    assert_eq!(request.value(value).unwrap(), b"img/logo.png");
    assert!(!get("/other").matches(filter));
    assert_eq!(get("/asset/").value(value).unwrap(), b"");
    assert_eq!(get("/other").value(value).unwrap(), b"/other");
}

#[test]
fn the_examples_of_arrays_and_maps_hold() {
    let request = get("/?filter=waf&filter=botm&filter=cdn").with("accept", "application/json");
    for (expression, result) in [
        (r#"http.request.headers["accept"]"#, r#"["application/json"]"#),
        (r#"http.request.headers["accept"][0]"#, r#""application/json""#),
        (r#"any(http.request.headers["accept"][*] == "application/json")"#, "true"),
        (r#"any(http.request.headers["accept"][*] == "text/plain")"#, "false"),
        (r#"http.request.uri.args["filter"]"#, r#"["waf", "botm", "cdn"]"#),
        (r#"len(http.request.uri.args["filter"][1])"#, "4"),
        (r#"all(len(http.request.uri.args["filter"][*])[*] in {3 4})"#, "true"),
        (r#"all(not len(http.request.uri.args["filter"][*])[*] in {3 4})"#, "false"),
        (r#"len(http.request.uri.args["filter"]) >= 0"#, "true"),
        (r#"not len(http.request.uri.args["order"]) >= 0"#, "true"),
        (r#"any(lower(http.request.headers.names[*])[*] == "accept")"#, "true"),
        ("any(len(http.request.headers.values[*])[*] gt 10)", "true"),
        (r#"http.request.uri.args"#, r#"{"filter": ["waf", "botm", "cdn"]}"#),
    ] {
        assert_eq!(request.shows(expression), result, "{expression}");
    }
}

#[test]
fn a_long_nested_example_is_taken() {
    let filter = r#"(
 (http.host eq "api.example.com" and http.request.uri.path eq "/api/v2/auth") or
 (http.host matches "^(www|store|blog)\.example\.com" and http.request.uri.path contains "wp-login.php") or
 http.request.method in {"CN" "TH"} or http.request.timestamp.msec in {12345 54321 11111}
) and not ip.src in {11.22.33.0/24}"#;
    assert!(get("/wp-login.php").matches(filter));
    assert!(!get("/wp-login").matches(filter));
}

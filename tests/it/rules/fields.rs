//! Every field.

use super::get;

#[test]
fn every_field_says_what_the_request_says() {
    let request = get("/Articles/Index.HTML?section=5&b")
        .with("host", "ignored.example")
        .with("referer", "https://r.example/")
        .with("user-agent", "UA/1")
        .with("x-forwarded-for", "203.0.113.195")
        .with("x-forwarded-for", "70.41.3.18")
        .with("accept-language", "fr-CH, fr;q=0.8, en;q=0.9, de;q=0.7, *;q=0.5");
    for (field, value) in [
        ("http.cookie", "\"\""),
        ("http.host", "\"www.example.com\""),
        ("http.referer", "\"https://r.example/\""),
        ("http.user_agent", "\"UA/1\""),
        ("http.x_forwarded_for", "\"203.0.113.195, 70.41.3.18\""),
        ("http.request.method", "\"GET\""),
        ("http.request.version", "\"HTTP/1.1\""),
        ("http.request.full_uri", "\"https://www.example.com/Articles/Index.HTML?section=5&b\""),
        ("http.request.uri", "\"/Articles/Index.HTML?section=5&b\""),
        ("http.request.uri.path", "\"/Articles/Index.HTML\""),
        ("http.request.uri.path.extension", "\"html\""),
        ("http.request.uri.query", "\"section=5&b\""),
        ("http.request.uri.args", r#"{"b": [""], "section": ["5"]}"#),
        ("http.request.uri.args.names", r#"["section", "b"]"#),
        ("http.request.uri.args.values", r#"["5", ""]"#),
        ("http.request.headers.truncated", "false"),
        ("http.request.headers.names[1]", "\"referer\""),
        ("http.request.headers.values[1]", "\"https://r.example/\""),
        ("http.request.accepted_languages", r#"["fr-CH", "en", "fr", "de"]"#),
        ("http.request.timestamp.sec", "1795233600"),
        ("http.request.timestamp.msec", "123"),
        ("ip.src", "203.0.113.7"),
        ("ssl", "true"),
        ("raw.http.request.full_uri", "\"https://www.example.com/Articles/Index.HTML?section=5&b\""),
        ("raw.http.request.uri", "\"/Articles/Index.HTML?section=5&b\""),
        ("raw.http.request.uri.path", "\"/Articles/Index.HTML\""),
        ("raw.http.request.uri.path.extension", "\"html\""),
        ("raw.http.request.uri.query", "\"section=5&b\""),
        (r#"raw.http.request.uri.args["section"][0]"#, "\"5\""),
        ("raw.http.request.uri.args.names[0]", "\"section\""),
        (r#"raw.http.request.headers["host"][0]"#, "\"ignored.example\""),
        ("cf.ray_id", "\"0000000000000abc\""),
        ("encode_base64(cf.random_seed)", "\"ABEiM0RVZneImaq7zN3u/w\""),
    ] {
        assert_eq!(request.shows(field), value, "{field}");
    }
}

#[test]
fn fields_without_a_value_are_empty_and_not_missing() {
    let mut request = get("/");
    for field in ["http.cookie", "http.referer", "http.user_agent", "http.request.uri.query"] {
        assert_eq!(request.shows(field), "\"\"", "{field}");
    }
    assert_eq!(request.shows("http.request.accepted_languages[0]"), "missing");
    assert_eq!(request.shows("http.request.uri.args"), "{}");
    request.client = None;
    assert_eq!(request.shows("ip.src"), "missing");
    request.path = "*".into();
    request.https = false;
    assert_eq!(request.shows("http.request.full_uri"), "\"http://www.example.com\"");
    request.version = http::Version::HTTP_2;
    assert_eq!(request.shows("http.request.version"), "\"HTTP/2\"");
}

#[test]
fn the_extension_is_that_of_the_last_segment() {
    for (path, extension) in [
        ("/foo", ""),
        ("/foo.mp3", "mp3"),
        ("/.mp3", ""),
        ("/.foo.mp3", "mp3"),
        ("/foo.tar.bz2", "bz2"),
        ("/foo.", ""),
        ("/foo.MP3", "mp3"),
        ("/a.b/c", ""),
        ("*", ""),
        ("", ""),
    ] {
        assert_eq!(
            get(path).value("http.request.uri.path.extension").unwrap(),
            extension.as_bytes(),
            "{path}"
        );
    }
}

#[test]
fn cookies_are_found_however_they_are_sent() {
    let cookie = |line: &[u8]| get("/").with("cookie", line).shows(r#"http.request.cookies["user_id"]"#);
    for (line, values) in [
        (&b"user_id=1"[..], r#"["1"]"#),
        (b"a=b;user_id=1;c=d", r#"["1"]"#),
        (b"user_id=1; user_id=2", r#"["1", "2"]"#),
        (b"user%5Fid=1; user_id=2", r#"["1", "2"]"#),
        (b"user_id=a=b%20c+d", r#"["a=b%20c+d"]"#),
        (b"user_id=\"q\"", r#"["\"q\""]"#),
        (b" \t user_id =\t1 ;", r#"["1"]"#),
        (b"user_id=", r#"[""]"#),
        (b"user_id", "missing"),
        (b"my_user_id=1", "missing"),
        (b"USER_ID=1", "missing"),
        (b"user%5=1; user%zzid=2; %=3; user_id=\xff\xfe", r#"["\xff\xfe"]"#),
        (b"=x; ;; =; user_id=1", r#"["1"]"#),
        (b"", "missing"),
    ] {
        assert_eq!(cookie(line), values, "{}", line.escape_ascii());
    }
    let crumbs = get("/").with("cookie", "a=1").with("cookie", "user_id=2").with("cookie", "a=3");
    assert_eq!(crumbs.shows("http.cookie"), "\"a=1; user_id=2; a=3\"");
    assert_eq!(crumbs.shows("http.request.cookies"), r#"{"a": ["1", "3"], "user_id": ["2"]}"#);
    assert_eq!(crumbs.shows(r#"http.request.cookies["a"][1]"#), "\"3\"");
    assert_eq!(crumbs.shows(r#"http.request.cookies["a"][2]"#), "missing");
}

#[test]
fn cookies_of_any_size_are_searched() {
    let long = "x".repeat(8192);
    let request = get("/").with("cookie", format!("{long}; a={long}; {}user_id=u", "b=;".repeat(20_000)));
    assert_eq!(request.value(r#"http.request.cookies["user_id"][0]"#).unwrap(), b"u");
    assert!(request.matches(r#"len(http.request.cookies["a"][0]) == 8192"#));
    assert!(request.matches("any(len(http.request.cookies[*])[*] == 20000)"));
}

#[test]
fn arguments_are_as_sent() {
    let request = get("/?search=red+apples&x=%41&&e&e=&=v&k=a=b");
    for (expression, value) in [
        (r#"http.request.uri.args["search"]"#, r#"["red+apples"]"#),
        (r#"http.request.uri.args["x"][0]"#, r#""%41""#),
        (r#"http.request.uri.args["e"]"#, r#"["", ""]"#),
        (r#"http.request.uri.args["k"][0]"#, r#""a=b""#),
        (r#"http.request.uri.args[""][0]"#, r#""v""#),
        ("http.request.uri.args.names", r#"["search", "x", "e", "e", "", "k"]"#),
    ] {
        assert_eq!(request.shows(expression), value, "{expression}");
    }
}

#[test]
fn languages_are_sorted_by_weight_and_then_as_sent() {
    let languages =
        |line: &str| get("/").with("accept-language", line).shows("http.request.accepted_languages");
    for (line, expected) in [
        ("a, b, c", r#"["a", "b", "c"]"#),
        ("a;q=0.1,b;q=0.123,c;q=1.000", r#"["c", "b", "a"]"#),
        ("a;q=0, b;q=0.000, *, , c ; q=0.5", r#"["c"]"#),
        ("a;x=y;q=0.5, b;q=0.6", r#"["b", "a"]"#),
        ("a;q=nan, b;q=2, c;q=-1, d;q=0.1234, e;Q=1", r#"["e"]"#),
        ("", "[]"),
    ] {
        assert_eq!(languages(line), expected, "{line}");
    }
}

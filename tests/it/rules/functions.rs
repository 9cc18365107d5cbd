//! Every function.

use super::get;

const X: &str = r#"http.request.headers["x"][0]"#;

/// What a function gives for a header `x`, where `X` stands for it.
fn of(x: &str, expression: &str) -> String {
    get("/").with("x", x).shows(&expression.replace('X', X))
}

#[test]
fn functions_give_what_is_documented() {
    for (x, expression, result) in [
        ("WWW.Cloudflare.com", "lower(X)", "\"www.cloudflare.com\""),
        ("www.cloudflare.com", "upper(X)", "\"WWW.CLOUDFLARE.COM\""),
        ("É", "lower(X)", "\"\\xc3\\x89\""),
        ("example.com", "len(X)", "11"),
        ("/blog/first", "starts_with(X, \"/blog\")", "true"),
        ("/blog", "starts_with(X, \"/blog/\")", "false"),
        ("/welcome.html", "ends_with(X, \".html\")", "true"),
        ("String1", "concat(X, \" \", \"String\", \"2\")", "\"String1 String2\""),
        ("a", "concat(X, 1, ssl, ip.src)", "\"a1true203.0.113.7\""),
        ("a", "concat(http.request.headers[\"no\"][0], X)", "\"a\""),
        ("a", "concat(http.request.headers[\"no\"][0], http.request.headers[\"no\"][1])", "missing"),
        (
            "a",
            "concat(http.request.headers[\"x\"], http.request.headers[\"no\"], http.request.headers[\"x\"])",
            "[\"a\", \"a\"]",
        ),
        ("asdfghjk", "substring(X, 2, 5)", "\"dfg\""),
        ("asdfghjk", "substring(X, 2)", "\"dfghjk\""),
        ("asdfghjk", "substring(X, -2)", "\"jk\""),
        ("asdfghjk", "substring(X, 0, -2)", "\"asdfgh\""),
        ("asdf", "substring(X, 3, 2)", "\"\""),
        ("asdf", "substring(X, 9)", "\"\""),
        ("asdf", "substring(X, -9, 99)", "\"asdf\""),
        ("asdf", "substring(X, len(X))", "\"\""),
        ("asdf", "substring(X, -9223372036854775808, 9223372036854775807)", "\"asdf\""),
        ("/foo/bar", "regex_replace(X, \"/bar$\", \"/baz\")", "\"/foo/baz\""),
        ("/x", "regex_replace(X, \"^/y$\", \"/mumble\")", "\"/x\""),
        ("/foo", "regex_replace(X, \"^/FOO$\", \"/x\")", "\"/foo\""),
        ("/a/a", "regex_replace(X, \"/a\", \"/b\")", "\"/b/a\""),
        ("/b", "regex_replace(X, \"^/b$\", \"/b$$\")", "\"/b$\""),
        ("/foo/a/path", "regex_replace(X, \"^/foo/([^/]*)/(.*)$\", \"/bar/${2}/${1}\")", "\"/bar/path/a\""),
        ("ab", "regex_replace(X, \"(c)?b\", \"[${1}]\")", "\"a[]\""),
        ("a\\b", "regex_replace(X, \"\\\\\\\\\", \"c\")", "\"acb\""),
        ("a\\b", "regex_replace(X, r\"\\\\\", \"c\")", "\"acb\""),
        ("a", "regex_replace(X, \"a\", \"\\\\\")", "\"\\\\\""),
        ("/calendar", "wildcard_replace(X, \"/*\", \"/apps/${1}\")", "\"/apps/calendar\""),
        ("/Apps/calendar", "wildcard_replace(X, \"/apps/*\", \"/${1}\")", "\"/calendar\""),
        ("/Apps/calendar", "wildcard_replace(X, \"/apps/*\", \"/${1}\", \"s\")", "\"/Apps/calendar\""),
        (
            "/apps/calendar/login",
            "wildcard_replace(X, \"/apps/*/login\", \"/${1}/login\")",
            "\"/calendar/login\"",
        ),
        (
            "https://apps.example.com/calendar/admin?expand=true",
            "wildcard_replace(X, \"https://*.example.com/*/*\", \"https://example.com/${1}/${2}/${3}\")",
            "\"https://example.com/apps/calendar/admin?expand=true\"",
        ),
        ("John%20Doe", "url_decode(X)", "\"John Doe\""),
        ("John+Doe", "url_decode(X)", "\"John Doe\""),
        ("%2520", "url_decode(X)", "\"%20\""),
        ("%2520", "url_decode(X, \"r\")", "\" \""),
        ("%E4%BD", "url_decode(X)", "\"\\xe4\\xbd\""),
        ("%u2601", "url_decode(X, \"u\")", "\"\\xe2\\x98\\x81\""),
        ("%u2601", "url_decode(X)", "\"%u2601\""),
        ("%uD83D%uDE00%uD83D", "url_decode(X, \"ur\")", "\"\\xf0\\x9f\\x98\\x80%uD83D\""),
        ("%zz%4%", "url_decode(X, \"ru\")", "\"%zz%4%\""),
        (
            "groceries,electronics,diy,auto",
            "split(X, \",\", 64)",
            "[\"groceries\", \"electronics\", \"diy\", \"auto\"]",
        ),
        (
            "groceries,electronics,diy,auto",
            "split(X, \",\", 3)",
            "[\"groceries\", \"electronics\", \"diy,auto\"]",
        ),
        ("groceries,,electronics", "split(X, \",\", 64)", "[\"groceries\", \"\", \"electronics\"]"),
        ("a,b", "split(X, \",\", 1)", "[\"a,b\"]"),
        ("a, b", "split(X, \", \", 9)[1]", "\"b\""),
        ("a,b", "join(split(X, \",\", 9), \"--\")", "\"a--b\""),
        ("a", "join(http.request.headers[\"no\"], \",\")", "missing"),
        ("a", "join(http.request.uri.args.names, \",\")", "\"\""),
        ("5", "to_string(http.request.timestamp.msec)", "\"123\""),
        ("5", "to_string(ssl)", "\"true\""),
        ("5", "to_string(ip.src)", "\"203.0.113.7\""),
        ("5", "to_string(http.host == \"a\")", "\"false\""),
        ("MTIzYWJj", "decode_base64(X)", "\"123abc\""),
        ("MTIzYQ==", "decode_base64(X)", "\"123a\""),
        ("MTIzYQ", "decode_base64(X)", "\"123a\""),
        ("-_8", "decode_base64(X)", "\"\\xfb\\xff\""),
        ("+/8=", "decode_base64(X)", "\"\\xfb\\xff\""),
        ("!", "decode_base64(X)", "missing"),
        ("123a", "encode_base64(X)", "\"MTIzYQ\""),
        ("123a", "encode_base64(X, \"p\")", "\"MTIzYQ==\""),
        ("~~~?", "encode_base64(X, \"up\")", "\"fn5-Pw==\""),
        ("abc", "encode_base64(sha256(X))", "\"ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0\""),
        ("", "uuidv4(cf.random_seed)", "\"00112233-4455-4677-8899-aabbccddeeff\""),
        ("", "uuidv4(sha256(\"abc\"))", "\"ba7816bf-8f01-4fea-8141-40de5dae2223\""),
        ("www.cloudflare.com", "remove_bytes(X, \"\\x2e\\x77\")", "\"cloudflarecom\""),
        ("", "cidr(ip.src, 24, 24)", "203.0.113.0"),
        ("", "cidr(ip.src, 32, 24)", "203.0.113.7"),
        ("", "cidr6(ip.src, 24)", "203.0.113.7"),
    ] {
        assert_eq!(of(x, expression), result, "{expression} of {x}");
    }
}

#[test]
fn networks_of_ipv6_are_cut_too() {
    let mut request = get("/");
    request.client = Some("2001:0000:130F:0000:0000:09C0:876A:130B".parse().unwrap());
    assert_eq!(request.shows("cidr(ip.src, 24, 24)"), "2001::");
    assert_eq!(request.shows("cidr6(ip.src, 128)"), "2001:0:130f::9c0:876a:130b");
    assert!(request.matches("cidr6(ip.src, 48) == 2001:0:130f::"));
    assert_eq!(request.value("cidr6(ip.src, 1)").unwrap(), b"::");
}

#[test]
fn arguments_are_removed_from_the_query() {
    for (query, names, left) in [
        ("order=asc&country=GB", "\"country\"", "order=asc"),
        ("order=asc&country=GB", "\"order\"", "country=GB"),
        ("order=asc&country=GB", "\"search\"", "order=asc&country=GB"),
        ("category=Foo&order=desc&category=Bar", "\"order\"", "category=Foo&category=Bar"),
        ("category=Foo&order=desc&category=Bar", "\"category\"", "order=desc"),
        ("a&b=1&c", "\"a\", \"c\"", "b=1"),
        ("a=1", "\"a\"", ""),
    ] {
        let expression = format!("remove_query_args(http.request.uri.query, {names})");
        let found = get(&format!("/?{query}")).value(&expression).unwrap();
        assert_eq!(found, left.as_bytes(), "{query} {names}");
    }
}

#[test]
fn json_is_looked_into() {
    for (json, call, result) in [
        (r#"{"record_id":"aed53a","version":2}"#, r#"integer(X, "version")"#, "2"),
        (r#"{"product":{"id":356}}"#, r#"integer(X, "product", "id")"#, "356"),
        (r#"["first_item", -234]"#, "integer(X, 1)", "-234"),
        (r#"{"network_ids":[123,456]}"#, r#"integer(X, "network_ids", 0)"#, "123"),
        (r#"[{"product_id":123},{"product_id":456}]"#, r#"integer(X, 1, "product_id")"#, "456"),
        (r#"{"a":42.0}"#, r#"integer(X, "a")"#, "missing"),
        (r#"{"a":1e3}"#, r#"integer(X, "a")"#, "missing"),
        (r#"{"a":9223372036854775808}"#, r#"integer(X, "a")"#, "missing"),
        (r#"{"a":"1"}"#, r#"integer(X, "a")"#, "missing"),
        (r#"{"company":"cloudflare"}"#, r#"string(X, "company")"#, "\"cloudflare\""),
        (r#"{"network":{"name":"cloudflare"}}"#, r#"string(X, "network", "name")"#, "\"cloudflare\""),
        (r#"["other","cloudflare"]"#, "string(X, 1)", "\"cloudflare\""),
        (r#"["other","cloudflare"]"#, "string(X, 2)", "missing"),
        (r#"["other","cloudflare"]"#, "string(X, \"1\")", "missing"),
        (r#"{"a":"x\n\u00e9"}"#, r#"string(X, "a")"#, "\"x\\x0a\\xc3\\xa9\""),
        (r#"{"a":"1","a":"2"}"#, r#"string(X, "a")"#, "\"2\""),
        (r#"{"\u0061":"1"}"#, r#"string(X, "a")"#, "\"1\""),
        (r#"{"a":null,"b":[true,{}]}"#, r#"string(X, "a")"#, "missing"),
        (r#"{"a":"1"} x"#, r#"string(X, "a")"#, "missing"),
        (r#"{"a":"1""#, r#"string(X, "a")"#, "missing"),
        ("", r#"string(X, "a")"#, "missing"),
    ] {
        assert_eq!(of(json, &format!("lookup_json_{call}")), result, "{call} of {json}");
    }
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(of(&deep, "lookup_json_integer(X, 0)"), "missing");
}

#[test]
fn a_function_of_a_missing_value_is_missing() {
    for call in [
        "lower(M)",
        "len(M)",
        "substring(M, 1)",
        "url_decode(M)",
        "split(M, \",\", 2)",
        "sha256(M)",
        "regex_replace(M, \"a\", \"b\")",
        "decode_base64(M)",
        "encode_base64(M)",
        "remove_bytes(M, \"a\")",
        "starts_with(M, \"a\")",
        "starts_with(http.host, M)",
        "lookup_json_string(M, 0)",
        "join(split(M, \",\", 1), \"\")",
    ] {
        let call = call.replace('M', r#"http.request.headers["no"][0]"#);
        assert_eq!(get("/").shows(&call), "missing", "{call}");
    }
    let mut unix = get("/");
    unix.client = None;
    assert_eq!(unix.shows("cidr6(ip.src, 64)"), "missing");
    assert_eq!(unix.value("ip.src"), None);
}

#[test]
fn results_and_work_are_bounded() {
    let request =
        get("/").with("x", "%25".repeat(20_000)).with("cookie", "c=".to_owned() + &"y".repeat(60_000));
    let many = (0..10_000).fold(request, |request, _| request.with("many", "x"));
    // Longer than 64 KiB.
    assert_eq!(many.value("concat(http.cookie, http.cookie)"), None);
    assert_eq!(many.value("join(http.request.headers.values, http.cookie)"), None);
    assert_eq!(many.value(r#"regex_replace(http.cookie, "(.*)", "${1}${1}")"#), None);
    // More than 4 MiB in all, though each result is short enough.
    assert!(
        !many.matches(r#"any(concat(http.request.headers.values[*], http.cookie)[*] contains "nothing")"#)
    );
    // What only shrinks is as long as it may be.
    assert_eq!(many.value(r#"url_decode(http.request.headers["x"][0])"#).unwrap().len(), 20_000);
    let slow = format!("%{}", "25".repeat(30_000));
    assert!(get("/").with("x", slow).matches(&format!(r#"len(url_decode({X}, "r")) > 30000"#)));
}

#[test]
fn what_the_groups_of_a_pattern_have_matched_is_work_too() {
    let many = get(&format!("/?{}", "a&".repeat(32 * 1024)));
    let replaced = |groups: usize| {
        let pattern = "()".repeat(groups);
        format!("len(regex_replace(http.request.uri.args.names[*], \"{pattern}\", \"x\"))")
    };
    assert!(many.matches(&format!("{} == 32768", replaced(1))));
    // Each takes 16 bytes for each group, and one more.
    assert!(many.matches(&format!("{} in {{1..4096}}", replaced(200))));
}

/// So many conditions joined with `and`.
fn times(condition: &str, count: usize) -> String {
    vec![condition; count].join(" and ")
}

#[test]
fn arrays_of_the_request_are_work_too() {
    // 32 Ki entries of 24 bytes each: a few such arrays are more than 4 MiB.
    let many = get(&format!("/?{}", "a&".repeat(32 * 1024)))
        .with("cookie", "a=;".repeat(20 * 1024))
        .with("accept-language", "de,".repeat(20 * 1024));
    let lines = (0..2000).fold(get("/"), |request, _| {
        request.with("cookie", "a=b").with("x-forwarded-for", "y".repeat(30)).with("referer", "z".repeat(30))
    });
    for (request, present) in [
        (&many, "any(http.request.cookies[*][*] == \"\")"),
        (&many, "len(http.request.cookies[\"a\"]) > 0"),
        (&many, "any(http.request.uri.args[*][*] == \"\")"),
        (&many, "len(http.request.uri.args.names) > 0"),
        (&many, "len(http.request.uri.args.values) > 0"),
        (&many, "len(http.request.accepted_languages) > 0"),
        (&many, "all(http.request.uri.args.names[*] == \"a\" or http.request.uri.args.names[*] == \"b\")"),
        (&many, "len(http.request.full_uri) > 0"),
        (&many, "len(http.request.uri) > 0"),
        (&lines, "len(http.x_forwarded_for) > 0"),
        (&lines, "len(http.referer) > 0"),
        (&lines, "len(http.request.headers.names) > 0"),
    ] {
        assert!(request.matches(present), "{present}");
        let more = (4096 / (present.len() + 5)).min(100);
        let exhausted = times(present, more);
        let all = present.starts_with("all");
        // Of a missing array `all` is true, and the work is done all the same: the next is missing.
        let exhausted = if all { format!("{exhausted} and len(http.request.uri) > 0") } else { exhausted };
        assert!(!request.matches(&exhausted), "{present}");
    }
    // What needs no array is no such work.
    for free in [
        "http.request.cookies[\"a\"][0] == \"\"",
        "http.request.uri.args[\"a\"][9] == \"\"",
        "http.cookie contains \"a\"",
    ] {
        assert!(many.matches(&times(free, 70)), "{free}");
    }
}

#[test]
fn a_recursive_decoding_costs_its_length_once() {
    let slow = get("/").with("x", format!("%{}", "25".repeat(30_000)));
    assert!(slow.matches(&times(&format!(r#"len(url_decode({X}, "r")) > 30000"#), 50)));
}

#[test]
fn decoding_in_place_gives_what_is_documented() {
    for (x, flags, result) in [
        ("%25252541", "", "\"%252541\""),
        ("%25252541", "r", "\"A\""),
        ("a%2", "r", "\"a%2\""),
        ("%", "r", "\"%\""),
        ("%%3431", "", "\"%431\""),
        ("%%3431", "r", "\"C1\""),
        ("a+b%2B+", "", "\"a b+ \""),
        ("a+b%2B+", "r", "\"a b  \""),
        ("%u00e9%uD83D%uDE00%ud83dx", "u", "\"\\xc3\\xa9\\xf0\\x9f\\x98\\x80%ud83dx\""),
        ("%25u0041%u0042", "ru", "\"AB\""),
        ("%u0041", "", "\"%u0041\""),
        ("", "r", "\"\""),
    ] {
        assert_eq!(of(x, &format!("url_decode(X, \"{flags}\")")), result, "{x} {flags}");
    }
}

#[test]
fn no_result_is_longer_than_64_kib_unless_it_is_no_longer_than_what_it_was_made_of() {
    let long = get("/").with("x", "y".repeat(50_000));
    assert_eq!(long.value(&format!("encode_base64({X})")), None);
    assert_eq!(
        get("/").with("x", "y".repeat(48 * 1024)).value(&format!("encode_base64({X})")).unwrap().len(),
        65_536
    );
    let many = (0..2000).fold(get("/"), |request, _| request.with("many", "x"));
    let names = "http.request.headers.names";
    assert_eq!(many.shows(&format!("len({names})")), "2000");
    assert_eq!(many.shows(&format!("len(concat({names}, {names}))")), "missing");
    let more = (0..2000).fold(many, |request, _| request.with("many", "x"));
    let nothing = "http.request.headers[\"no\"]";
    assert_eq!(more.shows(&format!("len(concat({names}, {nothing}))")), "4000");
}

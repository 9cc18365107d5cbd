//! Operators, literals and precedence.

use super::get;

#[track_caller]
fn all(request: &super::Sample, filters: &[(&str, bool)]) {
    for (filter, expected) in filters {
        assert_eq!(request.matches(filter), *expected, "{filter}");
    }
}

#[test]
fn every_operator_has_both_spellings() {
    let request = get("/shop/cart");
    all(
        &request,
        &[
            (r#"http.host eq "www.example.com""#, true),
            (r#"http.host == "WWW.example.com""#, false),
            (r#"http.host ne "a""#, true),
            (r#"http.host != "www.example.com""#, false),
            (r#"http.host lt "x""#, true),
            (r#"http.host < "www.example.com""#, false),
            (r#"http.host le "www.example.com""#, true),
            (r#"http.host <= "www""#, false),
            (r#"http.host gt "w""#, true),
            (r#"http.host > "x""#, false),
            (r#"http.host ge "www.example.com""#, true),
            (r#"http.host >= "x""#, false),
            ("http.request.timestamp.msec == 123", true),
            ("http.request.timestamp.msec != 0x7b", false),
            ("http.request.timestamp.msec eq 0173", true),
            ("http.request.timestamp.msec > -1", true),
            ("http.request.timestamp.msec in {1 5..200}", true),
            ("http.request.timestamp.msec in {1 200..5000}", false),
            (r#"http.request.uri.path contains "/cart""#, true),
            (r#"http.request.uri.path contains "/Cart""#, false),
            (r#"http.request.uri.path contains """#, true),
            (r#"http.request.uri.path matches "^/sh.p/""#, true),
            (r#"http.request.uri.path ~ "cart$""#, true),
            (r#"http.request.uri.path ~ "^cart""#, false),
            (r#"http.request.uri.path wildcard "/SHOP/*""#, true),
            (r#"http.request.uri.path wildcard "shop/*""#, false),
            (r#"http.request.uri.path strict wildcard "/shop/*""#, true),
            (r#"http.request.uri.path strict wildcard "/SHOP/*""#, false),
            (r#"http.request.method in {"GET" "HEAD"}"#, true),
            (r#"http.request.method in { "POST" r"PUT" }"#, false),
            ("ip.src == 203.0.113.7", true),
            ("ip.src ne 203.0.113.7", false),
            ("ip.src in {203.0.113.0/24}", true),
            ("ip.src in {2001:db8::/32 203.0.113.1..203.0.113.6}", false),
            ("ip.src in {203.0.113.1..203.0.113.7 10.0.0.0/8}", true),
        ],
    );
}

#[test]
fn logic_has_both_spellings_and_binds_not_and_xor_or() {
    all(
        &get("/"),
        &[
            ("ssl", true),
            ("not ssl", false),
            ("!ssl", false),
            ("! !ssl", true),
            ("not not not ssl", false),
            ("ssl and false", false),
            ("ssl && true", true),
            ("false or ssl", true),
            ("false || false", false),
            ("ssl xor true", false),
            ("ssl ^^ false", true),
            ("true or true and false", true),
            ("true xor true and false", true),
            ("true or true xor true", true),
            ("(true or true) xor true", false),
            ("true xor true xor true", true),
            ("not true or true", true),
            ("not (true or true)", false),
            (r#"not http.host == "a""#, true),
            ("not(ssl)and(true)", false),
            ("\tssl\r\n\tand\n true ", true),
        ],
    );
}

#[test]
fn strings_are_bytes_with_few_escapes() {
    let request = get("/").with("x", b"a\"b\\c\xff\n");
    let header = r#"http.request.headers["x"][0]"#;
    assert!(request.matches(&format!(r#"{header} == "a\"b\\c\xff\012""#)));
    assert!(request.matches(&format!(r#"{header} contains "\\""#)));
    assert!(request.matches(&format!(r#"{header} contains r"\""#)));
    assert!(request.matches(&format!(r####"{header} contains r#"a"b"#"####)));
    assert!(get("/é").matches(r#"http.request.uri.path == "/é""#));
    assert!(get("/x\"#y").matches(r###"http.request.uri.path contains r##""#"##"###));
}

#[test]
fn a_quoted_regex_keeps_its_backslashes() {
    let request = get("/a\"b.1");
    for (filter, expected) in [
        (r#"http.request.uri.path matches "\.\d$""#, true),
        (r#"http.request.uri.path matches "a\"b""#, true),
        (r#"http.request.uri.path matches "[^"]b""#, false),
        (r#"http.request.uri.path matches "["]b""#, true),
        (r##"http.request.uri.path matches r#"a"b\.\d"#"##, true),
        (r#"http.request.uri.path matches "^(?i)/A""#, true),
    ] {
        assert_eq!(request.matches(filter), expected, "{filter}");
    }
}

#[test]
fn regexes_are_over_bytes() {
    let request = get("/").with("x", b"\xff\xfeend");
    assert!(request.matches(r#"http.request.headers["x"][0] matches "^..end$""#));
    assert!(request.matches(r#"http.request.headers["x"][0] matches r"^\xff""#));
    assert!(!get("/\u{e9}").matches(r#"http.request.uri.path matches "\w""#));
    assert!(get("/\u{e9}").matches(r#"http.request.uri.path matches "(?u)\w""#));
}

#[test]
fn a_wildcard_is_for_the_whole_value() {
    for (path, pattern, matches) in [
        ("/a/b/c", "/a/*", true),
        ("/a", "/a*", true),
        ("/a", "*", true),
        ("/xa", "/a*", false),
        ("/a*b", r"/a\\*b", true),
        ("/axb", r"/a\\*b", false),
        ("/a.b", "/a?b", false),
        ("/a.c/page.html", "*.c/*/page.html", false),
        ("/a.c/x/y/page.html", "*.c/*/page.html", true),
        ("/A\nB", "/a*b", true),
    ] {
        let filter = format!("http.request.uri.path wildcard \"{pattern}\"");
        assert_eq!(get(path).matches(&filter), matches, "{path} {pattern}");
    }
}

#[test]
fn a_comparison_with_a_missing_value_is_false() {
    let missing = r#"http.request.headers["no"][0]"#;
    for test in [
        r#"== """#,
        r#"!= "a""#,
        r#"contains """#,
        r#"matches """#,
        r#"wildcard "*""#,
        r#"in {""}"#,
        r#"< "z""#,
    ] {
        assert!(!get("/").matches(&format!("{missing} {test}")), "{test}");
        assert!(get("/").matches(&format!("not {missing} {test}")), "{test}");
    }
    let mut unix = get("/");
    unix.client = None;
    for filter in ["ip.src == 1.2.3.4", "ip.src != 1.2.3.4", "ip.src in {0.0.0.0/0 ::/0}"] {
        assert!(!unix.matches(filter), "{filter}");
    }
    assert!(!get("/").matches(&format!("any({} == \"a\")", r#"http.request.headers["no"][*]"#)));
    assert!(get("/").matches(&format!("all({} == \"a\")", r#"http.request.headers["no"][*]"#)));
    assert!(!get("/").matches(&format!("starts_with({missing}, \"\")")));
}

#[test]
fn elements_are_asked_one_by_one() {
    let request = get("/?a=1&b=22&a=3").with("x-a", "1").with("x-a", "2");
    for (expression, result) in [
        (r#"any(http.request.headers["x-a"][*] == "2")"#, "true"),
        (r#"all(http.request.headers["x-a"][*] == "2")"#, "false"),
        (r#"any(http.request.uri.args.names[*] == "a" and http.request.uri.args.values[*] == "3")"#, "true"),
        (r#"any(http.request.uri.args.names[*] == "b" and http.request.uri.args.values[*] == "3")"#, "false"),
        (r#"any(http.request.uri.args.names[*] == "z" or http.request.uri.args.values[*] == "3")"#, "true"),
        (r#"all(http.request.uri.args.names[*] == "a" xor http.request.uri.args.values[*] == "22")"#, "true"),
        (r#"any(starts_with(http.request.uri.args.values[*], "2"))"#, "true"),
        (r#"any(http.request.uri.args[*][*] == "22")"#, "true"),
        (r#"any(http.request.uri.args[*][1] == "3")"#, "true"),
        (r#"any(len(http.request.uri.args[*])[*] == 2)"#, "true"),
        (r#"upper(concat(http.request.uri.args.names[*], "-")[*])"#, r#"["A-", "B-", "A-"]"#),
    ] {
        assert_eq!(request.shows(expression), result, "{expression}");
    }
}

#[test]
fn a_wildcard_is_of_any_bytes() {
    let request = get("/").with("x", b"\xff\xC3\xA9A*b");
    for (operator, pattern, matches) in [
        ("wildcard", r"\xff*", true),
        ("wildcard", r"\xfe*", false),
        ("wildcard", r"\xffé*", true),
        ("wildcard", r"*é\x61\\*B", true),
        ("wildcard", r"\xff\xe9*", false),
        ("strict wildcard", r"*éA\\*b", true),
        ("strict wildcard", r"*éa\\*b", false),
    ] {
        let filter = format!(r#"http.request.headers["x"][0] {operator} "{pattern}""#);
        assert_eq!(request.matches(&filter), matches, "{filter}");
    }
    let value = r#"wildcard_replace(http.request.headers["x"][0], "\xffé*\\*b", "${1}\xfe")"#;
    assert_eq!(request.value(value).unwrap(), b"A\xfe");
}

#[test]
fn addresses_of_ipv4_in_ipv6_form_are_of_ipv4() {
    let request = get("/");
    for (filter, matches) in [
        ("ip.src == ::ffff:203.0.113.7", true),
        ("ip.src == ::ffff:cb00:7107", true),
        ("ip.src != ::ffff:203.0.113.7", false),
        ("ip.src in {::ffff:0:0/96}", true),
        ("ip.src in {::ffff:203.0.113.0/120}", true),
        ("ip.src in {::ffff:203.0.114.0/120}", false),
        ("ip.src in {::ffff:203.0.113.1..203.0.113.9}", true),
        ("ip.src in {::1 ::ffff:203.0.113.8}", false),
        ("ip.src in {::/80}", false),
    ] {
        assert_eq!(request.matches(filter), matches, "{filter}");
    }
    let from = |address: &str| super::Sample { client: address.parse().ok(), ..get("/") };
    let sixth = from("::1");
    for (network, matches) in
        [("::/79", true), ("::/80", true), ("::/81", true), ("::/96", true), ("::fffe:0:0/95", false)]
    {
        assert_eq!(sixth.matches(&format!("ip.src in {{{network}}}")), matches, "{network}");
    }
    assert!(from("::fffe:1:2").matches("ip.src in {::fffe:0:0/95}"));
}

#[test]
fn nothing_is_in_an_empty_list() {
    let request = get("/");
    for value in ["http.host", "ip.src", "http.request.timestamp.msec", "http.request.headers[\"no\"][0]"] {
        assert!(!request.matches(&format!("{value} in {{}}")), "{value}");
        assert!(request.matches(&format!("not {value} in {{ }}")), "{value}");
    }
}

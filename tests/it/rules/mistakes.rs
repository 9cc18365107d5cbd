//! What is said about expressions that are none: where, what, and what to write instead.

use gradual::rules::{Expression, Filter, Mistake, Parsed};

use super::mistake;

/// A mistake as one line: the text at fault, and everything that is said.
fn said(text: &str, mistake: &Mistake) -> String {
    let parts =
        [Some(&mistake.title), Some(&mistake.label), mistake.expected.as_ref(), mistake.help.as_ref()];
    let said: Vec<_> = parts.into_iter().flatten().map(String::as_str).collect();
    format!("{text} | {}", said.join(" | "))
}

#[track_caller]
fn check(found: &str, at: &str, words: &[&str]) {
    assert!(found.starts_with(&format!("{at} | ")), "expected `{at}` at fault: {found}");
    for word in words {
        assert!(found.contains(word), "expected `{word}`: {found}");
    }
}

#[test]
fn a_filter_that_is_none_says_where_and_what_to_write() {
    for (filter, at, words) in [
        ("", "", &["empty"][..]),
        (" \t", " \t", &["empty"]),
        ("http.hots == \"a\"", "http.hots", &["unknown field", "did you mean `http.host`"]),
        ("ip.geoip.country == \"T1\"", "ip.geoip.country", &["unknown field", "Cloudflare's network"]),
        ("notssl", "notssl", &["unknown field"]),
        ("ssl AND ssl", "AND", &["lower case", "write `and`"]),
        ("NOT ssl", "NOT", &["lower case", "write `not`"]),
        ("http.host = \"a\"", "=", &["did you mean `==`"]),
        ("ssl & ssl", "&", &["did you mean `&&`"]),
        ("ssl | ssl", "|", &["did you mean `||`"]),
        ("http.host == 'a'", "'", &["double quotes"]),
        ("http.host == \u{201c}a\u{201d}", "\u{201c}", &["straight"]),
        ("\"a\" == http.host", "\"a\"", &["left side", "field first"]),
        ("1 == 1", "1", &["left side"]),
        ("203.0.113.1 == ip.src", "203.0.113.1", &["left side"]),
        ("http.host ends_with \"x\"", "ends_with", &["function", "write `ends_with(http.host, "]),
        ("http.host equals \"x\"", "equals", &["unknown operator"]),
        ("ssl and http.host contians \"x\"", "contians", &["did you mean `contains`"]),
        ("not http.host = \"a\"", "=", &["did you mean `==`"]),
        (
            "not http.host == \"a\" and http.host ends_with \"b\"",
            "ends_with",
            &["write `ends_with(http.host, "],
        ),
        ("ssl and http.host IN {\"a\"}", "IN", &["lower case", "write `in`"]),
        ("(http.host = \"a\")", "=", &["did you mean `==`"]),
        ("(ssl or http.host equals \"a\")", "equals", &["unknown operator"]),
        ("any(http.request.headers[\"a\"][*] = \"b\")", "=", &["did you mean `==`"]),
        ("(ssl) & ssl", "&", &["did you mean `&&`"]),
        ("((ssl) AND ssl)", "AND", &["write `and`"]),
        ("starts_with(http.host \"a\")", "\"", &["unexpected", "`)`"]),
        ("starts_with(http.host http.referer)", "http.referer", &["unexpected", "`)`"]),
        ("starts_with(http.host lower(http.referer))", "lower", &["unexpected", "`)`"]),
        ("http.host contain \"x\"", "contain", &["did you mean `contains`"]),
        ("ip.src == \"1.2.3.4\"", "\"", &["without quotes"]),
        ("ip.src in {\"1.2.3.4\"}", "\"", &["without quotes"]),
        ("ip.src in 203.0.113.0/24", "203.0.113.0/24", &["write `in {203.0.113.0/24}`"]),
        ("ip.src == 203.0.113.0/24", "203.0.113.0/24", &["a network", "write `in {203.0.113.0/24}`"]),
        ("ip.src in {203.0.113.1/24}", "203.0.113.1/24", &["bits set", "write `203.0.113.0/24`"]),
        ("ip.src in {1.2.3.0/33}", "1.2.3.0/33", &["not a network"]),
        ("ip.src in {1.2.3.4..1.2.3.3}", "1.2.3.4..1.2.3.3", &["wrong way round"]),
        ("ip.src in {1.2.3.4..::1}", "1.2.3.4..::1", &["families"]),
        ("ip.src in {1.2.3.4, 1.2.3.5}", ",", &["comma", "spaces"]),
        ("ip.src in {1.2.3.4", "{", &["`}` is missing"]),
        ("ip.src in {1.2.3.x}", "1.2.3.x", &["not an IP address"]),
        ("ip.src < 1.2.3.4", "<", &["does not go with an IP address", "in {"]),
        ("ip.src in $office", "$office", &["not configured"]),
        ("ip.src not in {1.2.3.4}", "not", &["stands before"]),
        ("http.host in {\"a\" 1}", "1", &["a string"]),
        ("http.host in {\"a\"\"b\"}", "\"", &["space is missing"]),
        ("http.host in (\"a\")", "(", &["braces"]),
        ("http.host in", "", &["missing", "braces"]),
        ("http.host == http.referer", "http.referer", &["literal, never a field"]),
        ("http.host == example", "example", &["write `\"example\"`"]),
        ("http.host ==", "", &["missing", "double quotes"]),
        ("http.host == \"a", "\"", &["does not end"]),
        ("http.host == r#\"a\"", "r#\"", &["does not end"]),
        ("http.host == \"\\d\"", "\\d", &["unknown escape", "raw string"]),
        ("http.host == \"\\x4\"", "\\x4", &["unknown escape"]),
        ("http.host == \"\\777\"", "\\777", &["unknown escape"]),
        ("http.host == 1", "1", &["a string"]),
        ("http.host", "http.host", &["this is a String", "a filter is a condition"]),
        ("ip.src", "ip.src", &["this is an IP address", "a filter is a condition"]),
        ("http.request.headers", "http.request.headers", &["this is a Map<Array<String>>"]),
        ("not http.host", "http.host", &["not a condition"]),
        ("ssl and http.host", "http.host", &["not a condition"]),
        ("(http.host)", "http.host", &["not a condition"]),
        ("ssl == true", "==", &["stands alone", "write `ssl` or `not ssl`"]),
        ("http.request.timestamp.sec == \"1\"", "\"", &["integer", "without quotes"]),
        ("http.request.timestamp.sec == 08", "08", &["not an integer"]),
        ("http.request.timestamp.sec == 9223372036854775808", "9223372036854775808", &["not an integer"]),
        ("http.request.timestamp.sec in {9..1}", "9..1", &["wrong way round"]),
        ("http.request.timestamp.sec contains \"1\"", "contains", &["does not go with an Integer"]),
        ("http.request.headers == \"a\"", "http.request.headers", &["cannot be compared"]),
        (
            "http.request.headers[\"a\"] == \"a\"",
            "http.request.headers[\"a\"]",
            &["cannot be compared", "[0]"],
        ),
        (
            "http.request.headers.names[*] == \"a\"",
            "http.request.headers.names[*] == \"a\"",
            &["each element", "any(…)"],
        ),
        (
            "ssl and http.request.headers.names[*] == \"a\"",
            "http.request.headers.names[*] == \"a\"",
            &["each element", "any(…)"],
        ),
        ("any(ssl)", "ssl", &["each element"]),
        ("any(http.request.headers.names)", "http.request.headers.names", &["each element"]),
        ("http.request.headers[\"Accept\"][0] == \"a\"", "\"Accept\"", &["lower case", "write `\"accept\"`"]),
        ("http.request.headers[0] == \"a\"", "0", &["a map has no positions"]),
        ("http.request.headers.names[\"a\"] == \"a\"", "\"a\"", &["no keys"]),
        ("http.request.headers.names[-1] == \"a\"", "-1", &["not negative"]),
        ("http.host[0] == \"a\"", "[", &["arrays and maps"]),
        ("http.request.headers.names[x] == \"a\"", "x", &["a position"]),
        ("http.request.headers.names[0 == \"a\"", "=", &["`]`"]),
        ("starts_wiht(http.host, \"a\")", "starts_wiht", &["did you mean `starts_with`"]),
        ("starts_with(http.host)", "starts_with(http.host)", &["takes 2 arguments, not 1"]),
        ("starts_with(http.host, \"a\", \"b\")", "\"b\"", &["takes 2 arguments, not 3"]),
        ("starts_with(\"a\", \"b\")", "\"a\"", &["literal", "a field"]),
        ("starts_with(ip.src, \"b\")", "ip.src", &["wrong type", "to_string"]),
        ("starts_with(http.host, 1)", "1", &["wrong type"]),
        (
            "starts_with(http.host, http.request.headers.names[*])",
            "http.request.headers.names[*]",
            &["first argument only"],
        ),
        (
            "lower(http.request.headers.names) == \"a\"",
            "http.request.headers.names",
            &["wrong type", "`[*]`"],
        ),
        ("http.host(\"a\")", "http.host", &["a field, not a function"]),
        ("lower == \"a\"", "lower", &["is a function"]),
        ("contains(http.host, \"a\")", "contains", &["operator"]),
        ("is_timed_hmac_valid_v0(\"a\")", "is_timed_hmac_valid_v0", &["does not have"]),
        ("any(http.request.headers.names[*] == \"a\", ssl)", ",", &["one argument"]),
        ("http.host matches \"a(\"", "(", &["not valid", "unclosed group"]),
        ("http.host matches \"\\\"(a\"", "(", &["not valid"]),
        ("http.host matches r\"\\p{No}[\"", "[", &["not valid"]),
        ("http.host matches \"(a{999}){999}\"", "\"(a{999}){999}\"", &["too big", "256 KiB"]),
        ("http.host wildcard \"a**\"", "**", &["no wildcard"]),
        ("http.host wildcard r\"a\\b\"", "\\", &["lone backslash"]),
        ("http.host strict \"a\"", "\"", &["strict wildcard"]),
        ("http.host =~ \"a\"", "=", &["matches"]),
        ("(http.host eq \"x\") == true", "==", &["a condition cannot be compared", "not (…)"]),
        ("http.host == \"a\" == \"b\"", "==", &["a condition cannot be compared"]),
        ("(http.host == \"a\" != \"b\")", "!=", &["a condition cannot be compared"]),
        ("(ssl or ssl) eq true", "eq", &["a condition cannot be compared"]),
        ("any(http.request.headers.names[*] == \"a\" == \"b\")", "==", &["a condition cannot be compared"]),
        ("starts_with(http.host, \"a\" == \"b\")", "=", &["unexpected"]),
        ("(ssl", "(", &["`)` is missing"]),
        ("ssl)", ")", &["too many"]),
        ("ssl and", "", &["too early"]),
        ("ssl ssl", "ssl", &["unknown operator"]),
        ("ssl # comment", "#", &["no comments"]),
        ("\u{e9}", "\u{e9}", &["unexpected"]),
    ] {
        let (text, mistake) = mistake(filter);
        check(&said(&text, &mistake), at, words);
    }
}

#[test]
fn a_value_that_is_none_says_where_and_what_to_write() {
    for (value, at, words) in [
        ("\"static\"", "\"static\"", &["same for every request", "`value`"][..]),
        ("http.host == \"a\"", "http.host == \"a\"", &["a condition", "to_string"]),
        ("true", "true", &["a condition"]),
        ("http.request.headers", "http.request.headers", &["no text", "a key"]),
        ("http.request.cookies[\"a\"]", "http.request.cookies[\"a\"]", &["no text", "`[0]`"]),
        ("http.request.headers.names[*]", "http.request.headers.names[*]", &["no text"]),
        ("to_string(http.host)", "http.host", &["text already"]),
        ("uuidv4(http.host)", "http.host", &["cf.random_seed"]),
        ("regex_replace(http.host, http.host, \"a\")", "http.host", &["no string literal"]),
        ("regex_replace(http.host, \"(a)\", \"$1\")", "$1", &["write `${1}`"]),
        ("regex_replace(http.host, \"(a)\", \"${2}\")", "${2}", &["no group 2", "one group"]),
        ("regex_replace(http.host, \"\\\\d(\", \"\")", "(", &["unclosed group"]),
        ("regex_replace(http.host, \"a\", \"b$\")", "$", &["lone `$`"]),
        ("regex_replace(regex_replace(http.host, \"a\", \"b\"), \"a\", \"b\")", "regex_replace", &["twice"]),
        (
            "wildcard_replace(regex_replace(http.host, \"a\", \"b\"), \"a\", \"b\")",
            "regex_replace",
            &["replace once"],
        ),
        (
            "regex_replace(http.host, \"(a)\", \"${1}${1}${1}${1}${1}${1}${1}${1}${1}\")",
            "${1}",
            &["at most 8"],
        ),
        ("url_decode(http.host, \"x\")", "x", &["no such option", "`r` and `u`"]),
        ("encode_base64(http.host, \"uu\")", "u", &["twice"]),
        ("split(http.host, \"\", 2)[0]", "\"\"", &["empty"]),
        ("split(http.host, \",\", 129)[0]", "129", &["from 1 to 128"]),
        ("cidr(ip.src, 0, 128)", "0", &["from 1 to 32"]),
        ("cidr6(http.host, 64)", "http.host", &["wrong type"]),
        ("lookup_json_string(http.host, -1)", "-1", &["not negative"]),
        ("lookup_json_string(http.host, http.host)", "http.host", &["no literal"]),
        ("remove_query_args(http.request.uri, \"a\")", "http.request.uri", &["http.request.uri.query"]),
        ("concat(http.host, http.request.headers.names)", "http.request.headers.names", &["wrong type"]),
        ("len(http.request.headers)", "http.request.headers", &["wrong type"]),
        ("len(ip.src)", "ip.src", &["wrong type"]),
    ] {
        let mistake = Expression::parse(value).expect_err(value);
        let text = &value[mistake.span.clone()];
        check(&said(text, &mistake), at, words);
    }
}

#[test]
fn size_and_nesting_are_bounded() {
    let long = format!("http.host == \"{}\"", "é".repeat(4096));
    let nested =
        |open: &str, close: &str, times: usize| format!("{}ssl{}", open.repeat(times), close.repeat(times));
    assert!(Filter::parse(&nested("(", ")", 128)).is_ok());
    assert!(Filter::parse(&nested("not ", "", 128)).is_ok());
    for (text, words) in [
        (long, "more than 4096 bytes"),
        (nested("(", ")", 129), "128 levels"),
        (nested("!", "", 129), "128 levels"),
        (nested("any(", ")", 129), "128 levels"),
        (nested("lower(", ")", 65), "128 levels"),
        ("(".repeat(10_000), "more than 4096 bytes"),
        ("not ".repeat(10_000), "more than 4096 bytes"),
        ("(".repeat(4000), "128 levels"),
        ("a[".repeat(2000), "unknown field"),
        ("{".repeat(4000), "unexpected"),
        (vec!["http.host ~ \"a\""; 33].join(" or "), "32 patterns"),
    ] {
        let mistake = Parsed::parse(&text).unwrap_err();
        assert!(mistake.title.contains(words), "{}", mistake.title);
        assert!(text.get(mistake.span).is_some());
    }
    // Many operands are no nesting.
    assert!(Filter::parse(&vec!["ssl"; 500].join(" or ")).is_ok());
}

#[test]
fn every_beginning_of_an_expression_is_one_or_a_mistake_within_it() {
    let text = r####"not (http.host in {"a" r#"b"#} or any(lower(http.request.headers["x-é"][*])[*] matches "[\"e]+é")) and ip.src in {1.2.3.0/24 ::1..::2} xor substring(http.cookie, -1, 0x10) wildcard "\\*é*""####;
    assert!(Filter::parse(text).is_ok());
    for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
        for part in [&text[..at], &text[at..]] {
            if let Err(mistake) = Parsed::parse(part) {
                assert!(part.get(mistake.span.clone()).is_some(), "{part} {mistake:?}");
                assert!(!mistake.title.is_empty());
            }
        }
    }
}

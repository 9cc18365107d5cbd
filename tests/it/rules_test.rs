//! `gradual rules test`: one expression, one request.

use clap::Parser;
use gradual::cli::rules::{TestArgs, Tested, Unanswered, test};
use serde_json::{Value, json};

/// The command line of `gradual rules test`.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    test: TestArgs,
}

fn ask(arguments: &[&str]) -> Result<Tested, Unanswered> {
    test(&Line::try_parse_from([&["test"], arguments].concat()).unwrap().test)
}

#[test]
fn type_and_result_of_an_expression_are_said() {
    let cookie = &["-H", "Cookie: user_id=17; b=2"];
    for (expression, more, type_name, result, json) in [
        ("http.cookie contains \"user_id\"", &cookie[..], "Boolean", "true", json!(true)),
        ("http.request.cookies[\"user_id\"][0]", cookie, "String", "\"17\"", json!("17")),
        ("http.request.cookies[\"c\"][0]", cookie, "String", "missing", Value::Null),
        ("http.request.cookies[\"b\"]", cookie, "Array<String>", "[\"2\"]", json!(["2"])),
        (
            "http.request.uri.args",
            &["/?a=1&b=%C3&a=2"],
            "Map<Array<String>>",
            "{\"a\": [\"1\", \"2\"], \"b\": [\"%C3\"]}",
            json!({ "a": ["1", "2"], "b": ["%C3"] }),
        ),
        ("ip.src", &["--ip", "192.0.2.7"], "IP address", "192.0.2.7", json!("192.0.2.7")),
        ("ip.src", &[], "IP address", "missing", Value::Null),
        ("len(http.host)", &["https://a.example/"], "Integer", "9", json!(9)),
        ("ssl", &["https://a.example/"], "Boolean", "true", json!(true)),
        ("http.request.method", &["--method", "PUT"], "String", "\"PUT\"", json!("PUT")),
        (
            "regex_replace(http.request.uri.path, \"/asset/(.*)\", \"${1}\")",
            &["/asset/img/logo.png"],
            "String",
            "\"img/logo.png\"",
            json!("img/logo.png"),
        ),
        (
            "url_decode(http.request.uri.query)",
            &["/?%1b%ff"],
            "String",
            "\"\\x1b\\xff\"",
            json!("\u{1b}\u{fffd}"),
        ),
    ] {
        let tested = ask(&[&[expression], more].concat()).unwrap();
        let found = (tested.type_name.as_str(), tested.result.as_str(), &tested.json);
        assert_eq!(found, (type_name, result, &json), "{expression}");
    }
}

#[test]
fn the_host_of_the_url_is_the_one_host_line() {
    for (arguments, expected) in [
        (&["https://a.example/"][..], "[\"a.example\"]"),
        (&["a.example:81/", "-H", "Host: b.example"], "[\"a.example:81\"]"),
        (&["/", "-H", "Host: b.example"], "[\"b.example\"]"),
        (&["/"], "missing"),
    ] {
        let lines = ask(&[&["http.request.headers[\"host\"]"], arguments].concat()).unwrap();
        assert_eq!(lines.result, expected, "{arguments:?}");
        let host = ask(&[&["http.host"], arguments].concat()).unwrap();
        let list = if host.result == "\"\"" { "missing".into() } else { format!("[{}]", host.result) };
        assert_eq!(list, expected, "{arguments:?}");
    }
}

#[test]
fn nobody_is_believed_who_says_for_whom_he_asks() {
    let tested = ask(&["ip.src", "--ip", "10.0.0.1", "-H", "X-Forwarded-For: 192.0.2.7"]).unwrap();
    assert_eq!(tested.result, "10.0.0.1");
}

#[test]
fn a_mistake_points_into_the_expression() {
    let Err(Unanswered::Expression(report)) = ask(&["http.cooky contains \"user_id\""]) else { panic!() };
    let text = report.render(false);
    assert!(text.contains("expression:1:1") && text.contains("^^^^^^^^^^"), "{text}");
    assert!(text.contains("http.cookie"), "{text}");
}

#[test]
fn a_request_that_cannot_be_is_a_mistake() {
    for arguments in [&["true", "-H", "x"][..], &["true", "a b"], &["true", "--method", "A B"]] {
        assert!(matches!(ask(arguments), Err(Unanswered::Request(_))), "{arguments:?}");
    }
}

//! Overrides that must show a secret: what counts, and what of the field goes on.

use gradual::model::decision::{Reason, Sent};
use gradual::model::overrides::{Override, OverrideProblem, tokens};
use gradual::model::secret::Secret;
use proptest::prelude::*;

use crate::fixture::policy;

const SECRET: &str = "s3cret-s3cret-s3cret";

/// What a field says for `a`, which wants the secret shown.
fn said(field: &str) -> Override {
    let policy = policy("a", &[("v1", 100_000), ("v2", 0)]);
    let secret = Secret::new(SECRET.as_bytes()).unwrap();
    let sent = Sent { overrides: Some(field.as_bytes()), secret: Some(&secret), ..Sent::default() };
    let selection = policy.select(&sent);
    let forced = matches!(selection.overridden, Override::Version(_));
    assert_eq!(selection.decision.reason, if forced { Reason::Override } else { Reason::Random }, "{field}");
    selection.overridden
}

/// The field as it goes on from `a`; `None` where it does not.
fn left(field: &str) -> Option<String> {
    let mut left = field.to_owned();
    for range in tokens(field.as_bytes(), "a")?.into_iter().rev() {
        left.replace_range(range, "");
    }
    Some(left)
}

/// Writes `$` as the secret.
fn with_secret(field: &str) -> String {
    field.replace('$', SECRET)
}

#[test]
fn an_override_counts_only_with_the_secret_as_its_string_token() {
    use OverrideProblem::{Denied, Invalid, NotAString, NotInDeployment};
    for (field, problem) in [
        (r#"a="v2";token="$""#, None),
        (r#"a="v2";x=1;token="$";y"#, None),
        (r#"a="v2";  token="$""#, None),
        (r#"b="v9", a="v2";token="$", c"#, None),
        // Of duplicates the last counts, of parameters as of members.
        (r#"a="v2";token="no";token="$""#, None),
        (r#"a="v2";token=1;token="$""#, None),
        (r#"a="v2";token="$";token="no""#, Some(Denied)),
        (r#"a="v2";token="$";token"#, Some(Denied)),
        (r#"a="v2", a="v2";token="$""#, None),
        (r#"a="v2";token="$", a="v2""#, Some(Denied)),
        // Without it, or with another or none of its kind.
        (r#"a="v2""#, Some(Denied)),
        (r#"a="v2";token="""#, Some(Denied)),
        (r#"a="v2";token="$x""#, Some(Denied)),
        (r#"a="v2";token="S3cret-s3cret-s3cret""#, Some(Denied)),
        (r#"a="v2";token=$"#, Some(Denied)),
        (r#"a="v2";token"#, Some(Denied)),
        (r#"a="v2";token=:czNjcmV0LXMzY3JldC1zM2NyZXQ=:"#, Some(Denied)),
        (r#"a="v2";tokens="$""#, Some(Denied)),
        (r#"a="v2", b="v2";token="$""#, Some(Denied)),
        (r#"a="v2", token="$""#, Some(Denied)),
        // Who does not know it does not learn which versions there are.
        (r#"a="v9""#, Some(Denied)),
        ("a=1", Some(Denied)),
        (r#"a=("v2";token="$")"#, Some(Denied)),
        (r#"a="v9";token="$""#, Some(NotInDeployment)),
        (r#"a=1;token="$""#, Some(NotAString)),
        (r#"a;token="$""#, Some(NotAString)),
        (r#"a=("v2");token="$""#, Some(NotAString)),
        (r#"a="v2";token="$", ="#, Some(Invalid)),
    ] {
        let said = said(&with_secret(field));
        match problem {
            None => assert!(matches!(said, Override::Version(_)), "{field}: {said:?}"),
            Some(problem) => assert_eq!(said, Override::Ignored(problem), "{field}"),
        }
    }
    assert_eq!(said(r#"b="v2""#), Override::Absent);
    assert_eq!(said(""), Override::Absent);
}

#[test]
fn a_secret_with_characters_that_a_string_escapes_can_be_shown() {
    let policy = policy("a", &[("v1", 100_000), ("v2", 0)]);
    let secret = Secret::new(br#"say-"hi"-to-\o/-today"#).unwrap();
    let field = br#"a="v2";token="say-\"hi\"-to-\\o/-today""#;
    let sent = Sent { overrides: Some(field), secret: Some(&secret), ..Sent::default() };
    assert!(matches!(policy.select(&sent).overridden, Override::Version(_)));
    assert_eq!(left(std::str::from_utf8(field).unwrap()).as_deref(), Some(r#"a="v2""#));
}

#[test]
fn exactly_the_tokens_of_this_worker_are_cut() {
    for (field, expected) in [
        (r#"a="v2";token="$""#, r#"a="v2""#),
        (r#"a="v2";x=1; token="$";y"#, r#"a="v2";x=1;y"#),
        (r#"a="v2";token="x;,\"\\";y, b="v";token="t""#, r#"a="v2";y, b="v";token="t""#),
        (r#"a="v2";token="1";token="2", a="v1";token="3""#, r#"a="v2", a="v1""#),
        (r#"a="v2";token=to/ke:n, b"#, r#"a="v2", b"#),
        (r#"a="v2";token=:AAA=:;x"#, r#"a="v2";x"#),
        (r#"a="v2";token=-1.5 , b"#, r#"a="v2" , b"#),
        (r#"a="v2";token;x, b"#, r#"a="v2";x, b"#),
        (r#"a;token="$"  "#, "a  "),
        (r#"a=("x";token="$" y;token=1);token=?0"#, r#"a=("x" y)"#),
        (
            r#"b="a;token=\"$\"", token="$", a="v";t="token""#,
            r#"b="a;token=\"$\"", token="$", a="v";t="token""#,
        ),
        ("", ""),
    ] {
        assert_eq!(left(&with_secret(field)), Some(with_secret(expected)), "{field}");
    }
    for invalid in [r#"a="v2";token="$", ="#, r#"a="v2";token="$"#, r#"a="v2" ;token="$""#] {
        assert_eq!(left(invalid), None, "{invalid}");
    }
}

/// A parameter's or member's value.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        Just("=1.5".to_owned()),
        Just("=?0".to_owned()),
        Just("=:AAA=:".to_owned()),
        "=[a-z*][a-z0-9/:!]{0,4}",
        r#"="([a-z ,;=()]|\\"|\\\\|token){0,6}""#,
        Just(format!("=\"{SECRET}\"")),
    ]
}

/// A parameter, and whether it is one to be cut.
fn parameter() -> impl Strategy<Value = (String, bool)> {
    let name = prop_oneof![Just("token".to_owned()), "[a-z][a-z0-9_.*-]{0,6}"];
    ("; {0,2}", name, value()).prop_map(|(start, name, value)| {
        let token = name == "token";
        (format!("{start}{name}{value}"), token)
    })
}

fn parameters() -> impl Strategy<Value = Vec<(String, bool)>> {
    prop::collection::vec(parameter(), 0..4)
}

/// A member, as it is sent and as it goes on.
fn member() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![Just("a".to_owned()), "[a-z*][a-z0-9_.*-]{0,3}"];
    (name, value(), parameters()).prop_map(|(name, value, parameters)| {
        let ours = name == "a";
        let all: String = parameters.iter().map(|(text, _)| text.as_str()).collect();
        let kept: String =
            parameters.iter().filter(|(_, token)| !(ours && *token)).map(|(text, _)| text.as_str()).collect();
        (format!("{name}{value}{all}"), format!("{name}{value}{kept}"))
    })
}

proptest! {
    #[test]
    fn of_any_field_exactly_the_tokens_of_this_workers_members_are_cut(
        members in prop::collection::vec((member(), "[ \t]{0,2},[ \t]{0,2}"), 0..5),
    ) {
        let (mut sent, mut expected) = (String::new(), String::new());
        for (at, ((whole, kept), comma)) in members.iter().enumerate() {
            if at > 0 {
                sent += comma;
                expected += comma;
            }
            sent += whole;
            expected += kept;
        }
        prop_assert_eq!(left(&sent), Some(expected));
    }

    #[test]
    fn whatever_is_sent_what_goes_on_says_the_same_and_has_no_token_left(field in "[a-c;=,\"\\\\ ()token1:?]{0,40}") {
        let parse = |field: &str| Override::parse(field.as_bytes(), "a", |_| None);
        match left(&field) {
            Some(left) => {
                prop_assert_eq!(parse(&left), parse(&field));
                prop_assert_eq!(tokens(left.as_bytes(), "a"), Some(Vec::new()));
            }
            None => prop_assert_eq!(parse(&field), Override::Ignored(OverrideProblem::Invalid)),
        }
    }
}

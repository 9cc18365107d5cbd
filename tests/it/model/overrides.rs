//! Every edge of the overrides header, through the whole decision.

use gradual::model::decision::{Decision, Policy, Reason, Sent};
use gradual::model::head::{KEY_HEADER, Lines};
use gradual::model::overrides::{OVERRIDES_HEADER, Override, OverrideProblem};

use crate::fixture::policy;

const V1: &str = "db7cd8d3-4425-4fe7-8c81-01bf963b6067";

/// What a field is expected to say for `my-worker`.
#[derive(Clone, Copy, Debug)]
enum Said {
    Nothing,
    Version(&'static str),
    Invalid,
    NotAString,
    NotInDeployment,
}

use Said::{Invalid, NotAString, NotInDeployment, Nothing, Version};

fn worker() -> Policy {
    policy("my-worker", &[(V1, 90_000), ("v2", 10_000), ("v0", 0)])
}

/// What the overrides lines say, and the decision.
fn select(policy: &Policy, lines: &[&str], key: Option<&[u8]>, draw: u64) -> (Override, Decision) {
    let lines: Vec<_> =
        lines.iter().map(|line| (OVERRIDES_HEADER.to_owned(), line.as_bytes().to_vec())).collect();
    let overrides = lines[..].joined(OVERRIDES_HEADER);
    let selection = policy.select(&Sent { key, overrides: overrides.as_deref(), draw, ..Sent::default() });
    (selection.overridden, selection.decision)
}

/// Checks what the lines say, and that what does not count changes nothing: the key decides, else the draw.
fn check(lines: &[&str], said: Said) {
    let policy = worker();
    let expected = match said {
        Nothing => Override::Absent,
        Version(id) => Override::Version(policy.deployment.member(id).unwrap()),
        Invalid => Override::Ignored(OverrideProblem::Invalid),
        NotAString => Override::Ignored(OverrideProblem::NotAString),
        NotInDeployment => Override::Ignored(OverrideProblem::NotInDeployment),
    };
    for (key, draw) in [(None, 0), (None, u64::MAX), (Some(&b"user-123"[..]), 0)] {
        let (overridden, decision) = select(&policy, lines, key, draw);
        assert_eq!(overridden, expected, "{lines:?}");
        match expected {
            Override::Version(member) => {
                assert_eq!((decision.member, decision.reason), (member, Reason::Override));
                assert_eq!(decision.position, None);
            }
            Override::Absent | Override::Ignored(_) => {
                assert_eq!(decision, select(&policy, &[], key, draw).1, "{lines:?}");
            }
        }
    }
}

#[test]
fn a_member_that_is_a_string_naming_a_version_of_the_deployment_applies() {
    for (line, id) in [
        (format!("my-worker=\"{V1}\""), V1),
        ("my-worker=\"v2\"".into(), "v2"),
        // Zero per cent means: by override only.
        ("my-worker=\"v0\"".into(), "v0"),
        // Parameters are ignored, whatever they are.
        ("my-worker=\"v2\";x=1".into(), "v2"),
        ("my-worker=\"v2\";x;y=?0;z=:aGk=:; w=\"a,b\"".into(), "v2"),
        // So are the members of other workers, whatever their type.
        ("other=1, my-worker=\"v2\", third=(1 2);a, fourth, *=tok".into(), "v2"),
        // White space as RFC 8941 allows it.
        ("   my-worker=\"v2\"  ".into(), "v2"),
        ("a=1\t , \tmy-worker=\"v2\"".into(), "v2"),
        ("my-worker=\"v2\"\t".into(), "v2"),
        ("a=1,my-worker=\"v2\"".into(), "v2"),
        // Of duplicates the last counts.
        ("my-worker=\"v0\", my-worker=\"v2\"".into(), "v2"),
        ("my-worker=1, my-worker=\"v2\"".into(), "v2"),
        ("my-worker=\"nope\", my-worker=\"v2\"".into(), "v2"),
        // Escapes elsewhere.
        ("a=\"say \\\"hi\\\" \\\\\", my-worker=\"v2\"".into(), "v2"),
        ("my-worker=\"v2\", a=\"my-worker=\\\"v0\\\"\"".into(), "v2"),
    ] {
        check(&[&line], Version(id));
    }
}

#[test]
fn a_field_without_a_member_of_this_worker_says_nothing() {
    for line in
        ["", "  ", "other=\"v2\"", "my-worker2=\"v2\"", "my-worke=\"v2\"", "a;my-worker=\"v2\"", "*=\"v2\""]
    {
        check(&[line], Nothing);
    }
    check(&[], Nothing);
}

#[test]
fn a_member_of_another_type_does_not_apply_and_the_others_stay_valid() {
    for value in [
        "1",
        "-1.5",
        "v2",
        "*v2",
        "?1",
        ":djI=:",
        "()",
        "(\"v2\")",
        "(\"v2\" \"v0\");x",
        "v2;x=\"v2\"",
        "\"v2\", my-worker=1",
    ] {
        check(&[&format!("my-worker={value}")], NotAString);
        check(&[&format!("a=\"b\", my-worker={value}, c")], NotAString);
    }
    // A bare key is the Boolean true, and so is the last of these duplicates.
    for line in
        ["my-worker", "my-worker;x=1", "my-worker=\"v2\", my-worker", "my-worker=\"v2\", my-worker=?0"]
    {
        check(&[line], NotAString);
    }
}

#[test]
fn a_string_that_names_no_version_of_the_deployment_does_not_apply() {
    let upper = V1.to_uppercase();
    for id in ["nope", "", "V2", "v2 ", " v2", &upper, "tag-v2", "v", "v\\\"2", "v\\\\2"] {
        check(&[&format!("my-worker=\"{id}\"")], NotInDeployment);
    }
    check(&["my-worker=\"v2\", my-worker=\"nope\""], NotInDeployment);
}

#[test]
fn any_syntax_error_anywhere_makes_the_whole_field_not_count() {
    for part in [
        // Commas.
        ",",
        ", a",
        "a,",
        "a,,b",
        "a, ,b",
        "a;",
        // Keys.
        "1a=1",
        "A=1",
        "My-worker=\"v2\"",
        "a!=1",
        "-a=1",
        "=1",
        "\"a\"=1",
        "é=1",
        "a b",
        // White space around `=` and before `;`, and a leading tab.
        "a =1",
        "a= 1",
        "a=\t1",
        "a=1 ;b",
        "\ta=1",
        // Values.
        "a=",
        "a=\"",
        "a=\"x",
        "a=\"\\x\"",
        "a=\"\\\"",
        "a=\"é\"",
        "a=\"\u{7f}\"",
        "a=\"\t\"",
        "a='x'",
        "a=?2",
        "a=?",
        "a=:a",
        "a=:~:",
        "a=1.",
        "a=1.2345",
        "a=1234567890123456",
        "a=--1",
        "a=(1",
        "a=(1,2)",
        "a=(1 2))",
        "a={}",
        "a=\"b\"c",
        "a=1;B",
        "a=1;=2",
        // Dates and display strings are of RFC 9651, not of RFC 8941.
        "a=@1659578233",
        "a=%\"v2\"",
        "a=1;p=@1",
        "a=(@1)",
    ] {
        check(&[part], Invalid);
        check(&[&format!("{part}, my-worker=\"v2\"")], Invalid);
        check(&[&format!("my-worker=\"v2\", {part}")], if part == "\ta=1" { Version("v2") } else { Invalid });
    }
    check(&["my-worker=@1659578233"], Invalid);
    check(&["my-worker=\"v2\"\u{0}"], Invalid);
}

#[test]
fn several_lines_are_one_field() {
    check(&["a=1", "my-worker=\"v2\""], Version("v2"));
    check(&["my-worker=\"v2\"", "a=1"], Version("v2"));
    check(&["my-worker=\"v2\"", "my-worker=\"v0\""], Version("v0"));
    check(&["my-worker=\"v2\"", "my-worker=1"], NotAString);
    check(&["my-worker=\"v2\"", "b=("], Invalid);
    // An empty line leaves an empty member.
    check(&["my-worker=\"v2\"", ""], Invalid);
    check(&["", "my-worker=\"v2\""], Invalid);
    check(&["my-worker=\"v2\"", "", "a=1"], Invalid);
    // A String that is split over lines is one String with `, ` in it.
    check(&["my-worker=\"v", "2\""], NotInDeployment);
}

#[test]
fn the_least_sizes_that_rfc_8941_asks_for_are_read() {
    let many: Vec<_> = (0..1023).map(|n| format!("k{n}=1")).collect();
    check(&[&format!("{}, my-worker=\"v2\"", many.join(", "))], Version("v2"));
    let (key, text) = ("k".repeat(64), "x".repeat(1024));
    check(&[&format!("{key}=\"{text}\", my-worker=\"v2\"")], Version("v2"));
}

#[test]
fn bytes_that_are_no_text_do_not_count() {
    let policy = worker();
    for field in
        [&b"my-worker=\"\xff\""[..], b"\xff\xfe", b"my-worker=\"v2\"\xff", b"my-worker=\"v2\", a=\xc3\xa9"]
    {
        let selection = policy.select(&Sent { overrides: Some(field), ..Sent::default() });
        assert_eq!(selection.overridden, Override::Ignored(OverrideProblem::Invalid), "{field:?}");
    }
}

#[test]
fn keys_are_joined_trimmed_and_absent_when_empty() {
    let policy = worker();
    let lines = |values: &[&str]| -> Vec<_> {
        values.iter().map(|value| (KEY_HEADER.to_owned(), value.as_bytes().to_vec())).collect()
    };
    for (values, key) in [
        (&["user-123"][..], Some("user-123")),
        (&["\t user-123 \t"], Some("user-123")),
        (&["a  b"], Some("a  b")),
        (&["a", "b"], Some("a, b")),
        // Two lines are one key even where both are empty.
        (&["", ""], Some(",")),
        (&[""], None),
        (&[" \t "], None),
        (&[], None),
    ] {
        let lines = lines(values);
        let joined = lines[..].joined(KEY_HEADER);
        let selection = policy.select(&Sent { key: joined.as_deref(), ..Sent::default() });
        assert_eq!(selection.key, key.map(str::as_bytes), "{values:?}");
        let reason = if key.is_some() { Reason::Key } else { Reason::Random };
        assert_eq!(selection.decision.reason, reason, "{values:?}");
        let position = key.map(|key| policy.deployment.ring.position(key.as_bytes()));
        assert_eq!(selection.decision.position, position, "{values:?}");
    }
}

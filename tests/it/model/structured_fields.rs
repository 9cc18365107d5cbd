//! The HTTP working group's tests of structured fields, where a copy of them is at hand: in the folder that
//! `STRUCTURED_FIELD_TESTS` names, else beside the crate.

use std::fs;
use std::path::{Path, PathBuf};

use gradual::model::overrides::{Override, OverrideProblem};
use serde_json::Value;

/// The folder of the tests; `None`, and a line that says so, where there is no copy.
fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/structured-field-tests");
    let folder = std::env::var_os("STRUCTURED_FIELD_TESTS").map_or(beside, PathBuf::from);
    if !folder.is_dir() {
        println!("skipped: no structured field tests at {}", folder.display());
        return None;
    }
    Some(folder)
}

fn cases(folder: &Path, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(folder.join(file)).unwrap();
    let Value::Array(cases) = serde_json::from_str(&text).unwrap() else { panic!("{file} is no list") };
    assert!(!cases.is_empty(), "{file} has no cases");
    cases
}

/// The lines of a case, joined.
fn raw(case: &Value) -> String {
    let lines: Vec<_> = case["raw"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    lines.join(", ")
}

fn parse(field: &str, worker: &str) -> Override {
    Override::parse(field.as_bytes(), worker, |_| None)
}

/// What the field must say for a key, by the value that the tests expect: no version has an id that they use.
fn expected(value: &Value) -> Override {
    Override::Ignored(match &value[0] {
        Value::String(_) => OverrideProblem::NotInDeployment,
        _ => OverrideProblem::NotAString,
    })
}

fn check(case: &Value) {
    let (field, invalid) = (raw(case), Override::Ignored(OverrideProblem::Invalid));
    let flag = |name: &str| case[name].as_bool().unwrap_or(false);
    if flag("must_fail") {
        assert_eq!(parse(&field, "none-of-this-name"), invalid, "{field:?}");
        return;
    }
    if flag("can_fail") && parse(&field, "none-of-this-name") == invalid {
        return;
    }
    assert_eq!(parse(&field, "none-of-this-name"), Override::Absent, "{field:?}");
    for member in case["expected"].as_array().unwrap() {
        let key = member[0].as_str().unwrap();
        assert_eq!(parse(&field, key), expected(&member[1]), "{field:?} {key:?}");
    }
}

#[test]
fn the_working_groups_dictionaries_are_accepted_or_refused_as_it_says() {
    let Some(folder) = folder() else { return };
    for file in
        ["dictionary.json", "param-dict.json", "examples.json", "key-generated.json", "large-generated.json"]
    {
        let cases = cases(&folder, file);
        let dictionaries: Vec<_> = cases.iter().filter(|case| case["header_type"] == "dictionary").collect();
        assert!(!dictionaries.is_empty(), "{file} has no dictionaries");
        dictionaries.into_iter().for_each(check);
    }
}

#[test]
fn every_kind_of_item_is_accepted_or_refused_as_a_member_as_the_working_group_says() {
    let Some(folder) = folder() else { return };
    for file in
        ["binary.json", "boolean.json", "number.json", "string.json", "token.json", "string-generated.json"]
    {
        for mut case in cases(&folder, file) {
            // White space around an Item is none within a Dictionary's member.
            if case["header_type"] != "item" || raw(&case).trim() != raw(&case) || raw(&case).is_empty() {
                continue;
            }
            case["raw"] = serde_json::json!([format!("a={}", raw(&case))]);
            case["expected"] = serde_json::json!([["a", case["expected"]]]);
            check(&case);
        }
    }
}

#[test]
fn dates_and_display_strings_make_a_field_invalid_in_rfc_8941() {
    let Some(folder) = folder() else { return };
    for file in ["date.json", "display-string.json"] {
        for case in cases(&folder, file) {
            let field = format!("b=\"v\", a={}", raw(&case));
            assert_eq!(parse(&field, "b"), Override::Ignored(OverrideProblem::Invalid), "{field:?}");
        }
    }
}

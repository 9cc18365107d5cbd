//! What `docs/metrics.md` says there is, and what there is: the same names, in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{TcpListener, TcpStream};

use gradual::metrics::Limit;
use gradual::model::decision::Reason;
use gradual::model::overrides::OverrideProblem;
use serde_json::Value;

use super::stage::{ANY_PORT, Stage, eventually};
use crate::support::file;

const PAGE: &str = include_str!("../../../docs/metrics.md");
/// A page with every family: what the writer's own test compares it with.
const WRITTEN: &str = include_str!("../../../src/metrics/golden.txt");
const WRITER: &str = include_str!("../../../src/metrics/text.rs");

/// A family's kind, and of each label the values that there are; none where they are anything.
type Families = BTreeMap<String, (String, BTreeMap<String, BTreeSet<String>>)>;

/// What stands between backticks.
fn ticked(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The rows of the table under a heading, as cells.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let section = PAGE.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<Vec<_>> = rows.map(|line| line.split('|').map(str::trim).collect()).collect();
    assert!(rows.len() > 10, "the table is found: {rows:?}");
    rows
}

fn documented() -> Families {
    let family = |row: Vec<&str>| {
        let [_, name, kind, labels, meaning, _] = row[..] else { panic!("{row:?}") };
        assert!(!meaning.is_empty(), "{name}");
        let label = |label: &str| {
            let mut names = ticked(label);
            (names.next().unwrap(), names.collect())
        };
        let labels = labels.split("; ").filter(|label| *label != "-").map(label).collect();
        (name.trim_matches('`').to_owned(), (kind.to_owned(), labels))
    };
    rows("Metrics").into_iter().map(family).collect()
}

/// The families of a page of metrics, with all values that its labels have there.
fn families(page: &str) -> Families {
    let mut families = Families::new();
    let mut family = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            name.clone_into(&mut family);
            assert_eq!(families.insert(family.clone(), (kind.to_owned(), BTreeMap::new())), None, "{line}");
        } else if let Some((_, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let (labels, _) = rest.rsplit_once('}').unwrap();
            let labels = labels.split("\",").map(|label| label.split_once("=\"").unwrap());
            for (label, value) in labels {
                let values = families.get_mut(&family).unwrap().1.entry(label.to_owned()).or_default();
                values.insert(value.trim_end_matches('"').to_owned());
            }
        }
    }
    families
}

/// Of each family the kind and the names of its labels.
fn names(families: &Families) -> BTreeMap<&str, (&str, Vec<&str>)> {
    let mut names = BTreeMap::new();
    for (name, (kind, labels)) in families {
        names.insert(&name[..], (&kind[..], labels.keys().map(String::as_str).collect()));
    }
    names
}

/// Where values are documented, these are all that may be; empty ones stand for nothing.
fn has_only_documented_values(found: &Families) {
    let documented = documented();
    for (name, (_, labels)) in found {
        for (label, values) in labels {
            let allowed = &documented[name].1[label];
            let other = values.iter().find(|value| !value.is_empty() && !allowed.contains(*value));
            assert!(allowed.is_empty() || other.is_none(), "{name} {label}: {other:?}");
        }
    }
}

#[test]
fn every_metric_is_documented_with_its_kind_and_labels_and_nothing_else_is() {
    let written = families(WRITTEN);
    assert_eq!(names(&documented()), names(&written));
    has_only_documented_values(&written);
    // The page that this is compared with has every family that can be written.
    let literals = WRITER.split('"').filter(|text| text.starts_with("gradual_"));
    let literals: BTreeSet<_> = literals.map(str::to_owned).collect();
    assert_eq!(literals, written.keys().cloned().collect());
}

#[test]
fn the_documented_values_of_labels_are_all_that_there_are() {
    let documented = documented();
    let is = |family: &str, label: &str, values: &[&str]| {
        let expected: BTreeSet<_> = values.iter().map(|value| (*value).to_owned()).collect();
        assert_eq!(documented[family].1[label], expected, "{family} {label}");
    };
    is("gradual_requests_total", "reason", &Reason::ALL.map(Reason::as_str));
    is("gradual_limited_total", "limit", &Limit::ALL.map(Limit::as_str));
    let problems = OverrideProblem::ALL.map(OverrideProblem::as_str);
    is("gradual_overrides_total", "result", &[&["applied"], &problems[..]].concat());
    // Of these the written page has every value.
    let written = families(WRITTEN);
    for family in ["gradual_upstream_retries_total", "gradual_reloads_total", "gradual_upgrades_total"] {
        assert_eq!(documented[family].1["result"], written[family].1["result"], "{family}");
    }
    let buckets = "gradual_request_duration_seconds";
    assert_eq!(documented[buckets].1["le"], written[buckets].1["le"]);
}

#[test]
fn no_text_names_a_metric_that_there_is_not() {
    let documented = documented();
    let texts = [PAGE, include_str!("../../../README.md"), include_str!("../../../CHANGELOG.md")];
    let words = |text: &'static str| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: BTreeSet<_> =
        texts.into_iter().flat_map(words).filter(|word| word.starts_with("gradual_")).collect();
    assert!(named.len() >= documented.len(), "{named:?}");
    for name in named {
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(documented.contains_key(family), "{name}");
    }
}

/// The path of every value, where lists are `[]`.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let dot = if path.is_empty() { "" } else { "." };
            fields.iter().for_each(|(name, value)| paths(value, &format!("{path}{dot}{name}"), found));
        }
        Value::Array(elements) => {
            elements.iter().for_each(|element| paths(element, &format!("{path}[]"), found));
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

/// A stage where everything that the status can tell of has happened, and both ends of a request to a version that left.
fn eventful() -> (Stage, [TcpStream; 2]) {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", upstream.local_addr().unwrap());
    let check = r#"health = { path = "/", interval = "5ms", timeout = "5ms" }"#;
    // Nobody listens at the first.
    let file = file().version_at("v1", &["http://127.0.0.1:9"], 100).version_with(check);
    let text =
        file.version_at("v2", &[&url], 0).top(&format!("[admin]\n{ANY_PORT}\n[server]\nthreads = 1")).text();
    let stage = Stage::new(&text);
    let address = stage.handle.listeners()[0].to_string();
    let mut client = TcpStream::connect(address).unwrap();
    let overrides = "Cloudflare-Workers-Version-Overrides: shop=\"v2\"";
    write!(client, "GET / HTTP/1.1\r\nHost: a\r\n{overrides}\r\n\r\n").unwrap();
    let (held, _) = upstream.accept().unwrap();
    let left =
        text.replace("{ version_id = \"v2\", percentage = 0 },", "").replace("threads = 1", "threads = 2");
    assert_ne!(left, text);
    stage.write(&left);
    stage.reload().unwrap();
    eventually("an upstream was checked", || {
        stage.status()["workers"][0]["versions"][0]["health"][0]["endpoints"][0]["checked"].is_object()
    });
    let upgrade = "POST /api/v1/upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
    assert_eq!(stage.ask(upgrade).status, 409, "there is no program to start");
    stage.write("[[listener]]\nadress = \"127.0.0.1:0\"\n");
    stage.reload().unwrap_err();
    (stage, [client, held])
}

#[test]
fn every_field_of_the_status_is_documented_and_nothing_else_is() {
    let (stage, _held) = eventful();
    let mut found = BTreeSet::new();
    paths(&stage.status(), "", &mut found);
    let documented: BTreeSet<_> =
        rows("Status").iter().map(|row| row[1].trim_matches('`').to_owned()).collect();
    assert_eq!(documented, found);
    // And what is scraped of it is what is documented.
    let scraped = families(&stage.ask("GET /metrics HTTP/1.1\r\nHost: localhost").body);
    let (documented, scraped_names) = (self::documented(), names(&scraped));
    assert!(scraped.len() > 10, "{scraped:?}");
    for (name, found) in scraped_names {
        assert_eq!(names(&documented)[name], found, "{name}");
    }
    has_only_documented_values(&scraped);
}

//! The file: what it says when it is good, and every word of what is said when it is not.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as tests do")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gradual::config::{AccessTarget, Config, Endpoint, Handover, Scheme, UpstreamHost, json_schema, parse};
use gradual::diag::Report;
use gradual::model::decision::Senders;
use proptest::prelude::*;
use serde_json::Value;

const ANNOTATED: &str = include_str!("../../config/gradual.toml");
const MINIMAL: &str = include_str!("../../config/minimal.toml");

/// Rewrites the expected texts instead of comparing with them.
const UPDATE: &str = "UPDATE_GOLDEN";

fn check(source: &str) -> Result<(Config, Report), Report> {
    parse("gradual.toml", source, Path::new("/etc/gradual"))
}

fn good(source: &str) -> Config {
    check(source).unwrap_or_else(|report| panic!("{}", report.render(false))).0
}

fn golden_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/config");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    files
}

fn compare(found: &str, expected: &Path, mistakes: &mut Vec<String>) {
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(expected, found).unwrap();
    } else if std::fs::read_to_string(expected).ok().as_deref() != Some(found) {
        mistakes.push(format!("{} should be:\n{found}", expected.display()));
    }
}

#[test]
fn every_mistake_is_reported_in_the_words_of_its_golden_file() {
    let files = golden_files();
    assert!(files.len() >= 35, "only {} golden files", files.len());
    let mut mistakes = Vec::new();
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        let report = check(&source).map_or_else(|report| report, |(_, warnings)| warnings);
        assert!(!report.diagnostics.is_empty(), "{} has no mistake", file.display());
        let text = format!("{}\n{}\n", report.render(false), report.summary());
        compare(&text, &file.with_extension("txt"), &mut mistakes);
        let json = file.with_extension("json");
        if json.exists() {
            compare(&format!("{:#}\n", report.to_json()), &json, &mut mistakes);
        }
    }
    assert!(mistakes.is_empty(), "{}\nSet {UPDATE}=1 to accept.", mistakes.join("\n"));
}

#[test]
fn mistakes_are_reported_in_the_order_of_the_file() {
    for file in golden_files() {
        let source = std::fs::read_to_string(&file).unwrap();
        let report = check(&source).map_or_else(|report| report, |(_, warnings)| warnings);
        assert!(report.diagnostics.is_sorted_by_key(|d| d.span.start), "{}", file.display());
    }
}

#[test]
fn the_example_files_are_good_and_without_warnings() {
    for source in [ANNOTATED, MINIMAL] {
        let (_, report) = check(source).unwrap_or_else(|report| panic!("{}", report.render(false)));
        assert!(report.diagnostics.is_empty(), "{}", report.render(false));
    }
}

/// The annotated file with every optional key in force.
fn uncommented() -> String {
    let key = |line: &&str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ")
            && !name.is_empty()
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
    };
    let lines = ANNOTATED.lines().map(|line| line.strip_prefix("# ").filter(key).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_annotated_file_is_good_with_every_optional_key_in_force() {
    let config = good(&uncommented());
    assert_ne!(config, good(ANNOTATED));
    assert!(config.listeners[0].proxy_protocol && config.listeners[0].trusted_proxies.unix);
    assert!(config.listeners[1].client_ca.is_some());
    assert!(config.listeners[2].redirect_https);
    assert_eq!(config.workers[0].policy.deployment.author.as_deref(), Some("alex@example.com"));
}

/// Every key of a schema, with the tables that lead to it.
fn keys(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let schema = schema.get("items").unwrap_or(schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        keys(property, &path, found);
        found.insert(path);
    }
    if schema["additionalProperties"].is_object() {
        keys(&schema["additionalProperties"], &format!("{path}.*"), found);
        found.insert(format!("{path}.*"));
    }
}

/// Every key of a TOML text, in the same form.
fn keys_of_table(table: &toml::Table, path: &str, found: &mut BTreeSet<String>) {
    for (name, value) in table {
        // No declared key has a capital letter; names that the file chooses here have.
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) { "*" } else { name };
        let path = format!("{path}.{name}");
        let entries = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for table in entries.iter().filter_map(toml::Value::as_table) {
            keys_of_table(table, &path, found);
        }
        found.insert(path);
    }
}

#[test]
fn the_annotated_file_has_every_key_of_the_schema_and_no_other() {
    let (mut declared, mut written) = (BTreeSet::new(), BTreeSet::new());
    keys(&json_schema(), "", &mut declared);
    keys_of_table(&uncommented().parse().unwrap(), "", &mut written);
    assert!(declared.len() > 40);
    assert_eq!(declared, written);
}

#[test]
fn every_table_of_the_schema_is_closed_and_every_key_is_described() {
    fn visit(schema: &Value, count: &mut usize) {
        let schema = schema.get("items").unwrap_or(schema);
        if schema["additionalProperties"].is_object() {
            visit(&schema["additionalProperties"], count);
        }
        if let Some(properties) = schema["properties"].as_object() {
            assert_eq!(schema["additionalProperties"], false);
            for (name, property) in properties {
                assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}");
                *count += 1;
                visit(property, count);
            }
        }
    }
    let mut count = 0;
    visit(&json_schema(), &mut count);
    assert!(count > 40);
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_parser() {
    fn default(path: &str) -> String {
        let schema = json_schema();
        let mut at = &schema;
        for name in path.split('.') {
            at = at.get("items").unwrap_or(at);
            at = &at["properties"][name];
        }
        at["default"].to_string()
    }
    let d = default;
    let schema = json_schema();
    let limits = schema["properties"]["limits"]["properties"].as_object().unwrap();
    let limits: Vec<_> = limits
        .iter()
        .filter_map(|(name, property)| Some(format!("{name} = {}", property.get("default")?)))
        .collect();
    assert!(limits.len() >= 20);
    let explicit = format!(
        "[limits]\n{}\n[log]\naccess = {}\n[[listener]]\naddress = \"127.0.0.1:8080\"\n\
         proxy_protocol = {}\n[[worker]]\nname = \"my-worker\"\nexpose_version = {}\noverrides = {}\nkeys = {}\n\
         on_unavailable = {}\nupstream_host = {}\ntimeouts = {{ connect = {}, response = {}, idle = {} }}\n\
         assets = {{ paths = [\"*.js\"], fallback = {} }}\naffinity = {{ cookie = \"key\", cookie_forward = {} }}\n\
         objects = {{ key = \"ip.src\", handover = {}, timeout = {} }}\n",
        limits.join("\n"),
        d("log.access"),
        d("listener.proxy_protocol"),
        d("worker.expose_version"),
        d("worker.overrides"),
        d("worker.keys"),
        d("worker.on_unavailable"),
        d("worker.upstream_host"),
        d("worker.timeouts.connect"),
        d("worker.timeouts.response"),
        d("worker.timeouts.idle"),
        d("worker.assets.fallback"),
        d("worker.affinity.cookie_forward"),
        d("worker.objects.handover"),
        d("worker.objects.timeout"),
    );
    let (_, rest) = MINIMAL.split_once("name = \"my-worker\"\n").unwrap();
    let implicit = MINIMAL.replace(
        "name = \"my-worker\"\n",
        "name = \"my-worker\"\nassets.paths = [\"*.js\"]\naffinity.cookie = \"key\"\nobjects.key = \"ip.src\"\n",
    );
    assert_eq!(good(&(explicit + rest)), good(&implicit));
    let admin = format!("[admin]\naddress = {}\n", d("admin.address"));
    assert_eq!(good(&(admin + MINIMAL)).admin.address, good(MINIMAL).admin.address);
}

#[test]
fn what_is_written_arrives_exactly_and_in_its_order() {
    let config = good(
        r#"
[server]
threads = 3
state = "state"
[[listener]]
address = "unix:http.sock"
trusted_proxies = ["10.0.0.0/8", "unix", "::ffff:192.0.2.1"]
[limits]
drain_timeout = "0s"
[log]
access = "logs/access.log"
[admin]
address = "[::1]:9901"
token_file = "/run/token"
hosts = ["Gradual.Internal", "::1"]
[[worker]]
name = "w"
routes = ["b.example/*", "a.example/*"]
overrides = "never"
upstream_host = "App.Internal:8080"
timeouts = { idle = "250ms" }
[[worker.version]]
id = "z"
tag = "v 1"
migration = "0001"
created_on = 2026-11-20 12:00:00+01:00
upstreams = ["h2c://App.internal:81", "unix:app.sock", "https://[::1]"]
tls = { server_name = "[::1]", ca = "ca.pem" }
[[worker.version]]
id = "a"
migration = "0001"
created_on = "2026-11-20T12:00:00Z"
upstreams = ["http://127.0.0.1"]
[[worker.version]]
id = "spare"
upstreams = ["http://127.0.0.1"]
[worker.deployment]
versions = [
  { version_id = "z", percentage = 33.333 },
  { version_id = "a", percentage = "66.667" },
]
ring = [
  { version_id = "a", percentage = 0.667 },
  { version_id = "z", percentage = 33.333 },
  { version_id = "a", percentage = 66 },
]
"#,
    );
    assert_eq!(config.server.threads.map(usize::from), Some(3));
    assert_eq!(config.server.state.unwrap().value, Path::new("/etc/gradual/state"));
    assert_eq!(config.listeners[0].address.value.to_string(), "unix:/etc/gradual/http.sock");
    let networks: Vec<_> =
        config.listeners[0].trusted_proxies.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "192.0.2.1/32"]);
    assert_eq!(config.limits.drain_timeout, Duration::ZERO);
    assert_eq!(config.log.access.value, AccessTarget::File("/etc/gradual/logs/access.log".into()));
    assert_eq!(config.admin.hosts, ["gradual.internal", "[::1]"]);
    assert!(config.admin.configured && !config.admin.metrics_open);
    assert_eq!(config.admin.token_file.unwrap().value, Path::new("/run/token"));
    let worker = &config.workers[0];
    assert_eq!(worker.policy.overrides, Senders::Never);
    assert_eq!(worker.upstream_host, UpstreamHost::Name("app.internal:8080".to_owned()));
    assert_eq!(worker.timeouts.idle, Duration::from_millis(250));
    assert_eq!(
        worker.routes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["b.example/*", "a.example/*"]
    );
    let upstreams: Vec<_> = worker.versions[0].upstreams.iter().map(|one| one.value.to_string()).collect();
    assert_eq!(upstreams, ["h2c://app.internal:81", "unix:/etc/gradual/app.sock", "https://[::1]:443"]);
    assert_eq!(worker.versions[0].upstreams[0].value.scheme, Scheme::H2c);
    assert!(matches!(worker.versions[1].upstreams[0].value.endpoint, Endpoint::Address(a) if a.port() == 80));
    assert_eq!(worker.versions[0].tls.server_name.as_deref(), Some("::1"));
    assert_eq!(worker.versions[0].metadata.created_on.as_deref(), Some("2026-11-20T12:00:00+01:00"));
    let migrations =
        worker.versions.iter().map(|version| version.metadata.migration.as_ref().map(|one| one.as_str()));
    assert_eq!(migrations.collect::<Vec<_>>(), [Some("0001"), Some("0001"), None]);
    let deployment = &worker.policy.deployment;
    assert_eq!(deployment.versions.iter().map(|id| id.as_str()).collect::<Vec<_>>(), ["z", "a"]);
    let shares: Vec<_> = deployment.ring.shares().iter().map(|share| share.thousandths()).collect();
    assert_eq!(shares, [33_333, 66_667]);
    let arcs: Vec<_> =
        deployment.ring.arcs().iter().map(|arc| (arc.member.index(), arc.from, arc.to)).collect();
    assert_eq!(arcs, [(1, 0, 667), (0, 667, 34_000), (1, 34_000, 100_000)]);
}

#[test]
fn a_deployment_without_an_id_has_the_same_one_everywhere() {
    let id = |source: &str| good(source).workers[0].policy.deployment.id.clone();
    assert_eq!(id(MINIMAL), id(&format!("# a comment\n{MINIMAL}")));
    assert_ne!(
        id(MINIMAL),
        id(&MINIMAL.replace("percentage = 10", "percentage = 10.0").replace("my-", "your-"))
    );
    let written = MINIMAL.replace("[worker.deployment]\n", "[worker.deployment]\nid = \"d1\"\n");
    assert_eq!(id(&written), "d1");
}

#[test]
fn the_salt_is_the_workers_name_unless_the_file_says_otherwise() {
    let position = |source: &str| good(source).workers[0].policy.deployment.ring.position(b"key");
    let salted = |salt: &str| {
        MINIMAL.replace(
            "[worker.deployment]\n",
            &format!("[worker.affinity]\nsalt = \"{salt}\"\n[worker.deployment]\n"),
        )
    };
    assert_eq!(position(MINIMAL), position(&salted("my-worker")));
    assert_ne!(position(MINIMAL), position(&salted("other")));
}

#[test]
fn the_defaults_are_those_of_the_specification() {
    let objects = "[worker.objects]\nkey = \"ip.src\"\n[worker.deployment]\n";
    let config = good(&MINIMAL.replace("[worker.deployment]\n", objects));
    assert_eq!(config.admin.address.value.to_string(), "127.0.0.1:9900");
    assert!(!config.admin.configured && config.admin.metrics_open);
    assert_eq!(config.limits.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.workers[0].routes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["*/*"]);
    let objects = config.workers[0].objects.as_ref().unwrap();
    assert_eq!((objects.handover, objects.timeout), (Handover::Drain, Duration::from_secs(30)));
}

#[test]
fn a_default_that_another_key_leaves_without_effect_is_no_contradiction() {
    for limits in
        ["connections = 10", "min_rate = 0", "http2_streams = 2000", "http2_connection_window = \"64KiB\""]
    {
        let (_, report) = check(&format!("[limits]\n{limits}\n{MINIMAL}")).unwrap();
        assert!(report.diagnostics.is_empty(), "{}", report.render(false));
    }
}

#[test]
fn port_0_may_be_listened_on_more_than_once() {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\n";
    let source = format!("{listener}{listener}[admin]\naddress = \"127.0.0.1:0\"\n{MINIMAL}");
    assert_eq!(good(&source).listeners.len(), 3);
}

#[test]
fn deep_nesting_overflows_no_stack() {
    for (open, close) in [("[", "]"), ("{ a = ", " }"), ("[{ a = ", "}]")] {
        let source = format!("a = {}1{}\n{MINIMAL}", open.repeat(100_000), close.repeat(100_000));
        assert!(check(&source).unwrap_err().has_errors());
    }
    let dotted = format!("{}a = 1\n", "a.".repeat(100_000));
    assert!(check(&dotted).unwrap_err().has_errors());
    assert!(check(&format!("[{}a]\n", "a.".repeat(100_000))).unwrap_err().has_errors());
}

#[test]
fn a_text_of_another_kind_is_refused_with_a_bounded_report() {
    let report = check(&"<p>\n".repeat(10_000)).unwrap_err();
    assert!(report.diagnostics.len() <= 1001);
    assert!(report.diagnostics.last().unwrap().title.contains("more mistakes"));
}

#[test]
fn a_byte_order_mark_and_dos_line_ends_are_taken() {
    good(&format!("\u{feff}{MINIMAL}"));
    good(&MINIMAL.replace('\n', "\r\n"));
}

fn renders(source: &str) {
    let report = check(source).map_or_else(|report| report, |(_, report)| report);
    for color in [false, true] {
        let _ = report.render(color);
    }
    let _ = report.to_json().to_string();
    let text = report.render(false);
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_the_parser_panic(source in "\\PC*|[\\[\\]{}=\"'a-z0-9.,\n\r\t#\\-\u{0}-\u{9f}]{0,200}") {
        renders(&source);
    }

    #[test]
    fn no_mutation_of_a_good_file_makes_the_parser_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..40, "\\PC{0,6}|[\\[\\]{}=\"',.\n0-9é\u{1b}-]{0,8}"), 1..6)
    ) {
        let mut source = uncommented();
        for (at, length, text) in edits {
            let at = source.floor_char_boundary(at.index(source.len() + 1));
            let end = source.ceil_char_boundary((at + length).min(source.len()));
            source.replace_range(at..end, &text);
        }
        renders(&source);
    }

    #[test]
    fn percentages_arrive_exactly_as_written(thousandths in 0u32..=100_000) {
        let share = |t: u32| format!("{}.{:03}", t / 1000, t % 1000);
        let source = MINIMAL
            .replace("percentage = 10 ", &format!("percentage = {} ", share(thousandths)))
            .replace("percentage = 90 ", &format!("percentage = {} ", share(100_000 - thousandths)));
        let ring = &good(&source).workers[0].policy.deployment.ring;
        prop_assert_eq!(ring.shares()[0].thousandths(), thousandths);
    }
}

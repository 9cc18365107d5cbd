//! The files of `examples/rules`, each through a running proxy, byte for byte but for the addresses.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser;
use gradual::cli::explain::{ExplainArgs, explain};
use gradual::config;
use http::{Request, Response};
use hyper::body::Incoming;
use serde_json::Value;

use crate::support::{Answer, Backend, Body, Proxy, backend, body};

use super::two;

const KEY: &str = "cloudflare-workers-version-key";
/// The versions of every example, by the names of their backends here.
const VERSIONS: [(&str, &str); 2] =
    [("v1", "db7cd8d3-4425-4fe7-8c81-01bf963b6067"), ("v2", "dc8dcd28-271b-4367-9840-6c244f84cb40")];

/// The command line of `gradual explain`.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    explain: ExplainArgs,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/rules")
}

/// An example that runs.
struct Recipe {
    text: String,
    backends: (Backend, Backend),
    proxy: Proxy,
}

impl Recipe {
    async fn start(name: &str) -> Self {
        Self::before(name, two().await).await
    }

    async fn before(name: &str, backends: (Backend, Backend)) -> Self {
        let mut text = std::fs::read_to_string(folder().join(name).with_extension("toml")).unwrap();
        for (address, ours) in [
            ("\"127.0.0.1:8080\"", "\"127.0.0.1:0\"".to_owned()),
            ("\"http://127.0.0.1:3001\"", format!("{:?}", backends.0.url())),
            ("\"http://127.0.0.1:3002\"", format!("{:?}", backends.1.url())),
        ] {
            assert!(text.contains(address), "{name} has no {address}");
            text = text.replace(address, &ours);
        }
        let proxy = Proxy::start(tempfile::tempdir().unwrap(), &text).await;
        Self { text, backends, proxy }
    }

    /// What `gradual explain` says with these arguments: the version's name, if it is known, and the key.
    fn explained(&self, arguments: &[&str]) -> (Option<&'static str>, Value) {
        let (config, _) = config::parse("gradual.toml", &self.text, Path::new("/")).unwrap();
        let line = Line::try_parse_from([&["explain"], arguments].concat()).unwrap();
        let answer = explain(&config, &line.explain.question().unwrap()).unwrap().to_json();
        let version = VERSIONS.iter().find(|(_, id)| answer["version_id"] == *id);
        (version.map(|(name, _)| *name), answer["key"].clone())
    }

    /// The key that the backend of an answer was sent.
    fn forwarded(&self, answer: &Answer) -> Option<String> {
        let backend = if answer.text() == "v1" { &self.backends.0 } else { &self.backends.1 };
        backend.last().header(KEY)
    }

    /// Sends requests with each of these cookies: they stay where the ring says, by that key.
    async fn follows_cookies(&self, name: &str) {
        let mut seen = BTreeSet::new();
        for n in 0..24 {
            let (value, line) =
                (format!("user-{n}"), format!("Cookie: theme=dark; {name}=user-{n}; lang=en"));
            let (expected, key) = self.explained(&["/", "--header", &line]);
            assert_eq!(key, value);
            for target in ["/", "/cart?page=2"] {
                let answer = self.proxy.get_with(target, &[&line]).await;
                assert_eq!(Some(answer.text()), expected, "{line}");
                assert_eq!(answer.reason(), "key");
                assert_eq!(self.forwarded(&answer), Some(value.clone()));
            }
            seen.insert(expected);
        }
        assert_eq!(seen.len(), 2, "both versions have users");
    }
}

#[test]
fn every_example_passes_the_check_without_a_warning() {
    let files: Vec<_> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let names: BTreeSet<_> = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
    let expected =
        ["affinity_cookie", "client_ip", "long_lived_cookie", "path_regex", "session_cookie", "user_cookie"];
    assert_eq!(names, BTreeSet::from(expected));
    for file in &files {
        match gradual::cli::check::load(file) {
            Ok((_, report)) => assert_eq!(report.diagnostics, [], "{}", file.display()),
            Err(report) => panic!("{}", report.render(false)),
        }
    }
}

#[tokio::test]
async fn a_users_cookie_decides() {
    let recipe = Recipe::start("user_cookie").await;
    recipe.follows_cookies("user_id").await;
    // Who has none keeps the key that it sends, or draws.
    let answer = recipe.proxy.get_with("/", &["Cookie: theme=dark", &format!("{KEY}: mine")]).await;
    assert_eq!(recipe.forwarded(&answer).as_deref(), Some("mine"));
    assert_eq!(answer.reason(), "key");
    assert_eq!(recipe.proxy.get("/").await.reason(), "random");
}

#[tokio::test]
async fn a_cookie_whose_name_only_contains_the_other_has_no_value_and_takes_the_key_away() {
    let recipe = Recipe::start("user_cookie").await;
    let lines = ["Cookie: my_user_id=1", &format!("{KEY}: mine")];
    let mut seen = BTreeSet::new();
    for _ in 0..64 {
        let answer = recipe.proxy.get_with("/", &lines).await;
        assert_eq!((answer.reason().as_str(), recipe.forwarded(&answer)), ("random", None));
        seen.insert(answer.text().to_owned());
    }
    assert_eq!(seen.len(), 2, "drawn anew each time");
    let arguments = ["/", "--header", lines[0], "--header", lines[1]];
    assert_eq!(recipe.explained(&arguments), (None, Value::Null));
}

#[tokio::test]
async fn a_sessions_cookie_decides() {
    Recipe::start("session_cookie").await.follows_cookies("session_id").await;
}

#[tokio::test]
async fn the_clients_address_decides_also_through_a_trusted_proxy() {
    let recipe = Recipe::start("client_ip").await;
    let own = recipe.proxy.get("/").await;
    assert_eq!(recipe.forwarded(&own).as_deref(), Some("127.0.0.1"));
    assert_eq!(Some(own.text()), recipe.explained(&["/", "--ip", "127.0.0.1"]).0);
    let mut seen = BTreeSet::new();
    for n in 0..24 {
        // What stands before the client's own address is only what the client says.
        let line = format!("X-Forwarded-For: 127.9.9.9, 192.0.2.{n}");
        let answer = recipe.proxy.get_with("/", &[&line]).await;
        assert_eq!(recipe.forwarded(&answer), Some(format!("192.0.2.{n}")));
        let expected = recipe.explained(&["/", "--ip", "127.0.0.1", "--header", &line]);
        assert_eq!((Some(answer.text()), Value::from(format!("192.0.2.{n}"))), expected);
        seen.insert(answer.text().to_owned());
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn nobody_else_is_believed_who_says_for_whom_he_asks() {
    let mut recipe = Recipe::start("client_ip").await;
    let trusting = "trusted_proxies = [\"127.0.0.1\"]";
    assert!(recipe.text.contains(trusting));
    recipe.text = recipe.text.replace(trusting, "trusted_proxies = [\"10.0.0.0/8\"]");
    recipe.proxy = Proxy::start(tempfile::tempdir().unwrap(), &recipe.text).await;
    let answer = recipe.proxy.get_with("/", &["X-Forwarded-For: 192.0.2.1"]).await;
    assert_eq!(recipe.forwarded(&answer).as_deref(), Some("127.0.0.1"));
}

/// An application that gives its visitors the cookie itself.
fn giving(name: &'static str) -> impl Fn(Request<Incoming>) -> std::future::Ready<Response<Body>> {
    move |request| {
        let cookies = request.headers().get_all("cookie").iter();
        let has = cookies
            .flat_map(|line| line.to_str().unwrap().split(';'))
            .any(|pair| pair.trim_start().starts_with("version-key="));
        let mut response = Response::new(body(name));
        if !has {
            let id = uuid::Uuid::new_v4();
            let line = format!("version-key={id}; Path=/; HttpOnly; Secure; SameSite=Lax; Max-Age=31536000");
            response.headers_mut().append("set-cookie", line.parse().unwrap());
        }
        std::future::ready(response)
    }
}

#[tokio::test]
async fn every_user_of_an_application_that_gives_a_cookie_is_on_one_version_from_the_second_request_on() {
    let v1 = backend("v1").answering(giving("v1")).start().await;
    let recipe =
        Recipe::before("long_lived_cookie", (v1, backend("v2").answering(giving("v2")).start().await)).await;
    let mut connection = recipe.proxy.connect().await;
    let mut ask = async |lines: String| {
        connection.send(format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{lines}\r\n")).await;
        connection.answer().await
    };
    let (mut seen, mut moved) = (BTreeSet::new(), 0);
    for user in 0..300 {
        let first = ask(String::new()).await;
        assert_eq!(first.reason(), "random");
        let given = first.header("set-cookie").unwrap();
        let cookie = format!("Cookie: {}", given.split(';').next().unwrap());
        let expected = recipe.explained(&["/", "--header", &cookie]).0;
        for _ in 0..3 {
            let next = ask(format!("{cookie}\r\n")).await;
            assert_eq!((Some(next.text()), next.header("set-cookie")), (expected, None), "user {user}");
            assert_eq!(next.reason(), "key");
        }
        moved += usize::from(Some(first.text()) != expected);
        seen.insert(expected);
    }
    assert_eq!(seen.len(), 2);
    assert!(moved > 0, "the first request knows nothing of the cookie yet");
}

#[tokio::test]
async fn the_rest_of_an_assets_path_decides_and_other_requests_keep_their_clients_key() {
    let recipe = Recipe::start("path_regex").await;
    let mut seen = BTreeSet::new();
    for (target, key) in [
        ("/asset/img/logo.png", "img/logo.png"),
        ("/asset/img/logo.png?v=2", "img/logo.png"),
        ("/asset/app.js", "app.js"),
        ("/asset/asset/app.css", "asset/app.css"),
        ("/asset/a%20b", "a%20b"),
        ("/asset/c", "c"),
        ("/asset/d", "d"),
        ("/asset/e", "e"),
    ] {
        let (expected, explained) = recipe.explained(&[target, "--key", "mine"]);
        assert_eq!(explained, key);
        for line in [KEY.to_owned() + ": mine", "X-Other: 1".to_owned()] {
            let answer = recipe.proxy.get_with(target, &[&line]).await;
            assert_eq!(Some(answer.text()), expected, "{target}");
            assert_eq!(recipe.forwarded(&answer).as_deref(), Some(key), "{target}");
        }
        seen.insert(expected);
    }
    assert_eq!(seen.len(), 2);
    for target in ["/", "/assets/app.js", "/x/asset/app.js"] {
        let answer = recipe.proxy.get_with(target, &[&format!("{KEY}: mine")]).await;
        assert_eq!(recipe.forwarded(&answer).as_deref(), Some("mine"), "{target}");
        assert_eq!(recipe.proxy.get(target).await.reason(), "random");
    }
    // Nothing behind the folder is no value: the header is removed.
    let answer = recipe.proxy.get_with("/asset/", &[&format!("{KEY}: mine")]).await;
    assert_eq!((answer.reason().as_str(), recipe.forwarded(&answer)), ("random", None));
}

#[tokio::test]
async fn with_the_affinity_cookie_the_first_page_view_is_final() {
    let recipe = Recipe::start("affinity_cookie").await;
    let page = "Accept: text/html";
    let mut seen = BTreeSet::new();
    for _ in 0..24 {
        let first = recipe.proxy.get_with("/", &[page]).await;
        let given = first.header("set-cookie").unwrap();
        let cookie = format!("Cookie: {}", given.split(';').next().unwrap());
        let (expected, key) = recipe.explained(&["/", "--header", page, "--header", &cookie]);
        assert_eq!(Some(first.text()), expected);
        assert_eq!(recipe.forwarded(&first).as_deref(), key.as_str());
        let next = recipe.proxy.get_with("/next", &[page, &cookie]).await;
        assert_eq!((Some(next.text()), next.header("set-cookie")), (expected, None));
        seen.insert(expected);
    }
    assert_eq!(seen.len(), 2);
    assert_eq!(recipe.explained(&["/", "--header", page]), (None, Value::Null));
}

//! Upstreams that fail requests, as the admin address tells of them: retries and ejections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

use super::{Patient, get, get_with_override, hall, stage, text, version};
use crate::control::stage::{Stage, eventually};
use crate::support::{Backend, file, raw_backend};

/// A backend that closes when it has read a request.
struct Closing {
    backend: Backend,
    read: Arc<AtomicUsize>,
}

impl Closing {
    fn new(hall: &Runtime) -> Self {
        let read = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&read);
        let backend = raw_backend(move |mut socket| {
            let count = Arc::clone(&count);
            async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = socket.read_u8().await else { return };
                    head.push(byte);
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { backend: hall.block_on(backend), read }
    }

    /// How many requests it has read.
    fn read(&self) -> usize {
        self.read.load(Ordering::SeqCst)
    }
}

/// The samples of a family, without its name.
fn samples(stage: &Stage, family: &str) -> Vec<String> {
    let metrics = stage.ask("GET /metrics HTTP/1.1\r\nHost: localhost").body;
    let of_family =
        |line: &str| line.strip_prefix(family).filter(|rest| rest.starts_with('{')).map(str::to_owned);
    metrics.lines().filter_map(of_family).collect()
}

/// How many retries are told of a version, whatever came of them.
fn retries(stage: &Stage, id: &str) -> usize {
    let retries = version(stage, id)["retries"].clone();
    let counts = retries.as_object().unwrap().values().map(|count| count.as_u64().unwrap());
    usize::try_from(counts.sum::<u64>()).unwrap()
}

/// How each address of a version stands: whether it is ejected, how often it was, and whether it is healthy.
fn endpoints(stage: &Stage, id: &str) -> Vec<(String, bool, u64, bool)> {
    let version = version(stage, id);
    let upstreams = version["health"].as_array().unwrap().clone();
    let endpoint = |upstream: &serde_json::Value| {
        let [endpoint] = &upstream["endpoints"].as_array().unwrap()[..] else { panic!("{upstream}") };
        let url = format!("http://{}", endpoint["address"].as_str().unwrap());
        assert_eq!(upstream["upstream"], url);
        let is = |what: &str| endpoint[what].as_bool().unwrap();
        (url, is("ejected"), endpoint["ejections"].as_u64().unwrap(), is("healthy"))
    };
    upstreams.iter().map(endpoint).collect()
}

#[test]
fn an_upstream_that_is_ejected_and_what_its_version_was_spared_are_told_of_it_alone() {
    let hall = hall();
    let (bad, good) = (Closing::new(&hall), Patient::new(&hall, "v1"));
    let (bad_url, good_url) = (bad.backend.url(), good.backend.url());
    let stage = stage(&file().version_at("v1", &[bad_url, good_url], 100));
    let of = |url: &str, value: u32| format!("{{worker=\"shop\",version=\"v1\",upstream=\"{url}\"}} {value}");
    assert_eq!(samples(&stage, "gradual_upstream_ejected"), [of(bad_url, 0), of(good_url, 0)]);
    assert!(samples(&stage, "gradual_upstream_ejections_total").is_empty());
    assert_eq!(
        endpoints(&stage, "v1"),
        [(bad_url.to_owned(), false, 0, true), (good_url.to_owned(), false, 0, true)]
    );
    let mut asked = 0;
    while bad.read() < 5 || asked < 20 {
        assert!(get(&stage, "").is_good("random"));
        asked += 1;
    }
    // Each of the five was answered by the other one instead.
    assert_eq!((bad.read(), good.requests()), (5, asked));
    let spared = json!({ "success": 5, "failure": 0, "budget": 0 });
    eventually("the retries are told", || retries(&stage, "v1") == 5);
    assert_eq!(version(&stage, "v1")["retries"], spared);
    let retries = "{worker=\"shop\",version=\"v1\",result=\"success\"} 5";
    assert_eq!(samples(&stage, "gradual_upstream_retries_total"), [retries]);
    assert_eq!(samples(&stage, "gradual_upstream_ejected"), [of(bad_url, 1), of(good_url, 0)]);
    assert_eq!(samples(&stage, "gradual_upstream_ejections_total"), [of(bad_url, 1)]);
    assert_eq!(
        endpoints(&stage, "v1"),
        [(bad_url.to_owned(), true, 1, true), (good_url.to_owned(), false, 0, true)]
    );
    assert_eq!(version(&stage, "v1")["up"], true);
    // When it leaves the file, only what was counted stays.
    stage.write(&text(&file().version("v1", &good.backend, 100)));
    stage.reload().unwrap();
    assert_eq!(samples(&stage, "gradual_upstream_ejected"), [of(good_url, 0)]);
    assert_eq!(samples(&stage, "gradual_upstream_ejections_total"), [of(bad_url, 1)]);
    assert_eq!(endpoints(&stage, "v1"), [(good_url.to_owned(), false, 0, true)]);
}

#[test]
fn retries_that_failed_and_those_that_the_budget_did_not_allow_are_told_apart_by_version() {
    let hall = hall();
    let (bad, good) = (Closing::new(&hall), Patient::new(&hall, "v1"));
    let stage = stage(&file().version("v1", &good.backend, 100).version("v2", &bad.backend, 0));
    let asked = 60;
    for _ in 0..asked {
        assert_eq!(get_with_override(&stage, "v2").error, "upstream-closed");
        assert!(get(&stage, "").is_good("random"));
    }
    // What came twice was tried again, what came once was not.
    let failure = bad.read() - asked;
    let budget = asked - failure;
    let spared = json!({ "success": 0, "failure": failure, "budget": budget });
    eventually("the retries are told", || retries(&stage, "v2") == asked);
    assert_eq!(version(&stage, "v2")["retries"], spared);
    let none = json!({ "success": 0, "failure": 0, "budget": 0 });
    assert_eq!(version(&stage, "v1")["retries"], none);
    let told = [("failure", failure), ("budget", budget)].into_iter().filter(|(_, count)| *count > 0);
    let told =
        told.map(|(result, count)| format!("{{worker=\"shop\",version=\"v2\",result=\"{result}\"}} {count}"));
    assert_eq!(samples(&stage, "gradual_upstream_retries_total"), told.collect::<Vec<_>>());
    // The last upstream of a version always gets its requests.
    let url = bad.backend.url().to_owned();
    assert_eq!(endpoints(&stage, "v2"), [(url, false, 0, true)]);
    assert!(samples(&stage, "gradual_upstream_ejections_total").is_empty());
}

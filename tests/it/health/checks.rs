//! What is asked, what answers count, and what is said about it.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gradual::config::Address;
use http::Response;
use serde_json::Value;

use super::{CHECK, Local, Patient, eventually_up, get, hall, series, stage, stage_with, text, version};
use crate::control::stage::eventually;
use crate::support::{Authority, Proxy, backend, body, file};

#[test]
fn an_upstream_that_fails_its_checks_gets_no_request_until_it_passes_them_again() {
    let hall = hall();
    let patient = Patient::new(&hall, "v1");
    let stage = stage(&file().version("v1", &patient.backend, 100).version_with(CHECK));
    eventually("it was checked", || patient.checks() > 3);
    assert!(get(&stage, "").is_good("random"));
    patient.answers(500);
    eventually_up(&stage, "v1", false);
    for _ in 0..3 {
        assert!(get(&stage, "").is_bad("no-healthy-upstream", "random"));
    }
    patient.answers(204);
    eventually_up(&stage, "v1", true);
    assert!(get(&stage, "").is_good("random"));
}

#[test]
fn a_retained_version_is_checked_like_those_in_the_deployment() {
    let hall = hall();
    let (own, retained) = (Patient::new(&hall, "v1"), Patient::new(&hall, "v2"));
    let file = file().worker("assets = { paths = [\"*.js\"], retain = [\"v2\"] }");
    let file = file.version("v1", &own.backend, 100).spare("v2", &retained.backend).version_with(CHECK);
    let stage = stage(&file);
    eventually("it was checked", || retained.checks() > 3);
    retained.answers(500);
    eventually_up(&stage, "v2", false);
}

#[test]
fn the_status_and_the_metrics_say_how_upstreams_are() {
    let hall = hall();
    let patient = Patient::new(&hall, "v1");
    let other = Patient::new(&hall, "v2");
    let file = file().version("v1", &patient.backend, 50).version_with(CHECK);
    let stage = stage(&file.version("v2", &other.backend, 50));
    let url = patient.backend.url();
    let labels = format!("{{worker=\"shop\",version=\"v1\",upstream=\"{url}\"");
    let checked =
        |result| series(&stage, &format!("gradual_health_checks_total{labels},result=\"{result}\"}}"));
    eventually("a check is counted", || checked("success").is_some_and(|count| count > 1.0));
    assert_eq!(checked("failure"), None);
    assert_eq!(series(&stage, &format!("gradual_upstream_healthy{labels}")), Some(1.0));
    patient.answers(503);
    eventually_up(&stage, "v1", false);
    assert!(checked("failure").is_some_and(|count| count > 1.0));
    assert_eq!(series(&stage, &format!("gradual_upstream_healthy{labels}")), Some(0.0));
    assert_eq!(series(&stage, "gradual_version_up{worker=\"shop\",version=\"v1\"}"), Some(0.0));
    assert_eq!(series(&stage, "gradual_version_up{worker=\"shop\",version=\"v2\"}"), Some(1.0));
    let shown = version(&stage, "v1")["health"][0].clone();
    let endpoint = &shown["endpoints"][0];
    assert_eq!((&shown["upstream"], &shown["healthy"]), (&url.into(), &false.into()));
    assert_eq!(endpoint["address"], url.trim_start_matches("http://"));
    assert_eq!((&endpoint["healthy"], &endpoint["fails_checks"]), (&false.into(), &true.into()));
    assert_eq!(
        (&endpoint["refused_in_a_row"], &endpoint["checked"]["result"]),
        (&0.into(), &"failure".into())
    );
    assert_eq!(endpoint["checked"]["error"], "the status is 503");
    assert!(endpoint["checked"]["time"].as_str().unwrap().ends_with('Z'));
    let other = version(&stage, "v2");
    assert_eq!((&other["up"], &other["health"][0]["endpoints"][0]["checked"]), (&true.into(), &Value::Null));
}

#[test]
fn a_check_is_a_get_of_its_path_for_the_upstreams_own_host_or_the_one_that_is_named() {
    let hall = hall();
    for (h2c, host) in [(false, None), (false, Some("internal")), (true, None), (true, Some("internal"))] {
        let patient = Patient::speaking(&hall, "v1", h2c);
        let named = host.map(|host| format!("host = \"{host}\", ")).unwrap_or_default();
        let check = format!("health = {{ path = \"/up?deep=1\", {named}interval = \"5ms\" }}");
        let _stage = stage(&file().version("v1", &patient.backend, 100).version_with(&check));
        eventually("it was checked", || patient.checks() > 0);
        let check = &patient.checks.lock().unwrap()[0];
        let (_, own) = patient.backend.url().split_once("://").unwrap();
        let expected = host.unwrap_or(own);
        assert_eq!(
            (check.method().as_str(), check.uri().path_and_query().unwrap().as_str()),
            ("GET", "/up?deep=1")
        );
        let host = if h2c {
            check.uri().authority().unwrap().as_str()
        } else {
            check.headers()["host"].to_str().unwrap()
        };
        assert_eq!(host, expected);
        let agent = concat!("gradual-health-check/", env!("CARGO_PKG_VERSION"));
        assert_eq!(check.headers()["user-agent"], agent);
        assert_eq!(check.headers().contains_key("connection"), !h2c);
    }
}

#[test]
fn an_upstream_is_up_until_known_otherwise() {
    let hall = hall();
    let patient = Patient::new(&hall, "v1");
    patient.answers(500);
    let check = r#"health = { path = "/up", interval = "24h", fall = 1 }"#;
    let stage = stage(&file().version("v1", &patient.backend, 100).version_with(check));
    assert!(get(&stage, "").is_good("random"));
    let shown = version(&stage, "v1");
    assert_eq!((&shown["up"], &shown["health"][0]["endpoints"][0]["checked"]), (&true.into(), &Value::Null));
}

#[test]
fn fewer_failures_in_a_row_than_a_fall_change_nothing() {
    let hall = hall();
    let checks = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&checks);
    let flapping = backend("v1").answering(move |_| {
        let failing = count.fetch_add(1, Ordering::SeqCst) % 3 < 2;
        let status = if failing { 500 } else { 200 };
        async move { Response::builder().status(status).body(body("v1")).unwrap() }
    });
    let flapping = hall.block_on(flapping.start());
    // Once down it would never be up again.
    let check = r#"health = { path = "/up", interval = "5ms", timeout = "30s", fall = 3, rise = 100 }"#;
    let stage = stage(&file().version("v1", &flapping, 100).version_with(check));
    eventually("it was checked often", || checks.load(Ordering::SeqCst) > 20);
    assert_eq!(version(&stage, "v1")["up"], true);
}

#[test]
fn an_upstream_that_does_not_answer_in_time_is_down() {
    let hall = hall();
    let hanging = backend("v1").answering(|request| async move {
        if request.uri().path() == "/up" {
            std::future::pending::<()>().await;
        }
        Response::new(body("v1"))
    });
    let hanging = hall.block_on(hanging.start());
    let check = r#"health = { path = "/up", interval = "5ms", timeout = "20ms", fall = 1 }"#;
    let stage = stage(&file().version("v1", &hanging, 100).version_with(check));
    eventually_up(&stage, "v1", false);
    let shown = version(&stage, "v1");
    assert_eq!(shown["health"][0]["endpoints"][0]["checked"]["error"], "no answer within 20ms");
}

#[test]
fn a_redirect_is_an_answer_and_is_not_followed() {
    let hall = hall();
    let patient = Patient::new(&hall, "v1");
    patient.answers(302);
    let stage_of = |status: &str| {
        let check = format!("health = {{ path = \"/up\", {status}interval = \"5ms\", timeout = \"30s\" }}");
        stage(&file().version("v1", &patient.backend, 100).version_with(&check))
    };
    eventually_up(&stage_of(""), "v1", false);
    let tolerant = stage_of("status = [\"200\", \"300-399\"], ");
    let before = patient.checks();
    eventually("it was checked", || patient.checks() > before + 5);
    assert_eq!(version(&tolerant, "v1")["up"], true);
}

#[test]
fn an_upstream_by_tls_is_checked_as_the_version_is_connected_to() {
    let hall = hall();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write(folder.path(), "back", &["localhost"]);
    let listener = "tls = [{ certificate = \"back.pem\", key = \"back.key\" }]\nhealth_path = \"/up\"";
    let back = file().version_at("v", &["http://127.0.0.1:9"], 100).listener(listener);
    let back = hall.block_on(Proxy::start(folder, &back.text()));
    let url = format!("https://{}", back.authority());
    let stage_of = |authority: &Authority| {
        let lines = format!("tls = {{ ca = \"ca.pem\", server_name = \"localhost\" }}\n{CHECK}");
        let file = file().version_at("v1", &[&url], 100).version_with(&lines);
        stage_with(&file, |folder| authority.write_itself(folder, "ca"))
    };
    let trusting = stage_of(&authority);
    let labels = format!("worker=\"shop\",version=\"v1\",upstream=\"{url}\",result=\"success\"");
    let good = format!("gradual_health_checks_total{{{labels}}}");
    eventually("checks succeed", || series(&trusting, &good).is_some_and(|count| count > 2.0));
    assert_eq!(version(&trusting, "v1")["up"], true);
    let wary = stage_of(&Authority::new());
    eventually_up(&wary, "v1", false);
    let shown = version(&wary, "v1");
    let error = shown["health"][0]["endpoints"][0]["checked"]["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("the TLS handshake failed: "), "{error}");
}

#[test]
fn an_upstream_at_a_unix_socket_is_checked_there() {
    let hall = hall();
    let file = file().version_at("v1", &["unix:v1.sock"], 100).version_with(CHECK);
    let stage = stage(&file);
    eventually_up(&stage, "v1", false);
    let shown = version(&stage, "v1");
    let error = shown["health"][0]["endpoints"][0]["checked"]["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("no connection: "), "{error}");
    let _local = Local::new(&hall, &stage.folder.path().join("v1.sock"), "v1");
    eventually_up(&stage, "v1", true);
    assert!(get(&stage, "").is_good("random"));
}

#[test]
fn a_name_is_healthy_where_any_of_its_addresses_is() {
    let hall = hall();
    let patient = Patient::new(&hall, "v1");
    let port = patient.backend.url().rsplit_once(':').unwrap().1;
    let url = format!("http://localhost:{port}");
    let stage = stage(&file().version_at("v1", &[&url], 100).version_with(CHECK));
    eventually("every address was checked", || {
        let shown = version(&stage, "v1");
        let endpoints = shown["health"][0]["endpoints"].as_array().unwrap();
        !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint["checked"].is_object())
    });
    assert_eq!(version(&stage, "v1")["health"][0]["healthy"], true);
    patient.answers(500);
    eventually_up(&stage, "v1", false);
}

#[test]
fn a_reload_leaves_the_state_of_upstreams_that_it_does_not_change() {
    let hall = hall();
    let patient = Patient::new(&hall, "v1");
    patient.answers(500);
    // Ten seconds from here to there, so that what is seen below was known before.
    let slow = r#"health = { path = "/up", interval = "100ms", timeout = "30s", fall = 1, rise = 100 }"#;
    let unchanged = file().version("v1", &patient.backend, 100).version_with(slow);
    let stage = stage(&unchanged);
    eventually_up(&stage, "v1", false);
    patient.answers(200);
    stage.write(&text(&unchanged.clone().worker("keys = \"never\"")));
    stage.reload().unwrap();
    assert!(get(&stage, "").is_bad("no-healthy-upstream", "random"));
    // Without checks nothing is known against it.
    stage.write(&text(&file().version("v1", &patient.backend, 100)));
    stage.reload().unwrap();
    assert!(get(&stage, "").is_good("random"));
    eventually("nothing is checked any more", || {
        let before = patient.checks();
        std::thread::sleep(Duration::from_millis(300));
        patient.checks() == before
    });
    // Checks that come with a reload begin.
    patient.answers(500);
    stage.write(&text(&unchanged));
    stage.reload().unwrap();
    eventually_up(&stage, "v1", false);
}

#[test]
fn a_check_that_comes_again_knows_what_requests_under_way_still_remember() {
    let hall = hall();
    let patient = Patient::new(&hall, "v1");
    let checked = file().version("v1", &patient.backend, 100).version_with(CHECK);
    let stage = stage(&checked);
    let mut hanging = match &stage.handle.listeners()[0] {
        Address::Tcp(address) => TcpStream::connect(address).unwrap(),
        Address::Unix(path) => panic!("a Unix socket: {}", path.display()),
    };
    hanging.write_all(b"GET /hang HTTP/1.1\r\nHost: shop.example\r\n\r\n").unwrap();
    eventually("it is under way", || patient.requests() > 0);
    patient.answers(500);
    eventually_up(&stage, "v1", false);
    stage.write(&text(&file().version("v1", &patient.backend, 100)));
    stage.reload().unwrap();
    eventually_up(&stage, "v1", true);
    patient.answers(200);
    stage.write(&text(&checked));
    stage.reload().unwrap();
    // From the verdict before, which the request under way has kept.
    eventually_up(&stage, "v1", true);
}

#[test]
fn versions_at_one_upstream_are_judged_by_their_own_checks() {
    let hall = hall();
    let patient = Patient::new(&hall, "v1 v2 v3");
    patient.answers(500);
    let well = CHECK.replace("/up", "/well");
    let file = file().version("v1", &patient.backend, 30).version_with(CHECK);
    let file = file.version("v2", &patient.backend, 30).version_with(&well);
    let stage = stage(&file.version("v3", &patient.backend, 40));
    eventually_up(&stage, "v1", false);
    let checked = |id| version(&stage, id)["health"][0]["endpoints"][0]["checked"]["result"].clone();
    eventually("the other was checked", || checked("v2") == "success");
    assert_eq!((&version(&stage, "v2")["up"], &version(&stage, "v3")["up"]), (&true.into(), &true.into()));
    assert_eq!(checked("v3"), Value::Null);
}

#[test]
fn of_several_upstreams_only_those_that_pass_their_checks_get_requests() {
    let hall = hall();
    let [well, sick] = ["v1 well", "v1 sick"].map(|name| Patient::new(&hall, name));
    let urls = [well.backend.url(), sick.backend.url()];
    let stage = stage(&file().version_at("v1", &urls, 100).version_with(CHECK));
    sick.answers(500);
    eventually("it is known", || version(&stage, "v1")["health"][1]["healthy"] == false);
    assert_eq!(version(&stage, "v1")["up"], true);
    let before = sick.requests();
    for _ in 0..40 {
        assert!(get(&stage, "").is_good("random"));
    }
    assert_eq!(sick.requests(), before);
    sick.answers(200);
    eventually("it gets requests again", || {
        get(&stage, "");
        sick.requests() > before
    });
}

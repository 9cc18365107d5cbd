//! What the admin address answers, and where it is.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use gradual::config::Address;
use gradual::control::Ended;

use super::stage::{ANY_PORT, Stage, eventually, exchange, file, worker};

const READY: &str = "GET /readyz HTTP/1.1\r\nHost: localhost";

#[test]
fn the_status_names_workers_deployments_and_shares() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let status = stage.status();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["generation"], 1);
    assert_eq!(status["ready"], true);
    assert_eq!(status["file"], stage.path().display().to_string());
    assert_eq!(status["admin"], stage.handle.admin().unwrap().to_string());
    assert_eq!(status["threads"], stage.handle.status().threads());
    assert_eq!(status["needs_restart"], serde_json::json!([]));
    assert_eq!(status["last_reload"], serde_json::Value::Null);
    assert_eq!(status["log"]["dropped"], 0);
    assert!(status["load"]["connections"].is_u64());
    assert!(status["started"].as_str().unwrap().ends_with('Z'));
    let worker = &status["workers"][0];
    assert_eq!(worker["name"], "shop");
    let versions = &worker["deployment"]["versions"];
    assert_eq!(versions[0]["version_id"], "db7cd8d3-4425-4fe7-8c81-01bf963b6067");
    assert_eq!((&versions[0]["tag"], &versions[0]["percentage"]), (&"v1".into(), &90.into()));
    assert_eq!((&versions[1]["tag"], &versions[1]["percentage"]), (&().into(), &10.into()));
    assert_eq!(worker["versions"][0]["upstreams"][0], "http://127.0.0.1:9");
    assert_eq!(worker["deployment"]["id"].as_str().unwrap().len(), 36);
}

#[test]
fn metrics_are_prometheus_text() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let metrics = stage.ask("GET /metrics HTTP/1.1\r\nHost: localhost");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
}

#[test]
fn a_stop_ends_in_order_and_the_admin_address_with_it() {
    let mut stage = Stage::new(&file(ANY_PORT, 90));
    assert_eq!(stage.ask(READY).status, 200);
    let address = stage.handle.admin().unwrap();
    assert_eq!(stage.end(), Ended::Drained { cut: 0 });
    let Address::Tcp(address) = address else { panic!("not TCP") };
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_unix_socket_serves_its_owner_and_goes_with_the_process() {
    let mut stage = Stage::new(&file(r#"address = "unix:admin.sock""#, 90));
    let path = stage.folder.path().join("admin.sock");
    assert_eq!(stage.handle.admin(), Some(Address::Unix(path.clone())));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(stage.ask(READY).status, 200);
    stage.end();
    assert!(stage.folder.path().exists() && !path.exists());
    assert!(!stage.handle.status().is_ready());
}

#[test]
fn a_reload_moves_the_admin_address() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    let Some(Address::Tcp(old)) = stage.handle.admin() else { panic!("not TCP") };
    stage.write(&file(r#"address = "unix:admin.sock""#, 90));
    let answer = exchange(
        &Address::Tcp(old),
        "POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json",
    );
    assert_eq!((answer.status, &answer.json()["generation"]), (200, &2.into()));
    assert_eq!(stage.ask(READY).status, 200);
    assert_eq!(stage.status()["admin"], stage.handle.admin().unwrap().to_string());
    eventually("the old address closes", || std::net::TcpStream::connect(old).is_err());
    assert!(stage.reload().is_ok());
    assert_eq!(stage.ask(READY).status, 200);
}

#[test]
fn a_configured_admin_address_that_is_taken_is_an_error_and_changes_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stage = Stage::new(&file(ANY_PORT, 90));
    let before = stage.handle.admin();
    stage.write(&file(&format!("address = \"{}\"", taken.local_addr().unwrap()), 50));
    let report = stage.reload().unwrap_err();
    assert!(report.render(false).contains("cannot be listened on"), "{}", report.render(false));
    assert_eq!(stage.handle.admin(), before);
    assert_eq!(stage.status()["generation"], 1);
}

#[test]
fn the_status_and_the_metrics_say_who_still_holds_a_version_that_left() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = worker(ANY_PORT, 100, &format!("http://{}", upstream.local_addr().unwrap()));
    let stage = Stage::new(&text);
    let mut client = std::os::unix::net::UnixStream::connect(stage.folder.path().join("front.sock")).unwrap();
    let overrides = "Cloudflare-Workers-Version-Overrides: shop=\"dc8dcd28-271b-4367-9840-6c244f84cb40\"";
    write!(client, "GET / HTTP/1.1\r\nHost: a\r\n{overrides}\r\n\r\n").unwrap();
    let (mut held, _) = upstream.accept().unwrap();
    let series = "gradual_retired_streams";
    let metrics = || stage.ask("GET /metrics HTTP/1.1\r\nHost: localhost").body;
    assert_eq!(stage.status()["retired"], serde_json::json!([]));
    assert!(!metrics().contains(series));
    let left = text.replace("{ version_id = \"dc8dcd28-271b-4367-9840-6c244f84cb40\", percentage = 0 },", "");
    stage.write(&left);
    stage.reload().unwrap();
    let version = "dc8dcd28-271b-4367-9840-6c244f84cb40";
    let held_by =
        serde_json::json!([{ "worker": "shop", "version_id": version, "requests": 1, "tunnels": 0 }]);
    assert_eq!(stage.status()["retired"], held_by);
    assert!(metrics().contains(&format!("{series}{{worker=\"shop\",version=\"{version}\"}} 1\n")));
    held.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    eventually("nobody holds it", || stage.status()["retired"] == serde_json::json!([]));
}

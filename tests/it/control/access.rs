//! Who may do what on the admin address.

use super::stage::{ANY_PORT, Stage, file};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// One row: a request without its final empty line, and the status it gets.
fn check(stage: &Stage, rows: &[(&str, u16)]) {
    for (request, status) in rows {
        let answer = stage.ask(request);
        assert_eq!(answer.status, *status, "{request:?}: {answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{request:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{request:?}");
        let probe = request.contains(" /readyz ") || request.contains(" /healthz ");
        if *status >= 400 && !probe && !request.starts_with("HEAD") {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{request:?}");
            assert_eq!(answer.json()["status"], *status, "{request:?}");
        }
    }
}

fn with_token(admin: &str) -> Stage {
    Stage::start(&file(&format!("{ANY_PORT}\ntoken_file = \"admin.token\"\n{admin}"), 90), false, |folder| {
        std::fs::write(folder.join("admin.token"), format!("{TOKEN}\n")).unwrap();
    })
}

#[test]
fn every_request_names_a_host_that_is_ours() {
    let stage = Stage::new(&file(&format!("{ANY_PORT}\nhosts = [\"gradual.internal\"]"), 90));
    check(
        &stage,
        &[
            ("GET /api/v1/status HTTP/1.1\r\nHost: localhost", 200),
            ("GET /api/v1/status HTTP/1.1\r\nHost: 127.0.0.1:1234", 200),
            ("GET /api/v1/status HTTP/1.1\r\nHost: [::1]:9900", 200),
            ("GET /api/v1/status HTTP/1.1\r\nHost: Gradual.Internal", 200),
            ("GET http://localhost/api/v1/status HTTP/1.1\r\nHost: localhost", 200),
            ("GET /metrics HTTP/1.1\r\nHost: localhost:1", 200),
            ("GET /api/v1/status HTTP/1.1\r\nHost: evil.example", 403),
            ("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 403),
            ("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example", 403),
            ("GET http://evil.example/api/v1/status HTTP/1.1\r\nHost: localhost", 403),
            ("GET /api/v1/status HTTP/1.0", 403),
            ("GET /api/v1/status HTTP/1.1\r\nHost: ", 403),
            ("GET /metrics HTTP/1.1\r\nHost: evil.example", 403),
            ("GET /unknown HTTP/1.1\r\nHost: evil.example", 403),
            ("POST /api/v1/reload HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json", 403),
        ],
    );
}

#[test]
fn probes_need_neither_host_nor_token() {
    let stage = with_token("");
    check(
        &stage,
        &[
            ("GET /healthz HTTP/1.1\r\nHost: evil.example", 200),
            ("GET /readyz HTTP/1.1\r\nHost: 10.0.0.1:9900", 200),
            ("GET /healthz HTTP/1.0", 200),
            ("HEAD /readyz HTTP/1.1\r\nHost: x", 200),
        ],
    );
}

#[test]
fn a_write_is_json_from_no_foreign_page() {
    let stage = Stage::new(&file(&format!("{ANY_PORT}\nhosts = [\"gradual.internal\"]"), 90));
    let post = |more: &str| format!("POST /api/v1/reload HTTP/1.1\r\nHost: localhost:9900{more}");
    let json = "\r\nContent-Type: application/json";
    for (more, status) in [
        (json.to_owned(), 200),
        ("\r\ncontent-type: Application/JSON; charset=utf-8".to_owned(), 200),
        (format!("{json}\r\nOrigin: http://localhost:9900"), 200),
        (format!("{json}\r\nOrigin: https://gradual.internal"), 200),
        (format!("{json}\r\nContent-Length: 2\r\n\r\n{{}}"), 200),
        (String::new(), 415),
        ("\r\nContent-Type: text/plain".to_owned(), 415),
        ("\r\nContent-Type: application/x-www-form-urlencoded".to_owned(), 415),
        (format!("{json}{json}"), 415),
        (format!("{json}\r\nOrigin: http://evil.example"), 403),
        (format!("{json}\r\nOrigin: http://localhost:3000"), 403),
        (format!("{json}\r\nOrigin: null"), 403),
        (format!("{json}\r\nOrigin: http://localhost:9900\r\nOrigin: http://evil.example"), 403),
        (format!("{json}\r\nContent-Length: 1\r\n\r\n["), 400),
        (format!("{json}\r\nContent-Length: 70000\r\n\r\n{}", " ".repeat(70_000)), 413),
    ] {
        check(&stage, &[(&post(&more), status)]);
    }
}

#[test]
fn where_a_token_is_set_it_is_required_everywhere_and_takes_the_place_of_the_host() {
    let stage = with_token("metrics = \"token\"");
    let good = format!("Authorization: Bearer {TOKEN}");
    let json = "Content-Type: application/json";
    for (request, status) in [
        ("GET /api/v1/status HTTP/1.1\r\nHost: localhost".to_owned(), 401),
        ("GET /metrics HTTP/1.1\r\nHost: localhost".to_owned(), 401),
        ("GET /unknown HTTP/1.1\r\nHost: localhost".to_owned(), 401),
        (format!("POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n{json}"), 401),
        (format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n{good}"), 200),
        (format!("GET /api/v1/status HTTP/1.1\r\nHost: proxy.example\r\n{good}"), 200),
        (format!("GET /metrics HTTP/1.1\r\nHost: proxy.example\r\n{good}"), 200),
        (format!("GET /unknown HTTP/1.1\r\nHost: proxy.example\r\n{good}"), 404),
        (format!("POST /api/v1/reload HTTP/1.1\r\nHost: proxy.example\r\n{good}\r\n{json}"), 200),
        (format!("POST /api/v1/reload HTTP/1.1\r\nHost: proxy.example\r\n{good}"), 415),
        (
            format!(
                "POST /api/v1/reload HTTP/1.1\r\nHost: p.example\r\n{good}\r\n{json}\r\nOrigin: http://evil"
            ),
            403,
        ),
        (format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n{good}0"), 401),
        (format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\n{good}\r\n{good}"), 401),
        (format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {TOKEN}"), 401),
        (format!("GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: bearer  {TOKEN}"), 200),
    ] {
        check(&stage, &[(&request, status)]);
    }
    let refused = stage.ask("GET /api/v1/status HTTP/1.1\r\nHost: localhost");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"gradual\""));
}

#[test]
fn open_metrics_need_no_token_but_a_host_that_is_ours() {
    let stage = with_token("metrics = \"open\"");
    check(
        &stage,
        &[
            ("GET /metrics HTTP/1.1\r\nHost: localhost", 200),
            ("GET /metrics HTTP/1.1\r\nHost: evil.example", 403),
            ("GET /api/v1/status HTTP/1.1\r\nHost: localhost", 401),
        ],
    );
}

#[test]
fn unknown_paths_and_wrong_methods_are_told_apart() {
    let stage = Stage::new(&file(ANY_PORT, 90));
    check(
        &stage,
        &[
            ("GET / HTTP/1.1\r\nHost: localhost", 404),
            ("GET /api/v1/status/ HTTP/1.1\r\nHost: localhost", 404),
            ("POST /api/v1/status HTTP/1.1\r\nHost: localhost", 405),
            ("GET /api/v1/reload HTTP/1.1\r\nHost: localhost", 405),
            ("DELETE /metrics HTTP/1.1\r\nHost: localhost", 405),
            ("HEAD /api/v1/status HTTP/1.1\r\nHost: localhost", 200),
            ("OPTIONS * HTTP/1.1\r\nHost: localhost", 404),
        ],
    );
    let allow = |request: &str| stage.ask(request).header("allow").map(str::to_owned);
    assert_eq!(allow("GET /api/v1/reload HTTP/1.1\r\nHost: localhost").as_deref(), Some("POST"));
    assert_eq!(allow("POST /api/v1/status HTTP/1.1\r\nHost: localhost").as_deref(), Some("GET,HEAD"));
    let head = stage.ask("HEAD /api/v1/status HTTP/1.1\r\nHost: localhost");
    assert_eq!(head.body, "");
    assert_ne!(head.header("content-length"), Some("0"));
}

#[test]
fn a_new_token_counts_from_the_reload_on() {
    let stage = with_token("");
    let status = |token: &str| {
        let head = "GET /api/v1/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer";
        stage.ask(&format!("{head} {token}")).status
    };
    let other = TOKEN.to_uppercase();
    std::fs::write(stage.folder.path().join("admin.token"), &other).unwrap();
    assert_eq!((status(TOKEN), status(&other)), (200, 401));
    assert!(stage.reload().is_ok());
    assert_eq!((status(TOKEN), status(&other)), (401, 200));
    std::fs::write(stage.folder.path().join("admin.token"), "short").unwrap();
    assert!(stage.reload().unwrap_err().render(false).contains("holds no token"));
    assert_eq!(status(&other), 200);
}

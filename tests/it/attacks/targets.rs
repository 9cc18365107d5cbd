//! What a request is for: hosts against targets, forms of targets, and bytes in paths.

use super::frames::{Outcome, request as fields};
use super::language::{HTTP2, Reaches, Stage, Trial, request};

#[tokio::test]
async fn an_absolute_target_wins_over_host_and_is_what_the_upstream_sees() {
    let stage = Stage::new().await;
    for (line, target) in [
        ("GET http://good.example/ HTTP/1.1", "GET / HTTP/1.1"),
        ("GET http://good.example HTTP/1.1", "GET / HTTP/1.1"),
        ("GET https://good.example/a?b HTTP/1.1", "GET /a?b HTTP/1.1"),
    ] {
        let bytes = format!("{line}\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        assert_eq!(stage.answers(bytes).await.unwrap()[0].status, 200, "{line}");
        let heard = stage.upstream.last();
        assert_eq!((&heard.line[..], heard.field("host").as_deref()), (target, Some("good.example")));
    }
    assert!(!stage.upstream.all().contains("evil.example"));
}

#[tokio::test]
async fn over_http_2_the_authority_wins_over_host_or_the_request_is_refused() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    for way in HTTP2 {
        for hosts in [&["evil.example"][..], &["evil.example", "other.example"], &["evil.example/x"]] {
            let mut frames = stage.http2(way).await;
            let mut all = fields("GET", "/two");
            all.extend(hosts.iter().map(|&host| ("host", host)));
            frames.headers(1, true, &all);
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            let fine = outcome.is_malformed() || outcome == Outcome::Status(200);
            trial
                .note(&format!("{way:?} {hosts:?}"), if fine { Ok(()) } else { Err(format!("{outcome:?}")) });
        }
    }
    trial.end();
    stage.serves_neighbours().await;
    assert!(!stage.upstream.all().contains("evil.example"), "{}", stage.upstream.all());
    assert!(
        stage.upstream.requests().iter().all(|heard| heard.field("host").as_deref() == Some("shop.example"))
    );
}

#[tokio::test]
async fn targets_of_another_form_than_the_method_has_are_refused() {
    let stage = Stage::new().await;
    let cases = [
        "GET a:80",
        "GET t",
        "GET *",
        "POST *",
        "GET ?a",
        "GET //",
        "GET ftp://shop.example/",
        "GET file:///etc/passwd",
        "GET http://u@shop.example/",
        "GET http://u:p@shop.example/",
        "GET http:///a",
        "GET http://shop.example:x/",
        "GET gopher://a",
        "OPTIONS t",
        "GET http://",
        "GET shop.example:80/a",
    ];
    let cases: Vec<_> =
        cases.iter().filter(|&&line| line != "GET //").map(|&line| (line, request(line, "", ""))).collect();
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
}

// Over HTTP/2 controls and spaces in a path are among the pseudo-fields that are malformed.
#[tokio::test]
async fn fragments_controls_and_spaces_in_a_target_are_refused_or_cut() {
    let stage = Stage::new().await;
    let cases =
        ["GET /a\x00b", "GET /a\x7fb", "GET /a b", "GET /a\tb", "GET /\x01", "GET /a\x1b[31m", "GET /a?b c"];
    let cases: Vec<_> = cases.iter().map(|&line| (line, request(line, "", ""))).collect();
    stage.refuses(&[400], Reaches::Nothing, &cases).await;
    for line in ["GET /a#b", "GET /a?c#b", "GET /#", "GET http://shop.example/a#b", "GET /a#/../b"] {
        let replies = stage.answers(request(line, "Connection: close", "")).await.unwrap();
        assert!(replies.len() == 1 && matches!(replies[0].status, 200 | 400), "{line}: {replies:?}");
    }
    for way in HTTP2 {
        for path in ["/a#b", "/a?c#b", "/#", "/a#/../b"] {
            let mut frames = stage.http2(way).await;
            frames.get(1, path);
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            let fine = outcome.is_malformed() || outcome == Outcome::Status(200);
            assert!(fine, "{way:?} {path}: {outcome:?}");
        }
    }
    let heard = stage.upstream.requests();
    assert!(heard.iter().all(|heard| !heard.line.contains('#') && !heard.line.contains('b')), "{heard:?}");
}

#[tokio::test]
async fn the_bytes_of_a_path_are_never_decoded_or_tidied_up() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    let targets = [
        "/%0d%0aX:%20y",
        "/%2e%2e/a",
        "/a/../b",
        "//a",
        "/a//b",
        "/%00",
        "/a%2fb",
        "/;x=y",
        "/a?%0a",
        "/%zz",
    ];
    for target in targets {
        let status = stage.answers(request(&format!("GET {target}"), "Connection: close", "")).await.unwrap()
            [0]
        .status;
        trial.same(target, status, 200);
        trial.same(target, stage.upstream.last().line, format!("GET {target} HTTP/1.1"));
    }
    for way in HTTP2 {
        for target in targets {
            let mut frames = stage.http2(way).await;
            frames.get(1, target);
            frames.flush().await;
            frames.finished(1).await;
            let case = format!("{way:?} {target}");
            trial.same(&case, stage.upstream.last().line, format!("GET {target} HTTP/1.1"));
        }
    }
    trial.end();
}

//! Bodies that lie, stop or come too late: no byte of one is ever taken for a request, and no request is sent twice.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::frames::{
    CANCEL, DATA, END_STREAM, Frames, HEADERS, Outcome, RST_STREAM, SETTINGS, request as fields,
};
use super::language::{
    CANARY, HTTP2, OK, Reaches, Stage, Trial, Upstream, Way, When, chunked, refusal, replies, request,
};
use crate::support::eventually;

#[tokio::test]
async fn what_decides_or_frames_in_a_trailer_section_is_dropped_and_never_merged() {
    let stage = Stage::new().await;
    let forbidden = [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Host: evil.example",
        "X-Forwarded-For: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "Cloudflare-Workers-Version-Key: evil",
        "Cloudflare-Workers-Version-Overrides: shop=\"evil\"",
        "Gradual-Worker: evil",
        "Gradual-Version-Id: evil",
        "Authorization: evil",
        "Cookie: evil",
        "Connection: evil",
        "Via: evil",
        "Content-Type: evil",
        "TE: evil",
        "Trailer: evil",
        "Upgrade: evil",
    ];
    let section = forbidden.join("\r\n");
    let bytes = request(
        "POST /",
        "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\nConnection: close",
        &format!("2\r\nok\r\n0\r\n{section}\r\nX-Sum: 1\r\n\r\n"),
    );
    assert_eq!(stage.answers(bytes).await.unwrap()[0].status, 200);
    let heard = stage.upstream.last();
    assert_eq!(heard.trailers, [("x-sum".to_owned(), "1".to_owned())]);
    assert!(!stage.upstream.all().contains("evil"));
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        frames.headers(1, false, &fields("POST", "/h2"));
        frames.frame(DATA, 0, 1, b"ok");
        let names: Vec<(String, &str)> = forbidden
            .iter()
            .map(|line| {
                line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)).unwrap()
            })
            .collect();
        let names: Vec<_> = names.iter().map(|(name, value)| (&name[..], *value)).collect();
        frames.headers(1, true, &names);
        frames.flush().await;
        let outcome = frames.outcome(1).await;
        assert!(outcome.is_malformed() || outcome == Outcome::Status(200), "{way:?} {outcome:?}");
        assert!(!stage.upstream.all().contains("evil"));
    }
}

#[tokio::test]
async fn an_expectation_is_answered_once_and_an_unread_body_is_never_a_request() {
    let stage = Stage::new().await;
    let fields = format!("Expect: 100-continue\r\nConnection: close\r\nContent-Length: {}", CANARY.len());
    // The body is sent without waiting for the word.
    let said = stage.exchange(request("POST /", &fields, CANARY)).await.unwrap();
    let answers = replies(&said).unwrap();
    assert_eq!((answers.len(), answers[0].status), (1, 200));
    assert!(String::from_utf8_lossy(&said).matches("100 Continue").count() <= 1);
    assert_eq!(stage.upstream.last().body, CANARY.as_bytes());
    for way in HTTP2 {
        let mut frames = expecting(&stage, way).await;
        frames.frame(DATA, END_STREAM, 1, CANARY.as_bytes());
        frames.flush().await;
        eventually("it is answered", || final_statuses(&frames) == [200]).await;
        assert_eq!(stage.upstream.last().body, CANARY.as_bytes(), "{way:?}");
        assert!(frames.count(HEADERS) <= 2, "{way:?}: {:?}", frames.came());
    }
    // An upstream that answers without wanting the body: whatever follows is that body, not a request.
    let refusing = "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n";
    let stage = Stage::before(Upstream::start(refusing, When::Head).await).await;
    let fields = format!("Expect: 100-continue\r\nConnection: close\r\nContent-Length: {}", CANARY.len());
    let mut connection = stage.proxy.connect().await;
    connection.send(request("POST /", &fields, "")).await;
    let mut head = connection.head().await;
    if head.status == 100 {
        connection.send_what_can_be(CANARY).await;
        head = connection.head().await;
    }
    assert_eq!(head.status, 417);
    let rest = connection.bytes_after(CANARY).await;
    assert_eq!(String::from_utf8_lossy(&rest), "");
    let heard = stage.upstream.all();
    assert!(!heard.contains("GET /canary") || heard.matches("/canary").count() == 1, "{heard}");
    assert_eq!(stage.upstream.wires().len(), 1);
    for way in HTTP2 {
        let mut frames = expecting(&stage, way).await;
        eventually("it is answered", || final_statuses(&frames) == [417]).await;
        frames.frame(DATA, END_STREAM, 1, CANARY.as_bytes());
        // The connection goes on, and what was sent late is nobody's request.
        frames.get(3, "/next");
        frames.flush().await;
        eventually("the next is answered", || final_statuses(&frames) == [417, 417]).await;
    }
    let begun = |wire: &Vec<u8>| wire.starts_with(b"POST / ") || wire.starts_with(b"GET /next ");
    assert!(stage.upstream.wires().iter().all(begun), "{}", stage.upstream.all());
}

/// A POST that waits for the word to go on.
async fn expecting(stage: &Stage, way: Way) -> Frames {
    let mut frames = stage.http2(way).await;
    // Without a table, every status stands in its answer.
    frames.frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]);
    let length = CANARY.len().to_string();
    let more = vec![("expect", "100-continue"), ("content-length", &length)];
    frames.headers(1, false, &[fields("POST", "/"), more].concat());
    frames.flush().await;
    frames
}

/// The statuses of all answers that were no interim ones.
fn final_statuses(frames: &Frames) -> Vec<u16> {
    frames.statuses().into_iter().filter(|status| *status >= 200).collect()
}

#[tokio::test]
async fn an_early_answer_to_an_upload_arrives_and_the_connection_closes() {
    let early = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nlarge";
    let stage = Stage::before(Upstream::start(early, When::HeadThenClose).await).await;
    let mut pipe = stage.pipe(Way::Http1).await;
    pipe.write_all(&request("POST /", "Content-Length: 1000000000", "beginning")).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"large") {
        said.push(pipe.read_u8().await.unwrap());
    }
    assert_eq!(replies(&said).unwrap()[0].status, 413);
    // The rest of the upload is nobody's request, and the connection ends with it.
    let rest = super::language::exchange(pipe, [CANARY.as_bytes(); 100].concat()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "");
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        let mut all = fields("POST", "/h2");
        all.push(("content-length", "1000000000"));
        frames.headers(1, false, &all);
        frames.frame(DATA, 0, 1, b"beginning");
        frames.flush().await;
        assert_eq!(frames.outcome(1).await, Outcome::Status(413), "{way:?}");
        assert_eq!(frames.finished(1).await, (b"large".to_vec(), true), "{way:?}");
        let told = || {
            frames
                .came()
                .iter()
                .any(|frame| frame.kind == RST_STREAM && frame.stream == 1 && frame.payload == [0; 4])
        };
        eventually("the client is told to stop sending (NO_ERROR)", told).await;
        // The connection goes on.
        frames.get(3, "/next");
        frames.flush().await;
        assert_eq!(frames.finished(3).await, (b"large".to_vec(), true), "{way:?}");
    }
    assert!(!stage.upstream.all().contains("canary"));
}

#[tokio::test]
async fn a_body_that_was_answered_early_is_drained_or_the_connection_closes() {
    let stage = Stage::listening(Upstream::answering(OK).await, "health_path = \"/up\"", |file| {
        file.worker("routes = [\"shop.example/*\"]")
    })
    .await;
    for (name, line, host) in
        [("health", "GET /up", "shop.example"), ("no worker", "POST /", "elsewhere.example")]
    {
        for framing in [format!("Content-Length: {}", CANARY.len()), "Content-Length: 1000000".to_owned()] {
            let bytes = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n{CANARY}");
            let mut pipe = stage.pipe(Way::Http1).await;
            pipe.write_all(bytes.as_bytes()).await.unwrap();
            let mut said = [0; 12];
            pipe.read_exact(&mut said).await.unwrap();
            assert!(said.ends_with(b"200") || said.ends_with(b"404"), "{name}");
            let closing = request("GET /honest", "Connection: close", "");
            let _ = super::language::exchange(pipe, closing).await;
            assert!(!stage.upstream.all().contains("/canary"), "{name} {framing}");
        }
    }
    for way in HTTP2 {
        for (name, line, host, status) in [
            ("health", ("GET", "/up"), "shop.example", 200),
            ("no worker", ("POST", "/"), "elsewhere.example", 404),
        ] {
            let mut frames = stage.http2(way).await;
            let mut all = fields(line.0, line.1);
            all[3].1 = host;
            frames.headers(1, false, &all);
            frames.frame(DATA, 0, 1, CANARY.as_bytes());
            frames.flush().await;
            assert_eq!(frames.outcome(1).await, Outcome::Status(status), "{way:?} {name}");
            // Its stream is over or not: the others of its connection are served.
            frames.frame(DATA, END_STREAM, 1, CANARY.as_bytes());
            frames.get(3, "/honest");
            frames.flush().await;
            assert_eq!(frames.outcome(3).await, Outcome::Status(200), "{way:?} {name}");
        }
    }
    stage.heard_nothing_but_honest(Reaches::Nothing).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_back_from_the_upstream() {
    for way in [Way::Http1, Way::Tls, Way::Prior] {
        let stage = Stage::before(Upstream::start("", When::Never).await).await;
        if way == Way::Http1 {
            let mut pipe = stage.pipe(way).await;
            pipe.write_all(&request("GET /", "", "")).await.unwrap();
            eventually("the upstream heard it", || stage.upstream.requests().len() == 1).await;
            drop(pipe);
        } else {
            let mut frames = stage.http2(way).await;
            frames.get(1, "/");
            frames.flush().await;
            eventually("the upstream heard it", || stage.upstream.requests().len() == 1).await;
            frames.frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
            frames.flush().await;
        }
        eventually("the upstream is hung up on", || stage.upstream.ended() == 1).await;
    }
}

#[tokio::test]
async fn a_request_that_is_cut_short_is_never_whole_upstream_and_is_not_sent_again() {
    let stage = Stage::new().await;
    let length = request("POST /", "Content-Length: 100", "beginning");
    for (name, bytes) in [("length", length), ("chunked", chunked("5\r\nhello\r\n5\r\nwo"))] {
        let (before, wires) = (stage.upstream.ended(), stage.upstream.wires().len());
        let mut pipe = stage.pipe(Way::Http1).await;
        pipe.write_all(&bytes).await.unwrap();
        eventually("the upstream hears of it", || stage.upstream.wires().len() > wires).await;
        pipe.shutdown().await.unwrap();
        drop(pipe);
        eventually(&format!("{name}: the upstream is hung up on"), || stage.upstream.ended() > before).await;
    }
    for way in HTTP2 {
        let (before, wires) = (stage.upstream.ended(), stage.upstream.wires().len());
        let mut frames = stage.http2(way).await;
        frames.headers(1, false, &fields("POST", "/"));
        frames.frame(DATA, 0, 1, b"beginning");
        frames.flush().await;
        eventually("the upstream hears of it", || stage.upstream.wires().len() > wires).await;
        drop(frames);
        eventually(&format!("{way:?}: the upstream is hung up on"), || stage.upstream.ended() > before).await;
    }
    assert!(stage.heard_nothing_but_honest(Reaches::Part).await.is_ok());
    assert_eq!(stage.upstream.all().matches("POST / ").count(), 4);
}

#[tokio::test]
async fn a_post_whose_upstream_closes_unanswered_is_a_502_and_is_sent_once() {
    let stage = Stage::before(Upstream::start(OK, When::HonestOrClose).await).await;
    let mut trial = Trial::default();
    for round in 0..3 {
        // On a connection that is kept from before, or on a new one: both could be sent again.
        if round > 0 {
            stage.serves_neighbours().await;
        }
        let bytes = request("POST /once", "Connection: close\r\nContent-Length: 5", "hello");
        let said = stage.exchange(bytes).await;
        trial.note("Http1", said.and_then(|said| refusal(&[502], &said)));
        for way in HTTP2 {
            let mut frames = stage.http2(way).await;
            frames.headers(1, false, &fields("POST", "/once"));
            frames.frame(DATA, END_STREAM, 1, b"hello");
            frames.flush().await;
            trial.same(&format!("{way:?}"), frames.outcome(1).await, Outcome::Status(502));
        }
        let heard = stage.upstream.requests();
        let posts = heard.iter().filter(|heard| heard.line == "POST /once HTTP/1.1").count();
        trial.same(&format!("sent in {} rounds", round + 1), posts, 3 * (round + 1));
    }
    trial.end();
}

#[tokio::test]
async fn over_http_2_a_body_that_differs_from_its_length_is_reset() {
    let stage = Stage::new().await;
    let mut trial = Trial::default();
    for way in HTTP2 {
        for (name, length, body) in
            [("too short", "10", "hello"), ("too long", "3", "hello"), ("none", "5", "")]
        {
            let mut frames = stage.http2(way).await;
            let mut all = fields("POST", "/");
            all.push(("content-length", length));
            frames.headers(1, false, &all);
            frames.frame(DATA, END_STREAM, 1, body.as_bytes());
            frames.flush().await;
            let outcome = frames.outcome(1).await;
            trial.same(&format!("{way:?} {name}: {outcome:?}"), outcome.is_malformed(), true);
        }
    }
    trial.note("the upstream", stage.heard_nothing_but_honest(Reaches::Part).await);
    trial.end();
}

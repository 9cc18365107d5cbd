//! Upstreams that fail request after request get none for a while, and come back with one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gradual::proxy::Timing;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::kit::{
    ANY, Backend, Counts, Proxy, Speaks, ask1, file, get, get1, http1, listen, read_rest, run, says,
    upstreams,
};
use crate::support::wire::{
    ACK, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, block, frame, frame_head,
};

/// What an upstream does at the moment.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Well,
    /// Closes, having read.
    Closes,
    /// Says something that is no HTTP.
    Babbles,
    /// Never answers.
    Silent,
    /// Says that it is not well: an answer all the same.
    Says(u16),
}

/// An upstream that can be told what to do; counts the requests that it has read.
struct Moody {
    upstream: Backend,
    mood: watch::Sender<Mood>,
    requests: Arc<AtomicUsize>,
}

impl Moody {
    async fn new(mood: Mood) -> Self {
        let (sender, mood) = watch::channel(mood);
        let requests = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&requests);
        let upstream = listen(move |stream| serve(stream, mood.clone(), Arc::clone(&count))).await;
        Self { upstream, mood: sender, requests }
    }

    fn is_now(&self, mood: Mood) {
        self.mood.send(mood).unwrap();
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// One request for each connection.
async fn serve(mut stream: TcpStream, mood: watch::Receiver<Mood>, requests: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    let mood = *mood.borrow();
    let said = match mood {
        Mood::Well => "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nmoody".into(),
        Mood::Says(status) => {
            format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: 5\r\n\r\nmoody")
        }
        Mood::Closes => return,
        Mood::Babbles => "what?\r\n\r\n".into(),
        Mood::Silent => {
            read_rest(&mut stream).await;
            return;
        }
    };
    let _ = stream.write_all(said.as_bytes()).await;
}

const LONG: Timing = Timing {
    ejection: Duration::from_secs(3600),
    longest_ejection: Duration::from_secs(36_000),
    slow_start: Duration::from_millis(1),
};
const SHORT: Timing = Timing {
    ejection: Duration::from_millis(20),
    longest_ejection: Duration::from_millis(40),
    slow_start: Duration::from_millis(1),
};

/// A proxy in front of a moody upstream and one that is always well.
async fn beside_another(timing: Timing, mood: Mood, worker: &str) -> (Proxy, Counts, Moody, Backend) {
    let moody = Moody::new(mood).await;
    let other = says(Speaks::Http1, |_| "other".to_owned()).await;
    let both = upstreams("http", &[moody.upstream.address, other.address]);
    let (proxy, counts) = Proxy::start_with(timing, 1, &file(ANY, worker, &both)).await;
    (proxy, counts, moody, other)
}

#[test]
fn an_upstream_that_fails_five_times_in_a_row_gets_no_more_requests() {
    run(async {
        let worker = r#"timeouts = { response = "50ms" }"#;
        for mood in [Mood::Closes, Mood::Babbles, Mood::Silent] {
            let (proxy, _, moody, _other) = beside_another(LONG, mood, worker).await;
            let (mut client, _) = http1(proxy.connect().await).await;
            for _ in 0..60 {
                ask1(&mut client, get1("/")).await;
            }
            assert_eq!(moody.requests(), 5, "{mood:?}");
            let health = proxy.shards.health().read();
            let told = health[0].upstreams.iter().flat_map(|upstream| &upstream.endpoints);
            let told = told.map(|endpoint| (endpoint.ejected, endpoint.ejections));
            assert_eq!(told.collect::<Vec<_>>(), [(true, 1), (false, 0)], "{mood:?}");
            // Well again: but nobody asks it yet.
            moody.is_now(Mood::Well);
            for _ in 0..20 {
                assert_eq!(ask1(&mut client, get1("/")).await.text, "other");
            }
        }
    });
}

/// Speaks HTTP/2, answers the first request well, and all others with this head.
async fn answer_once(
    mut stream: TcpStream,
    head: Vec<u8>,
    requests: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let well = block(&[(":status", "200")]);
    stream.read_exact(&mut [0; PREFACE.len()]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let of = loop {
            let mut bytes = [0; 9];
            stream.read_exact(&mut bytes).await?;
            let (length, kind, flags, of) = frame_head(bytes);
            stream.read_exact(&mut vec![0; length]).await?;
            match kind {
                SETTINGS if flags & ACK == 0 => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
                HEADERS => break of,
                _ => {}
            }
        };
        let is_first = requests.fetch_add(1, Ordering::SeqCst) == 0;
        let said = if is_first { &well } else { &head };
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, of, said)).await?;
    }
}

#[test]
fn malformed_answers_over_http_2_are_asked_for_once_and_eject_whoever_gives_them() {
    run(async {
        let ok = (":status", "200");
        for head in [vec![ok, ("content-length", "x")], vec![ok, ("Upper", "x")], vec![(":status", "2")]] {
            let requests = Arc::new(AtomicUsize::new(0));
            let (said, count) = (block(&head), Arc::clone(&requests));
            let upstream = listen(move |stream| {
                let answering = answer_once(stream, said.clone(), Arc::clone(&count));
                async move {
                    let _ = answering.await;
                }
            })
            .await;
            let other = says(Speaks::Http2, |_| "other".to_owned()).await;
            let both = upstreams("h2c", &[upstream.address, other.address]);
            let (proxy, _) = Proxy::start_with(LONG, 1, &file(ANY, "", &both)).await;
            let (mut client, _) = http1(proxy.connect().await).await;
            let mut failed = 0;
            for _ in 0..60 {
                let answer = ask1(&mut client, get1("/")).await;
                if let Some(error) = answer.error() {
                    assert_eq!((error, answer.status.as_u16()), ("upstream-protocol", 502), "{head:?}");
                    failed += 1;
                }
            }
            assert_eq!(failed, 5, "{head:?}");
            assert_eq!(requests.load(Ordering::SeqCst), 1 + failed, "{head:?}");
            assert!(proxy.shards.health().read()[0].upstreams[0].endpoints[0].ejected, "{head:?}");
        }
    });
}

#[test]
fn ejections_are_counted_for_good_also_where_the_upstream_leaves_the_file() {
    run(async {
        let (mut proxy, counts, moody, other) = beside_another(SHORT, Mood::Closes, "").await;
        let address = moody.upstream.address;
        let of_moody = format!("worker=\"shop\",version=\"v1\",upstream=\"http://{address}\"");
        let series = format!("gradual_upstream_ejections_total{{{of_moody}}}");
        let (mut client, _) = http1(proxy.connect().await).await;
        while counts.of(&series) < 2 {
            ask1(&mut client, get1("/")).await;
        }
        let counted = counts.of(&series);
        proxy.reload(&file(ANY, "", &other.upstream("http"))).await.unwrap();
        ask1(&mut client, get1("/")).await;
        assert_eq!(counts.of(&series), counted);
        // It is another endpoint when it comes back, and the same series.
        proxy.reload(&file(ANY, "", &upstreams("http", &[address, other.address]))).await.unwrap();
        while counts.of(&series) == counted {
            ask1(&mut client, get1("/")).await;
        }
        assert_eq!(counts.of(&series), counted + 1);
    });
}

#[test]
fn errors_that_the_upstream_itself_answers_with_eject_nobody() {
    run(async {
        for status in [500, 502, 503, 504] {
            let (proxy, _, moody, _other) = beside_another(LONG, Mood::Says(status), "").await;
            let (mut client, _) = http1(proxy.connect().await).await;
            let mut seen = 0;
            for _ in 0..60 {
                seen += usize::from(ask1(&mut client, get1("/")).await.status == status);
            }
            assert!(seen > 5 && seen == moody.requests(), "{status}: {seen}");
        }
    });
}

#[test]
fn the_last_upstream_of_a_version_is_never_ejected() {
    run(async {
        let moody = Moody::new(Mood::Closes).await;
        let (proxy, _) = Proxy::start_with(LONG, 1, &file(ANY, "", &moody.upstream.upstream("http"))).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        for _ in 0..20 {
            assert_eq!(ask1(&mut client, get1("/")).await.error(), Some("upstream-closed"));
        }
        moody.is_now(Mood::Well);
        assert_eq!(ask1(&mut client, get1("/")).await.text, "moody");
    });
}

#[test]
fn where_all_have_failed_requests_go_to_them_all_the_same_and_bring_them_back() {
    run(async {
        let (one, two) = (Moody::new(Mood::Closes).await, Moody::new(Mood::Closes).await);
        let both = upstreams("http", &[one.upstream.address, two.upstream.address]);
        let (proxy, _) = Proxy::start_with(LONG, 1, &file(ANY, "", &both)).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        for _ in 0..40 {
            assert_eq!(ask1(&mut client, get1("/")).await.error(), Some("upstream-closed"));
        }
        one.is_now(Mood::Well);
        two.is_now(Mood::Well);
        for _ in 0..20 {
            assert_eq!(ask1(&mut client, get1("/")).await.text, "moody");
        }
    });
}

#[test]
fn an_ejected_upstream_comes_back_with_one_request_when_its_time_is_over() {
    run(async {
        let (proxy, _, moody, _other) = beside_another(SHORT, Mood::Closes, "").await;
        for _ in 0..40 {
            assert_eq!(get(proxy.address(), "/").await.text, "other");
        }
        assert!(moody.requests() >= 5);
        moody.is_now(Mood::Well);
        let (mut client, _) = http1(proxy.connect().await).await;
        while ask1(&mut client, get1("/")).await.text != "moody" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut back = 0;
        for _ in 0..200 {
            back += usize::from(ask1(&mut client, get1("/")).await.text == "moody");
        }
        assert!(back > 20, "it has its part of the requests: {back}");
    });
}

#[test]
fn exactly_one_request_tries_an_ejected_upstream_and_one_whose_client_leaves_makes_way() {
    run(async {
        let (proxy, _, moody, _other) = beside_another(SHORT, Mood::Closes, "").await;
        let address = proxy.address();
        let mut asked = 0;
        while moody.requests() < 5 && asked < 1000 {
            get(address, "/").await;
            asked += 1;
        }
        moody.is_now(Mood::Silent);
        let before = moody.requests();
        // One after the other, so that somebody becomes the trial; it waits, and all others are answered.
        let mut waiting = JoinSet::new();
        while moody.requests() == before {
            waiting.spawn(async move { get(address, "/").await.text });
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for _ in 0..60 {
            assert_eq!(get(address, "/").await.text, "other");
        }
        assert_eq!(moody.requests(), before + 1);
        // Those who wait leave: the next one may try.
        waiting.shutdown().await;
        moody.is_now(Mood::Well);
        let mut client = http1(proxy.connect().await).await.0;
        while ask1(&mut client, get1("/")).await.text != "moody" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn an_upstream_that_gets_only_posts_comes_back_as_well() {
    run(async {
        let (proxy, _, moody, _other) = beside_another(SHORT, Mood::Closes, "").await;
        let post = || {
            let mut request = get1("/");
            *request.method_mut() = http::Method::POST;
            request
        };
        let (mut client, _) = http1(proxy.connect().await).await;
        while moody.requests() < 5 {
            ask1(&mut client, post()).await;
        }
        moody.is_now(Mood::Well);
        while ask1(&mut client, post()).await.text != "moody" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_reload_forgets_no_ejection() {
    run(async {
        let (mut proxy, _, moody, other) = beside_another(LONG, Mood::Closes, "").await;
        for _ in 0..40 {
            get(proxy.address(), "/").await;
        }
        assert_eq!(moody.requests(), 5);
        let both = upstreams("http", &[moody.upstream.address, other.address]);
        proxy.reload(&file(ANY, "expose_version = true", &both)).await.unwrap();
        for _ in 0..20 {
            assert_eq!(get(proxy.address(), "/").await.text, "other");
        }
        assert_eq!(moody.requests(), 5);
    });
}

#[test]
fn what_comes_back_gets_a_growing_part_of_the_requests() {
    run(async {
        let slow = Timing { slow_start: Duration::from_secs(3600), ..SHORT };
        let (proxy, _, moody, _other) = beside_another(slow, Mood::Closes, "").await;
        let (mut client, _) = http1(proxy.connect().await).await;
        for _ in 0..40 {
            ask1(&mut client, get1("/")).await;
        }
        moody.is_now(Mood::Well);
        while ask1(&mut client, get1("/")).await.text != "moody" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = moody.requests();
        for _ in 0..400 {
            assert_eq!(ask1(&mut client, get1("/")).await.status, 200);
        }
        // A tenth of its half at first: 20 of 400; outside of this with a chance of less than one in a million.
        let part = moody.requests() - before;
        assert!((1..70).contains(&part), "{part}");
    });
}

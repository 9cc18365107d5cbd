//! How much sending again there is: the budget of a worker, and the addresses of a name at which nobody listens.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gradual::proxy::{KnownNames, Timing};
use tokio::task::JoinSet;

use super::kit::{
    ANY, Backend, Counts, Proxy, Speaks, ask1, file, get, get1, http1, listen, read_head, run, says, whole,
};

/// What came of requests that could be sent again: answered, failed, without budget.
fn retries(counts: &Counts) -> [u64; 3] {
    ["success", "failure", "budget"].map(|result| {
        counts.of(&format!(
            "gradual_upstream_retries_total{{worker=\"shop\",version=\"v1\",result=\"{result}\"}}"
        ))
    })
}

/// So many seconds, of which the last has begun.
fn seconds_since(begun: Instant) -> usize {
    usize::try_from(begun.elapsed().as_secs()).unwrap() + 1
}

/// An upstream that closes each connection under its first request, and the number of requests that it has read.
async fn failing() -> (Backend, Arc<AtomicUsize>) {
    let heads = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&heads);
    let upstream = listen(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            read_head(&mut stream).await;
            seen.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    (upstream, heads)
}

#[test]
fn an_upstream_that_fails_every_request_is_sent_one_in_five_and_ten_a_second_again() {
    run(async {
        let (upstream, heads) = failing().await;
        let text = file(ANY, "", &upstream.upstream("http"));
        let (proxy, counts) = Proxy::start_with(Timing::default(), 1, &text).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        let begun = Instant::now();
        for _ in 0..200 {
            assert_eq!(ask1(&mut client, get1("/")).await.error(), Some("upstream-closed"));
        }
        let (sent, seconds) = (heads.load(Ordering::SeqCst), seconds_since(begun));
        assert!(sent >= 200 + 40 && sent <= 200 + 40 + 10 + 10 * seconds, "{sent} in {seconds} s");
        let [_, failed, spent] = retries(&counts);
        assert_eq!((spent + failed, failed), (200, sent as u64 - 200));
    });
}

#[test]
fn all_threads_have_one_budget_which_goes_on_over_reloads() {
    run(async {
        let (upstream, heads) = failing().await;
        let text = |idle: u32| {
            let worker = format!("timeouts = {{ idle = \"{idle}m\" }}");
            file(ANY, &worker, &upstream.upstream("http"))
        };
        let (mut proxy, counts) = Proxy::start_with(Timing::default(), 4, &text(1)).await;
        let begun = Instant::now();
        for round in 2..6 {
            let mut clients = JoinSet::new();
            for _ in 0..32 {
                let stream = proxy.connect().await;
                clients.spawn(async move {
                    let (mut client, _) = http1(stream).await;
                    for _ in 0..4 {
                        assert_eq!(ask1(&mut client, get1("/")).await.error(), Some("upstream-closed"));
                    }
                });
            }
            clients.join_all().await;
            proxy.reload(&text(round)).await.unwrap();
        }
        let (sent, seconds) = (heads.load(Ordering::SeqCst), seconds_since(begun));
        assert!(sent >= 512 + 102 && sent <= 512 + 102 + 10 + 10 * seconds, "{sent} in {seconds} s");
        let [_, failed, spent] = retries(&counts);
        assert_eq!((spent + failed, failed), (512, sent as u64 - 512));
    });
}

/// A proxy whose one upstream is a name of these addresses.
async fn named(timing: Timing, addresses: Vec<IpAddr>, port: u16) -> (Proxy, Counts) {
    let names = KnownNames::from([("name.invalid".to_owned(), addresses)]);
    let text = file(ANY, "", &format!("upstreams = [\"http://name.invalid:{port}\"]"));
    Proxy::start_knowing(names, timing, 1, &text).await
}

/// How many connections were refused at the addresses of the proxy's one upstream since one was made there.
fn refused(proxy: &Proxy) -> u64 {
    let versions = proxy.shards.health().read();
    versions[0].upstreams[0].endpoints.iter().map(|endpoint| u64::from(endpoint.refused_in_a_row)).sum()
}

#[test]
fn of_a_name_at_whose_many_addresses_nobody_listens_a_request_tries_two_and_within_the_budget_three() {
    run(async {
        // Nobody else is given the port, and this one listens at another address.
        let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = elsewhere.local_addr().unwrap().port();
        let addresses = (1..=20).map(|last| Ipv4Addr::new(127, 0, 1, last).into()).collect();
        let (proxy, counts) = named(Timing::default(), addresses, port).await;
        assert_eq!(get(proxy.address(), "/").await.error(), Some("connect-failed"));
        assert_eq!((refused(&proxy), retries(&counts)), (3, [0, 1, 0]));
        let begun = Instant::now();
        let (mut client, _) = http1(proxy.connect().await).await;
        for _ in 1..200 {
            assert_eq!(ask1(&mut client, get1("/")).await.error(), Some("connect-failed"));
        }
        let (dialed, seconds) = (refused(&proxy), seconds_since(begun) as u64);
        assert!(dialed >= 400 + 40 && dialed <= 400 + 40 + 10 + 10 * seconds, "{dialed} in {seconds} s");
        // There was a second attempt for each, though for most not a third.
        assert_eq!(retries(&counts), [0, 200, 0]);
    });
}

#[test]
fn a_name_at_one_of_whose_two_addresses_somebody_listens_answers_every_request_whatever_the_budget() {
    run(async {
        let upstream = says(Speaks::Http1, |_| "here".to_owned()).await;
        let addresses = vec![Ipv4Addr::new(127, 0, 1, 1).into(), upstream.address.ip()];
        // What is ejected is tried again at once.
        let moment = Duration::from_millis(1);
        let timing = Timing { ejection: moment, longest_ejection: moment, slow_start: Duration::ZERO };
        let (proxy, counts) = named(timing, addresses, upstream.address.port()).await;
        let (mut client, _) = http1(proxy.connect().await).await;
        while refused(&proxy) < 200 {
            for method in [http::Method::GET, http::Method::POST] {
                let mut request = get1("/").map(|_| whole(if method == "POST" { "body" } else { "" }));
                *request.method_mut() = method;
                assert_eq!(ask1(&mut client, request).await.text, "here");
            }
        }
        assert_eq!(retries(&counts), [refused(&proxy), 0, 0]);
    });
}

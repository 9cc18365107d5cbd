//! How much sending again there is: the budget of a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use gradual::proxy::Timing;
use tokio::task::JoinSet;

use super::kit::{ANY, Backend, Counts, Proxy, ask1, file, get1, http1, listen, read_head, run};

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

use bytes::Buf;

use super::*;

fn limits() -> Limits {
    Limits {
        keep_alive_timeout: Duration::from_secs(60),
        header_timeout: Duration::from_secs(30),
        body_idle_timeout: Duration::from_secs(300),
        min_rate: 1024,
        min_rate_grace: Duration::from_secs(20),
        ..Limits::default()
    }
}

fn after(begun: Instant, seconds: u64) -> Instant {
    begun + Duration::from_secs(seconds)
}

#[test]
fn a_silent_connection_is_over_after_the_keep_alive_timeout() {
    let begun = Instant::now();
    let watch = Watch::new(begun, 1, 1);
    assert_eq!((watch.look(after(begun, 59), &limits()), watch.patience()), (None, Patience::Left));
    let over = (Some(Limit::KeepAliveTimeout), Patience::Over);
    assert_eq!((watch.look(after(begun, 60), &limits()), watch.patience()), over);
    assert_eq!((watch.look(after(begun, 120), &limits()), watch.patience()), (None, Patience::Lost));
}

#[test]
fn a_head_is_slow_from_its_first_byte_and_not_from_the_end_of_the_last_answer() {
    let begun = Instant::now();
    let watch = Watch::new(begun, 1, 1);
    watch.look(after(begun, 50), &limits());
    watch.pulse.add(1);
    for seconds in [51, 60, 80] {
        assert_eq!(watch.look(after(begun, seconds), &limits()), None, "{seconds}");
        assert_eq!(watch.patience(), Patience::Left);
    }
    assert_eq!(watch.look(after(begun, 81), &limits()), Some(Limit::HeaderTimeout));
    assert_eq!(watch.look(after(begun, 82), &limits()), None, "told once");
}

#[test]
fn no_look_takes_back_that_the_connection_was_told_to_end() {
    let begun = Instant::now();
    for told in [Patience::Over, Patience::Lost] {
        let watch = Watch::new(begun, 1, 1);
        watch.request_began();
        watch.ends(told);
        assert_eq!((watch.look(after(begun, 1), &limits()), watch.patience()), (None, told));
        watch.request_ended(after(begun, 1));
        assert_eq!((watch.look(after(begun, 2), &limits()), watch.patience()), (None, told));
    }
}

#[test]
fn what_a_client_takes_buys_it_time() {
    let begun = Instant::now();
    let watch = Rc::new(Watch::new(begun, 1 << 20, 1 << 20));
    watch.request_began();
    let mut piece = watch.hold(Bytes::from(vec![0; 1 << 20]), None);
    watch.look(begun, &limits());
    watch.handed_over();
    // 20 seconds of grace, 32 that the first lump may last, 64 for what was taken.
    piece.advance(64 << 10);
    assert_eq!(watch.look(after(begun, 115), &limits()), None);
    assert_eq!(watch.look(after(begun, 116), &limits()), Some(Limit::MinRate));
}

#[test]
fn time_in_which_an_upstream_is_waited_for_does_not_count() {
    let begun = Instant::now();
    let watch = Rc::new(Watch::new(begun, 1 << 20, 1 << 20));
    watch.request_began();
    for seconds in 0..1000 {
        assert_eq!(watch.look(after(begun, seconds), &limits()), None);
    }
    watch.handed_over();
    assert_eq!(watch.look(after(begun, 1040), &limits()), None);
}

#[test]
fn one_response_that_goes_on_keeps_the_connection() {
    let begun = Instant::now();
    let watch = Watch::new(begun, 1 << 20, 1 << 20);
    watch.request_began();
    watch.request_began();
    watch.handed_over();
    assert_eq!(watch.look(after(begun, 10_000), &limits()), None);
}

#[test]
fn a_client_over_its_share_that_takes_nothing_at_all_is_ended_early() {
    let begun = Instant::now();
    let watch = Rc::new(Watch::new(begun, 1 << 20, 1 << 20));
    let within = limits().send_buffer / EXCHANGE;
    (0..=within).for_each(|_| watch.request_began());
    // One more request waits for its upstream.
    watch.request_began();
    (0..within).for_each(|_| watch.handed_over());
    let mut piece = watch.hold(Bytes::from_static(&[0; 2]), None);
    watch.look(begun, &limits());
    assert_eq!(watch.look(after(begun, 10), &limits()), None, "within its share");
    watch.handed_over();
    piece.advance(1);
    assert_eq!(watch.look(after(begun, 11), &limits()), None, "it takes something");
    assert_eq!(watch.look(after(begun, 20), &limits()), None);
    assert_eq!(watch.look(after(begun, 21), &limits()), Some(Limit::SendBuffer));
}

#[test]
fn what_is_given_up_is_held_no_longer() {
    let watch = Rc::new(Watch::new(Instant::now(), 10, 20));
    let context = Context::from_waker(Waker::noop());
    let piece = watch.hold(Bytes::from_static(&[0; 10]), None);
    assert_eq!(watch.allowance(&context), None);
    drop(piece);
    assert!(watch.allowance(&context) == Some(usize::MAX) && watch.holds_nothing());
}

/// Counts how often it is woken.
struct Task(AtomicU64);

impl std::task::Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn what_waits_goes_on_as_soon_as_there_is_any_room_however_much_others_leave_unread() {
    let watch = Rc::new(Watch::new(Instant::now(), 10, 100));
    let unread = watch.hold(Bytes::from_static(&[0; 90]), None);
    let read = watch.hold(Bytes::from_static(&[0; 10]), None);
    let task = Arc::new(Task(AtomicU64::new(0)));
    let waker = Waker::from(Arc::clone(&task));
    watch.flows(true);
    assert_eq!(watch.allowance(&Context::from_waker(&waker)), None);
    watch.flows(true);
    assert_eq!(task.0.load(Ordering::Relaxed), 0, "there is none");
    drop(read);
    watch.flows(true);
    assert_eq!(task.0.load(Ordering::Relaxed), 1);
    drop(unread);
}

#[test]
fn what_ended_while_it_waited_for_room_is_not_kept_and_what_still_waits_is_woken() {
    let task = || Arc::new(Task(AtomicU64::new(0)));
    let begun = Instant::now();
    let watch = Rc::new(Watch::new(begun, 1, 1));
    let _piece = watch.hold(Bytes::from_static(&[0; 1]), None);
    let waits = |task: &Arc<Task>| {
        let waker = Waker::from(Arc::clone(task));
        assert_eq!(watch.allowance(&Context::from_waker(&waker)), None);
    };
    let stays = task();
    watch.request_began();
    waits(&stays);
    let ended: Vec<_> = (0..100).map(|_| task()).collect();
    for task in &ended {
        watch.request_began();
        waits(task);
        watch.request_ended(begun);
    }
    let kept = ended.iter().filter(|task| Arc::strong_count(task) > 1).count();
    assert!(kept <= 2, "{kept}");
    assert!(stays.0.load(Ordering::Relaxed) > 0, "it has to register again");
    watch.request_ended(begun);
    assert_eq!(Arc::strong_count(&stays), 1);
}

#[test]
fn beyond_its_room_a_connection_that_flows_holds_small_pieces_up_to_the_most() {
    let watch = Rc::new(Watch::new(Instant::now(), 10, 20));
    let context = Context::from_waker(Waker::noop());
    let _piece = watch.hold(Bytes::from_static(&[0; 10]), None);
    watch.flows(true);
    assert_eq!(watch.allowance(&context), Some(SMALL));
    let _another = watch.hold(Bytes::from_static(&[0; 10]), None);
    assert_eq!(watch.allowance(&context), None);
    watch.flows(false);
    assert_eq!(watch.allowance(&context), None);
}

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

/// Responses of a connection over HTTP/2 that wait for their client, each of which can be ended alone.
struct Waiting {
    watch: Rc<Watch>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _pieces: Vec<Piece>,
}

impl Waiting {
    /// So many of them, one after the other: one a second.
    fn new(begun: Instant, count: usize, limits: &Limits) -> Self {
        let watch = Rc::new(Watch::new(begun, 1 << 20, 1 << 20));
        let (mut tasks, mut pieces) = (Vec::new(), Vec::new());
        for number in 0..count {
            watch.request_began();
            watch.handed_over();
            tasks.push(tokio::spawn(std::future::pending()));
            let unread = watch.follow(tasks[number].abort_handle(), limits.body_idle_timeout);
            unread.turn(true);
            pieces.push(watch.hold(Bytes::from_static(&[0; 100]), Some(&unread)));
            // Whoever looks sees how long each of them waits.
            pieces[number].advance(1);
            let now = after(begun, number as u64);
            assert_eq!(watch.look(now, limits), None);
            assert_eq!(watch.end_unread(now, limits).count(), 0);
        }
        Self { watch, tasks, _pieces: pieces }
    }

    /// A look: the bounds that are met, and which responses have been ended by now.
    async fn look(&self, now: Instant, limits: &Limits) -> (Vec<Limit>, Vec<usize>) {
        assert_eq!((self.watch.look(now, limits), self.watch.patience()), (None, Patience::Left));
        let met = self.watch.end_unread(now, limits).collect();
        tokio::task::yield_now().await;
        let ended = self.tasks.iter().enumerate().filter(|(_, task)| task.is_finished());
        (met, ended.map(|(number, _)| number).collect())
    }
}

#[tokio::test]
async fn over_the_share_the_responses_that_have_waited_longest_are_reset_and_no_more_than_need_be() {
    let begun = Instant::now();
    let limits = Limits::default();
    let within = limits.send_buffer / (EXCHANGE + 100);
    let waiting = Waiting::new(begun, within + 3, &limits);
    let stands = (within + 2) as u64;
    assert_eq!(waiting.look(after(begun, stands + 9), &limits).await, (vec![], vec![]));
    let met = vec![Limit::SendBuffer; 3];
    assert_eq!(waiting.look(after(begun, stands + 10), &limits).await, (met, vec![0, 1, 2]));
}

#[tokio::test]
async fn responses_that_a_client_pauses_within_its_share_stay_until_the_body_idle_timeout() {
    let begun = Instant::now();
    let limits = Limits { min_rate: 0, ..Limits::default() };
    let within = limits.send_buffer / (EXCHANGE + 100);
    let waiting = Waiting::new(begun, within, &limits);
    // Something else of the connection goes on, as far as anybody knows.
    waiting.watch.request_began();
    let stands = (within - 1) as u64;
    // One that was overtaken has its own time; the last has it from its last byte.
    assert_eq!(waiting.look(after(begun, 299), &limits).await, (vec![], vec![]));
    let (met, ended) = waiting.look(after(begun, stands + 300), &limits).await;
    assert!(met == [Limit::BodyIdleTimeout].repeat(within) && ended.len() == within, "{met:?} {ended:?}");
}

#[tokio::test]
async fn a_single_response_is_never_over_the_share() {
    let begun = Instant::now();
    let limits = Limits { send_buffer: 16 << 10, ..Limits::default() };
    let waiting = Waiting::new(begun, 2, &limits);
    assert_eq!(waiting.look(after(begun, 11), &limits).await, (vec![Limit::SendBuffer], vec![0]));
    // As the task of the response does when it is ended.
    waiting.watch.taken();
    waiting.watch.request_ended(after(begun, 11));
    assert_eq!(waiting.look(after(begun, 100), &limits).await, (vec![], vec![0]));
}

#[tokio::test]
async fn a_response_that_waits_for_others_to_leave_room_is_not_what_the_client_left_unread() {
    let begun = Instant::now();
    let limits = Limits { min_rate: 0, ..Limits::default() };
    let waiting = Waiting::new(begun, 2, &limits);
    let crowded = tokio::spawn(std::future::pending::<()>());
    let unread = waiting.watch.follow(crowded.abort_handle(), limits.body_idle_timeout);
    waiting.watch.request_began();
    waiting.watch.handed_over();
    unread.waits_for_room();
    waiting.watch.request_began();
    let (met, ended) = waiting.look(after(begun, 301), &limits).await;
    assert_eq!((met, ended), (vec![Limit::BodyIdleTimeout; 2], vec![0, 1]));
    assert!(!crowded.is_finished());
}

/// What a kernel was seen to take at once of a body that nobody reads.
const TAKEN_BY_THE_KERNEL: usize = 3 << 20;

/// When a client is cut that is sent a long body, if of what the kernel has not taken it takes so much each second: after
/// how many seconds, and by which bound.
fn cut_at_the_defaults(at_once: usize, each_second: usize) -> (u64, Limit) {
    let (begun, limits) = (Instant::now(), Limits::default());
    let watch = Rc::new(Watch::new(begun, limits.send_buffer / 16, limits.send_buffer / 2));
    watch.stall_limit(limits.body_idle_timeout);
    watch.request_began();
    let mut piece = watch.hold(Bytes::from(vec![0; 4 << 20]), None);
    watch.handed_over();
    piece.advance(at_once);
    let met = |seconds| Some((seconds, watch.look(after(begun, seconds), &limits)?));
    met(0)
        .or_else(|| {
            (1..100_000).find_map(|seconds| {
                piece.advance(each_second);
                met(seconds)
            })
        })
        .unwrap()
}

#[test]
fn at_the_defaults_a_client_that_reads_nothing_is_cut_after_five_minutes_as_the_kernel_took_much_for_it() {
    assert_eq!(cut_at_the_defaults(TAKEN_BY_THE_KERNEL, 0), (300, Limit::BodyIdleTimeout));
}

#[test]
fn at_the_defaults_a_client_of_which_nothing_at_all_is_taken_is_cut_after_grace_and_lump() {
    // 20 seconds of grace, and 136.5 for the 32 KiB that may be a lump.
    assert_eq!(cut_at_the_defaults(0, 0), (157, Limit::MinRate));
}

#[test]
fn at_the_defaults_a_client_that_trickles_below_the_rate_is_cut_when_it_has_used_up_what_it_was_given() {
    assert_eq!(cut_at_the_defaults(0, 120), (314, Limit::MinRate));
    // What the kernel took at once lasts for hours.
    assert_eq!(cut_at_the_defaults(TAKEN_BY_THE_KERNEL, 1), (13_320, Limit::MinRate));
    assert_eq!(cut_at_the_defaults(0, 200), (940, Limit::MinRate));
}

#[test]
fn a_look_asks_whether_the_client_has_left_where_its_codec_does_not_read() {
    let begun = Instant::now();
    let watch = Watch::new(begun, 1, 1);
    watch.pulse.add(100);
    watch.look(after(begun, 1), &limits());
    assert!(!watch.pulse.is_asked(), "no request is under way");
    watch.request_began();
    watch.pulse.waits();
    watch.look(after(begun, 2), &limits());
    assert!(!watch.pulse.is_asked(), "it would hear of it");
    watch.pulse.add(1);
    watch.look(after(begun, 3), &limits());
    assert!(watch.pulse.is_asked());
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

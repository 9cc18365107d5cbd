//! Floods of frames: the attacker is ended, or costs nothing that grows; neighbours are served. HTTP/1.1 has no frames, and
//! nothing that a client can take back or ask for without end beside a request.

use super::frames::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frames, HEADERS, Outcome,
    PADDED, PING, PRIORITY, PROTOCOL_ERROR, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, request as fields,
};
use super::language::{HTTP2, OK, Stage, Upstream, When};
use crate::support::eventually;

/// Sends what `attack` makes of each number in turn, until the proxy ends the connection or all are sent.
async fn flood(frames: &mut Frames, count: u32, mut attack: impl FnMut(&mut Frames, u32)) {
    for number in 0..count {
        attack(frames, number);
        if number % 100 == 99 {
            frames.flush().await;
            if frames.is_closed() {
                return;
            }
        }
    }
    frames.flush().await;
}

/// The number of the stream of an attack.
fn stream(number: u32) -> u32 {
    number * 2 + 1
}

/// The attacker is ended, and told to calm down.
async fn is_calmed(case: &str, frames: &Frames) {
    is_ended(case, frames, ENHANCE_YOUR_CALM).await;
}

/// The attacker is ended, and told why.
async fn is_ended(case: &str, frames: &Frames, reason: u32) {
    // No attack begins this stream, so nothing but the end of the connection can come of it.
    assert_eq!(frames.outcome(0x7fff_ffff).await, Outcome::GoAway(reason), "{case}");
}

async fn holding() -> Stage {
    Stage::before(Upstream::start(OK, When::Honest).await).await
}

#[tokio::test]
async fn a_client_that_resets_what_it_asks_for_at_once_is_ended_and_few_of_it_reach_the_upstream() {
    let stage = holding().await;
    for way in HTTP2 {
        let before = stage.upstream.wires().len();
        let mut frames = stage.http2(way).await;
        flood(&mut frames, 10_000, |frames, number| {
            frames.get(stream(number), "/rapid");
            frames.frame(RST_STREAM, 0, stream(number), &CANCEL.to_be_bytes());
        })
        .await;
        is_calmed(&format!("{way:?}"), &frames).await;
        stage.serves_neighbours().await;
        let reached = stage.upstream.wires().len() - before;
        assert!(reached <= 2000, "{way:?}: {reached}");
        if reached > 0 {
            // What reached the upstream was taken back from it.
            eventually("its requests are ended", || {
                stage.upstream.ended() + 2 >= stage.upstream.wires().len()
            })
            .await;
        }
    }
    let (metrics, _) = stage.records().await;
    assert!(metrics.contains(r#"gradual_limited_total{limit="http2_control_frames"} 2"#), "{metrics}");
}

#[tokio::test]
async fn a_client_that_makes_the_proxy_reset_its_streams_is_ended() {
    type Attack = fn(&mut Frames, u32);
    // What breaks the protocol ends the connection the first time; what only breaks a stream, when it comes too often.
    let attacks: [(&str, u32, Attack); 4] = [
        ("an update of nothing", PROTOCOL_ERROR, |frames, stream| {
            frames.frame(WINDOW_UPDATE, 0, stream, &[0; 4]);
        }),
        ("an overflow", ENHANCE_YOUR_CALM, |frames, stream| {
            frames.frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
            frames.frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffff_u32.to_be_bytes());
        }),
        ("data behind the end", PROTOCOL_ERROR, |frames, stream| frames.frame(DATA, 0, stream, b"x")),
        ("a short priority", PROTOCOL_ERROR, |frames, stream| frames.frame(PRIORITY, 0, stream, &[0; 4])),
    ];
    let stage = holding().await;
    for way in HTTP2 {
        for (name, reason, attack) in attacks {
            let mut frames = stage.http2(way).await;
            flood(&mut frames, 10_000, |frames, number| {
                frames.get(stream(number), "/made");
                attack(frames, stream(number));
            })
            .await;
            is_ended(&format!("{way:?} {name}"), &frames, reason).await;
            stage.serves_neighbours().await;
            eventually(&format!("{way:?} {name}: all is taken back"), || {
                stage.upstream.ended() + 2 >= stage.upstream.wires().len()
            })
            .await;
        }
    }
}

#[tokio::test]
async fn endless_continuations_are_ended() {
    let stage = holding().await;
    for way in HTTP2 {
        for (name, count, piece) in [("full", 5000, vec![b'a'; 16 << 10]), ("empty", 20_000, Vec::new())] {
            let mut frames = stage.http2(way).await;
            let all = [(":method", "GET"), (":scheme", "http"), (":path", "/endless")];
            frames.frame(HEADERS, END_STREAM, 1, &block(&all));
            // A literal whose value never ends.
            let mut first = vec![0, 1, b'x', 0x7f, 0xff, 0xff, 0xff, 0x7f];
            first.truncate(if piece.is_empty() { 0 } else { first.len() });
            frames.frame(CONTINUATION, 0, 1, &first);
            flood(&mut frames, count, |frames, _| frames.frame(CONTINUATION, 0, 1, &piece)).await;
            is_calmed(&format!("{way:?} {name}"), &frames).await;
            assert_eq!(frames.outcome(1).await, Outcome::GoAway(ENHANCE_YOUR_CALM), "never answered: {name}");
            stage.serves_neighbours().await;
        }
    }
    assert!(!stage.upstream.all().contains("/endless"));
}

#[tokio::test]
async fn endless_empty_data_is_ended() {
    let stage = holding().await;
    for way in HTTP2 {
        for (name, flags, payload) in
            [("empty", 0, vec![]), ("padded", PADDED, vec![100; 1].into_iter().chain([0; 100]).collect())]
        {
            let mut frames = stage.http2(way).await;
            frames.headers(1, false, &fields("POST", "/empty"));
            flood(&mut frames, 20_000, |frames, _| frames.frame(DATA, flags, 1, &payload)).await;
            is_calmed(&format!("{way:?} {name}"), &frames).await;
            stage.serves_neighbours().await;
        }
    }
}

#[tokio::test]
async fn floods_of_control_frames_are_ended() {
    type Attack = fn(&mut Frames, u32);
    let attacks: [(&str, Attack); 5] = [
        ("settings", |frames, _| frames.frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("pings", |frames, number| frames.frame(PING, 0, 0, &u64::from(number).to_be_bytes())),
        ("pongs", |frames, number| frames.frame(PING, ACK, 0, &u64::from(number).to_be_bytes())),
        ("priorities", |frames, number| frames.frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 1])),
        ("updates", |frames, _| frames.frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
    ];
    let stage = Stage::new().await;
    for way in HTTP2 {
        for (name, attack) in attacks {
            let mut frames = stage.http2(way).await;
            flood(&mut frames, 20_000, attack).await;
            stage.serves_neighbours().await;
            is_calmed(&format!("{way:?} {name}"), &frames).await;
        }
    }
}

#[tokio::test]
async fn a_header_section_that_is_small_on_the_wire_and_huge_behind_it_is_refused() {
    let stage = Stage::new().await;
    for way in HTTP2 {
        let mut frames = stage.http2(way).await;
        // One field of nearly the whole dynamic table, and then its index again and again.
        let mut bomb = block(&fields("GET", "/bomb"));
        let value = [b'v'; 4000];
        bomb.push(0x40);
        bomb.extend_from_slice(&block(&[("x", &value)])[1..]);
        bomb.resize(16_000, 0xbe);
        frames.frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb);
        frames.flush().await;
        let outcome = frames.outcome(1).await;
        assert!(
            matches!(outcome, Outcome::Status(431) | Outcome::Reset(_) | Outcome::GoAway(_)),
            "{way:?} {outcome:?}"
        );
        stage.serves_neighbours().await;
    }
    assert!(!stage.upstream.all().contains("/bomb"));
}

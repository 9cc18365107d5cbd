//! HTTP/2 frames that bring nothing on.

use super::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, PADDED, PING, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire, block, frame, get,
};
use super::{is_met, limited, long, met, with_limits};
use crate::support::{Authority, Backend, Proxy, backend, raw_backend, soon, tls_client};

/// A backend that never answers.
async fn silent() -> Backend {
    raw_backend(async |mut socket| {
        let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
    })
    .await
}

/// A proxy that is reached with TLS and without.
struct Doors {
    proxy: Proxy,
    authority: Authority,
}

impl Doors {
    async fn open(limits: &str, v1: &Backend) -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        authority.write(folder.path(), "shop", &["shop.example"]);
        let tls = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = [{ certificate = \"shop.pem\", key = \"shop.key\" }]";
        let file = with_limits(limits).version("v1", v1, 100).end(tls);
        Self { proxy: Proxy::start(folder, &file.text()).await, authority }
    }

    async fn wire(&self, tls: bool) -> Wire {
        let pipe = self.proxy.pipe_to(usize::from(tls)).await;
        if !tls {
            return Wire::over(pipe, 65_535).await;
        }
        let pipe = tls_client(pipe, self.authority.client(&["h2"]), "shop.example").await.unwrap();
        Wire::over(Box::new(pipe), 65_535).await
    }

    /// Each flood, with TLS and without, ends with the word to calm down, and is counted.
    async fn calm(&self, floods: &[(&str, &[u8], Flood)]) {
        let mut count = 0;
        for tls in [false, true] {
            for (name, first, flood) in floods {
                let end = flooded(self.wire(tls).await, first, flood).await;
                assert_eq!(end, Some(ENHANCE_YOUR_CALM), "{name}, TLS: {tls}");
                count += 1;
                is_met(&self.proxy, "http2_control_frames", count).await;
            }
        }
    }
}

/// What is sent for each number in turn.
type Flood = fn(u32) -> Vec<u8>;

async fn flooded(mut wire: Wire, first: &[u8], flood: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    wire.send(first).await;
    for number in 0..200 {
        let many: Vec<_> = (0..100).flat_map(|at| flood(number * 100 + at)).collect();
        if !wire.send(&many).await {
            break;
        }
    }
    // The proxy has said why before it stopped listening.
    wire.end().await
}

#[tokio::test]
async fn floods_of_control_frames_end_with_the_word_to_calm_down() {
    let v1 = silent().await;
    let doors = Doors::open("", &v1).await;
    let open_post = frame(HEADERS, END_HEADERS, 1, &block("POST"));
    let floods: [(&str, &[u8], Flood); 6] = [
        ("pings", &[], |_| frame(PING, 0, 0, &[0; 8])),
        ("acknowledgements", &[], |_| frame(PING, 1, 0, &[0; 8])),
        ("settings", &[], |_| frame(SETTINGS, 0, 0, &[])),
        ("priorities", &[], |at| frame(PRIORITY, 0, at % 1000 * 2 + 1, &[0, 0, 0, 0, 1])),
        ("updates", &[], |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("unknown frames", &open_post, |_| frame(0x42, 0, 1, b"x")),
    ];
    doors.calm(&floods).await;
}

#[tokio::test]
async fn floods_that_the_codec_ends_are_ended_and_counted_too() {
    let v1 = silent().await;
    // So many that it is the codec which has enough of them first.
    let doors = Doors::open("http2_control_frames = 1000000", &v1).await;
    let open_post = frame(HEADERS, END_HEADERS, 1, &block("POST"));
    let open_head = frame(HEADERS, END_STREAM, 1, &block("GET"));
    let floods: [(&str, &[u8], Flood); 5] = [
        ("empty data", &open_post, |_| frame(DATA, 0, 1, &[])),
        ("padding", &open_post, |_| frame(DATA, PADDED, 1, &[3, 0, 0, 0])),
        ("little data", &open_post, |_| frame(DATA, 0, 1, b"x")),
        ("continuations", &open_head, |_| frame(CONTINUATION, 0, 1, &[])),
        ("resets", &[], |at| [get(at * 2 + 1), frame(RST_STREAM, 0, at * 2 + 1, &[0, 0, 0, 8])].concat()),
    ];
    doors.calm(&floods).await;
}

#[tokio::test]
async fn a_client_that_resets_what_it_asks_for_at_once_is_ended_and_its_neighbours_are_served() {
    let v1 = backend("v1").start().await;
    let proxy = limited("", &v1).await;
    let mut neighbour = Wire::open(&proxy, 65_535).await;
    let attack = |at: u32| [get(at * 2 + 1), frame(RST_STREAM, 0, at * 2 + 1, &[0, 0, 0, 8])].concat();
    assert_eq!(flooded(Wire::open(&proxy, 65_535).await, &[], attack).await, Some(ENHANCE_YOUR_CALM));
    is_met(&proxy, "http2_control_frames", 1).await;
    assert!(v1.received().len() < 2000, "{}", v1.received().len());
    neighbour.send(&get(1)).await;
    loop {
        let (kind, flags, stream, _) = neighbour.next().await.expect("the neighbour is served");
        if (kind, flags & END_STREAM, stream) == (DATA, END_STREAM, 1) {
            break;
        }
    }
}

#[tokio::test]
async fn clients_that_complete_requests_may_send_a_ping_with_each() {
    let v1 = backend("v1").start().await;
    let proxy = limited("http2_control_frames = 50", &v1).await;
    let mut wire = Wire::open(&proxy, 65_535).await;
    for at in 0..100 {
        let stream = at * 2 + 1;
        wire.send(&[get(stream), frame(PING, 0, 0, &[0; 8]).repeat(20)].concat()).await;
        while wire.next().await.is_some_and(|(kind, flags, _, _)| kind != DATA || flags & END_STREAM == 0) {}
        wire.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0])).await;
    }
    assert_eq!(v1.received().len(), 100);
    assert_eq!(met(&proxy, "http2_control_frames"), 0);
}

#[tokio::test]
async fn a_download_whose_client_updates_its_windows_often_and_measures_its_bandwidth_is_never_cut() {
    let length = 4 << 20;
    let v1 = long(length).await;
    let proxy = limited("http2_control_frames = 50", &v1).await;
    // So small a window makes many small frames.
    let mut wire = Wire::open(&proxy, 2000).await;
    wire.send(&get(1)).await;
    let mut total = 0;
    while total < length {
        let (kind, _, _, payload) = soon("data", wire.next()).await.expect("the connection goes on");
        if kind == DATA && !payload.is_empty() {
            total += payload.len();
            let update = u32::try_from(payload.len()).unwrap().to_be_bytes();
            let frames = [
                frame(WINDOW_UPDATE, 0, 1, &update),
                frame(WINDOW_UPDATE, 0, 0, &update),
                frame(PING, 0, 0, &[0; 8]),
            ];
            wire.send(&frames.concat()).await;
        }
    }
    assert_eq!(met(&proxy, "http2_control_frames"), 0);
}

//! The language of these tests: an upstream that keeps every byte, a stage that every attack is played on, and one judgement
//! for all cases of a row.

use std::fmt::{Debug, Display};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Request};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frames::Frames;
use super::strict::{self, Heard, find};
use crate::support::{
    Answer, Authority, Backend, File, Pipe, Proxy, collect, empty, eventually, file, http2, raw_backend,
    tls_client,
};

/// What upstreams answer where nothing else is said.
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Behind every attack comes a request that must never be taken for one.
pub(super) const CANARY: &str = "GET /canary HTTP/1.1\r\nHost: shop.example\r\n\r\n";

/// For what must come at once; only a test that fails waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// An upstream that keeps every byte of every connection.
pub(super) struct Upstream {
    backend: Backend,
    wires: Wires,
}

type Wires = Arc<Mutex<Vec<Wire>>>;

#[derive(Clone, Default)]
struct Wire {
    bytes: Vec<u8>,
    ended: bool,
}

/// When an upstream answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// As soon as a request is whole.
    Whole,
    /// As soon as its head is there.
    Head,
    /// As soon as its head is there, and then it closes.
    HeadThenClose,
    /// Only where it is an honest neighbour's; another's connection is closed as soon as its request is whole.
    HonestOrClose,
    /// Only where it is an honest neighbour's.
    Honest,
    Never,
}

impl Upstream {
    /// Answers each request with these bytes, as soon as it is whole.
    pub(super) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        Self::start(answer, When::Whole).await
    }

    pub(super) async fn start(answer: impl Into<Vec<u8>>, when: When) -> Self {
        let (answer, wires) = (Arc::new(answer.into()), Wires::default());
        let kept = Arc::clone(&wires);
        let backend = raw_backend(move |socket| {
            let mut all = kept.lock().unwrap();
            all.push(Wire::default());
            converse(socket, Arc::clone(&kept), all.len() - 1, Arc::clone(&answer), when)
        })
        .await;
        Self { backend, wires }
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    /// What each connection heard.
    pub(super) fn wires(&self) -> Vec<Vec<u8>> {
        self.wires.lock().unwrap().iter().map(|wire| wire.bytes.clone()).collect()
    }

    /// All bytes of all connections.
    pub(super) fn all(&self) -> String {
        String::from_utf8_lossy(&self.wires().concat()).into_owned()
    }

    /// The whole requests; fails where anything is not canonical.
    pub(super) fn requests(&self) -> Vec<Heard> {
        let whole = |wire: &Vec<u8>| strict::read(wire).map(|(requests, _)| requests);
        self.wires().iter().flat_map(|wire| whole(wire).unwrap_or_else(|error| panic!("{error}"))).collect()
    }

    /// The last request that was heard.
    pub(super) fn last(&self) -> Heard {
        self.requests().pop().expect("the upstream heard no whole request")
    }

    /// How many connections have ended.
    pub(super) fn ended(&self) -> usize {
        self.wires.lock().unwrap().iter().filter(|wire| wire.ended).count()
    }
}

async fn converse(mut socket: TcpStream, wires: Wires, place: usize, answer: Arc<Vec<u8>>, when: When) {
    let (mut answered, mut piece) = (0, vec![0; 64 << 10]);
    loop {
        let read = socket.read(&mut piece).await.unwrap_or(0);
        let (whole, due) = {
            let wire = &mut wires.lock().unwrap()[place];
            wire.bytes.extend_from_slice(&piece[..read]);
            wire.ended = read == 0;
            let (requests, rest) = strict::read(&wire.bytes).unwrap_or((Vec::new(), &wire.bytes));
            let due = match when {
                When::Whole => requests.len(),
                When::Head | When::HeadThenClose => {
                    requests.len() + usize::from(find(rest, b"\r\n\r\n").is_some())
                }
                When::Honest | When::HonestOrClose => honest(&requests),
                When::Never => 0,
            };
            (requests.len(), due)
        };
        if read == 0 || (when == When::HonestOrClose && whole > due) {
            return;
        }
        while answered < due {
            // The proxy may have hung up on a bad answer.
            let _ = socket.write_all(&answer).await;
            answered += 1;
            if when == When::HeadThenClose {
                let _ = socket.shutdown().await;
            }
        }
    }
}

fn honest(requests: &[Heard]) -> usize {
    requests.iter().filter(|heard| heard.line.starts_with("GET /honest ")).count()
}

/// How a client comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Http1,
    /// HTTP/2, agreed by ALPN.
    Tls,
    /// HTTP/2 by prior knowledge.
    Prior,
}

/// Both ways to HTTP/2.
pub(super) const HTTP2: [Way; 2] = [Way::Tls, Way::Prior];

impl Way {
    pub(super) fn scheme(self) -> &'static str {
        if self == Self::Tls { "https" } else { "http" }
    }
}

/// An upstream, and a proxy before it with a plain listener and one with TLS, on one thread.
pub(super) struct Stage {
    pub(super) upstream: Upstream,
    pub(super) proxy: Proxy,
    authority: Authority,
}

impl Stage {
    pub(super) async fn new() -> Self {
        Self::before(Upstream::answering(OK).await).await
    }

    pub(super) async fn before(upstream: Upstream) -> Self {
        Self::with(upstream, |file| file).await
    }

    /// With a file that is changed; the plain listener comes first.
    pub(super) async fn with(upstream: Upstream, change: impl FnOnce(File) -> File) -> Self {
        Self::listening(upstream, "", change).await
    }

    /// The same, with these lines in both listeners.
    pub(super) async fn listening(
        upstream: Upstream,
        lines: &str,
        change: impl FnOnce(File) -> File,
    ) -> Self {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        authority.write(folder.path(), "shop", &["shop.example"]);
        let tls = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n{lines}\n\
             tls = [{{ certificate = \"shop.pem\", key = \"shop.key\" }}]"
        );
        let top = "[server]\nthreads = 1\n[log]\naccess = \"access.log\"";
        let file = change(file().top(top).listener(lines).version("v1", upstream.backend(), 100)).end(&tls);
        let proxy = Proxy::start(folder, &file.text()).await;
        Self { upstream, proxy, authority }
    }

    /// A connection on which nothing was said yet.
    pub(super) async fn pipe(&self, way: Way) -> Pipe {
        let plain = way != Way::Tls;
        let pipe = self.proxy.pipe_to(usize::from(!plain)).await;
        if plain {
            return pipe;
        }
        Box::new(tls_client(pipe, self.authority.client(&["h2"]), "shop.example").await.unwrap())
    }

    /// An HTTP/2 connection whose frames are written by hand.
    pub(super) async fn http2(&self, way: Way) -> Frames {
        Frames::open(self.pipe(way).await).await
    }

    /// Sends exact bytes over HTTP/1.1 and reads until the proxy closes.
    pub(super) async fn exchange(&self, bytes: impl AsRef<[u8]>) -> Result<Vec<u8>, String> {
        exchange(self.pipe(Way::Http1).await, bytes.as_ref().to_vec()).await
    }

    /// Sends a request that is followed by the canary and a request that closes: the answers, in order.
    pub(super) async fn answers(&self, bytes: impl AsRef<[u8]>) -> Result<Vec<Reply>, String> {
        replies(&self.exchange(bytes).await?)
    }

    /// An honest request is served, whatever happened before: neighbours notice nothing.
    pub(super) async fn serves_neighbours(&self) {
        let honest = "GET /honest HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n";
        let replies = self.answers(honest).await.unwrap();
        assert_eq!((replies.len(), replies[0].status, &replies[0].body[..]), (1, 200, &b"ok"[..]));
    }

    /// Each case, behind which comes the canary, is answered with one refusal, which says what it is and closes; of the
    /// case's bytes, the upstream hears no more than this.
    pub(super) async fn refuses(&self, statuses: &[u16], reaches: Reaches, cases: &[(&str, Vec<u8>)]) {
        assert!(!cases.is_empty());
        let mut trial = Trial::default();
        for (name, bytes) in cases {
            let said = self.exchange([bytes, CANARY.as_bytes()].concat()).await;
            let judged = said.and_then(|said| refusal(statuses, &said));
            trial.note(name, judged);
        }
        trial.note("the upstream", self.heard_nothing_but_honest(reaches).await);
        trial.end();
    }

    /// What the upstream heard are whole honest requests and, at the most, one piece of a request for each connection.
    pub(super) async fn heard_nothing_but_honest(&self, reaches: Reaches) -> Result<(), String> {
        self.serves_neighbours().await;
        for wire in self.upstream.wires() {
            let (requests, rest) = strict::read(&wire)?;
            if let Some(request) = requests.iter().find(|request| !request.line.starts_with("GET /honest ")) {
                return Err(format!("it heard {request:?}"));
            }
            if reaches == Reaches::Nothing && !rest.is_empty() {
                return Err(format!("it heard {:?}", String::from_utf8_lossy(rest)));
            }
        }
        Ok(())
    }

    /// Ends the proxy; its metrics, and the lines of its access log.
    pub(super) async fn records(self) -> (String, Vec<Value>) {
        self.proxy.records().await
    }
}

/// How much of an attack may reach an upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaches {
    Nothing,
    /// The beginning of a request that is then given up, so that it is never whole.
    Part,
}

/// The cases of a row: all failures are told together.
#[derive(Default)]
pub(super) struct Trial(Vec<String>);

impl Trial {
    pub(super) fn note(&mut self, case: &str, judged: Result<(), impl Display>) {
        if let Err(why) = judged {
            self.0.push(format!("{case}: {why}"));
        }
    }

    /// Two things that must be equal: values, so that a test reads as a table.
    #[allow(clippy::needless_pass_by_value)]
    pub(super) fn same<T: PartialEq + Debug>(&mut self, case: &str, found: T, expected: T) {
        let judged = if found == expected { Ok(()) } else { Err(format!("{found:?}, not {expected:?}")) };
        self.note(case, judged);
    }

    pub(super) fn end(self) {
        assert!(self.0.is_empty(), "{} cases failed:\n{}", self.0.len(), self.0.join("\n"));
    }
}

/// A GET with these fields besides the host, by each way: what the client is answered.
pub(super) async fn answered_by_each_way(stage: &Stage, sent: &[(&str, &str)]) -> Vec<(String, Reply)> {
    let lines: Vec<_> = sent.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut replies = stage
        .answers(request("GET /", &format!("{}Connection: close", lines.concat()), ""))
        .await
        .unwrap_or_else(|error| panic!("{sent:?}: {error}"));
    assert_eq!(replies.len(), 1, "{sent:?}");
    let mut all = vec![(format!("{:?}", Way::Http1), replies.remove(0))];
    for way in HTTP2 {
        let mut request = Request::get(format!("{}://shop.example/", way.scheme())).body(empty()).unwrap();
        for (name, value) in sent {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(HeaderName::try_from(*name).unwrap(), value);
        }
        let mut client = http2(stage.pipe(way).await).await;
        let Answer { status, headers: fields, body, .. } =
            collect(client.send_request(request).await.unwrap()).await;
        all.push((format!("{way:?}"), Reply { status, fields, body }));
    }
    all
}

/// Sends bytes, as far as they are taken, and reads until the other side closes.
pub(super) async fn exchange(pipe: Pipe, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let (mut read, mut write) = tokio::io::split(pipe);
    let sending = tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
        let _ = write.flush().await;
        write
    });
    let mut said = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, read.read_to_end(&mut said)).await;
    sending.abort();
    match reading {
        // A reset is an end, too.
        Ok(_) => Ok(said),
        Err(_) => Err(format!("the connection stays open after {:?}", String::from_utf8_lossy(&said))),
    }
}

/// An answer over HTTP/1.1.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| &value[..])
    }
}

/// The final answers in these bytes, to requests that were no HEAD. The error says what is not canonical.
pub(super) fn replies(mut bytes: &[u8]) -> Result<Vec<Reply>, String> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        let shown = || format!("{:?}", String::from_utf8_lossy(bytes));
        let end = find(bytes, b"\r\n\r\n").ok_or_else(|| format!("no whole head in {}", shown()))?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| format!("no status in {}", shown()))?;
        let split = |line: &str| {
            line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        };
        let fields: Option<Vec<_>> = lines.map(split).collect();
        let fields = fields.ok_or_else(|| format!("a field without colon in {}", shown()))?;
        bytes = &bytes[end + 4..];
        if status < 200 {
            continue;
        }
        let mut reply = Reply { status, fields, body: Vec::new() };
        let length = match reply.field("content-length") {
            Some(length) => length.parse().map_err(|_| format!("length {length:?}"))?,
            None if matches!(status, 204 | 304) => 0,
            None => return Err(format!("no length: {reply:?}")),
        };
        reply.body = bytes.get(..length).ok_or_else(|| format!("cut short: {}", shown()))?.to_vec();
        bytes = &bytes[length..];
        replies.push(reply);
    }
    Ok(replies)
}

/// Whether these bytes are one refusal as the proxy writes them: a status, its kind, a body that names it, and the close.
pub(super) fn refusal(statuses: &[u16], said: &[u8]) -> Result<(), String> {
    let replies = replies(said)?;
    let [reply] = &replies[..] else { return Err(format!("{} answers: {replies:?}", replies.len())) };
    if !statuses.contains(&reply.status) {
        return Err(format!("{} {:?}", reply.status, String::from_utf8_lossy(&reply.body)));
    }
    if reply.field("connection") != Some("close") {
        return Err(format!("it does not say that it closes: {reply:?}"));
    }
    let body: Value = serde_json::from_slice(&reply.body).map_err(|error| format!("{error}: {reply:?}"))?;
    if reply.field("gradual-error").is_none() || body["error"].as_str() != reply.field("gradual-error") {
        return Err(format!("its kind is not said: {reply:?}"));
    }
    Ok(())
}

/// A request with these lines besides its request line and `Host`.
pub(super) fn request(line: &str, fields: &str, body: &str) -> Vec<u8> {
    let fields = if fields.is_empty() { String::new() } else { format!("{fields}\r\n") };
    format!("{line} HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n{body}").into_bytes()
}

/// A chunked POST.
pub(super) fn chunked(body: &str) -> Vec<u8> {
    request("POST /", "Transfer-Encoding: chunked", body)
}

/// Waits until the upstream has heard so many whole requests.
pub(super) async fn heard(upstream: &Upstream, count: usize) {
    eventually("the upstream hears the requests", || upstream.requests().len() >= count).await;
}

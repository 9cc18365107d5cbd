//! The live objects of the process before, as this one knows them: an object that moves with the upgrade is answered here
//! when it has ended there.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use bytes::BytesMut;
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream as AsyncStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::handover::Word;
use crate::proxy::{Arrivals, Claim, Elsewhere, Fence, Leaving, LiveObject};

/// What the old process says of objects, a line each.
#[derive(Debug, Serialize, Deserialize)]
enum Notice {
    /// It is live there, and moves.
    Live(LiveObject),
    /// That is all of them.
    Done,
    /// The one that was said to be live as the so-manieth has ended.
    Ended(usize),
    /// What was claimed is not heeded, and why.
    Refused(String),
}

/// What a claim is answered. Without an answer, that process has ended, and all its objects with it.
type Answer = Result<(), String>;

/// Claims of this process's next generation, and who waits until the other has answered.
type Ask = (Vec<Claim>, oneshot::Sender<Answer>);

/// The process before, as far as objects go.
#[derive(Debug, Default)]
pub(crate) struct Elder {
    pid: u32,
    /// Whether it or this process has, or had, workers with objects.
    guards: bool,
    /// Until this process serves.
    stream: Option<UnixStream>,
    /// In the order in which they were said to be live.
    live: Vec<Option<Elsewhere>>,
    /// From then on; closed when that process has ended.
    asks: Option<mpsc::Sender<Ask>>,
}

/// The process before cannot be told what this one claims: nobody knows which objects are live there.
#[derive(Debug)]
pub(crate) struct Unheard {
    pid: u32,
    why: String,
}

impl Unheard {
    /// What to do.
    pub(crate) fn help(&self) -> String {
        format!("nothing has changed: try again, at the latest when process {} has ended", self.pid)
    }
}

impl fmt::Display for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, why } = self;
        write!(f, "it is not known which objects are live in process {pid}, which this one replaces: {why}")
    }
}

impl std::error::Error for Unheard {}

/// How long that process may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a process that gives an upgrade up goes on at most before this one has been ended by it, and more.
const GRACE: Duration = Duration::from_secs(15);
/// How often it is looked whether such a process has ended.
const LOOK: Duration = Duration::from_millis(50);

impl Elder {
    /// A process at the other end of a stream, which understands claims; whether it has objects.
    pub(crate) fn at(stream: UnixStream, pid: u32, has_objects: bool) -> Self {
        Self { pid, guards: has_objects, stream: Some(stream), ..Self::default() }
    }

    /// That process's id, where it may still have live objects of which a process after this one would not know.
    pub(crate) fn lives_on(&self) -> Option<u32> {
        let lives = self.asks.as_ref().is_some_and(|asks| !asks.is_closed());
        (lives && self.guards).then_some(self.pid)
    }

    /// Says what the next generation claims, before it serves, and enters what is live there.
    ///
    /// # Errors
    /// That process lives, and what is live in it is not known: the next generation may not serve.
    pub(crate) async fn claim(&mut self, claims: Vec<Claim>, arrivals: &Arrivals) -> Result<(), Unheard> {
        if claims.is_empty() {
            return Ok(());
        }
        self.guards = true;
        let answer = match (&self.asks, &self.stream) {
            (Some(asks), _) => ask(asks, claims).await,
            // Nothing is served yet that this could keep waiting.
            (None, Some(stream)) => exchange(stream, claims, arrivals, &mut self.live),
            (None, None) => Ok(()),
        };
        answer.map_err(|why| Unheard { pid: self.pid, why })
    }

    /// This process serves, and that one ends: goes on with what it says. Without a stream, it has given this upgrade up,
    /// or has ended: what is live there stays so until one or the other is sure.
    pub(crate) fn follow(&mut self, stream: Option<AsyncStream>, arrivals: Arrivals) {
        let live = std::mem::take(&mut self.live);
        let understands = self.stream.take().is_some();
        if !understands {
            return;
        }
        let (asks, asked) = mpsc::channel(1);
        match stream {
            Some(stream) => {
                let followed = Followed { live, arrivals, waits: None };
                tokio::spawn(followed.follow(stream, asked));
            }
            None if self.guards => {
                let gone = tokio::time::timeout(GRACE, gone(self.pid));
                tokio::spawn(async move {
                    refuse("it has given the upgrade up", asked, gone).await;
                    drop(live);
                });
            }
            None => return,
        }
        self.asks = Some(asks);
    }
}

async fn ask(asks: &mpsc::Sender<Ask>, claims: Vec<Claim>) -> Answer {
    let (done, answered) = oneshot::channel();
    let asked = async {
        // An error says that it has ended meanwhile, and all its objects with it.
        match asks.send((claims, done)).await {
            Ok(()) => answered.await.unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    };
    let late = |_| Err(format!("it does not answer within {PATIENCE:?}"));
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(late)
}

/// One claim and the answer to it. Nothing else comes between: the other process waits for the next word.
fn exchange(
    mut stream: &UnixStream,
    claims: Vec<Claim>,
    arrivals: &Arrivals,
    live: &mut Vec<Option<Elsewhere>>,
) -> Answer {
    let failed = |error: io::Error| format!("it does not answer: {error}");
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(&line(&Word::Objects(claims)).map_err(failed)?).map_err(failed)?;
    for line in io::BufReader::new(stream).lines() {
        match serde_json::from_str(&line.map_err(failed)?).map_err(|error| failed(error.into()))? {
            Notice::Live(object) => live.push(arrivals.enter(&object)),
            Notice::Done => return Ok(()),
            Notice::Refused(why) => return Err(why),
            Notice::Ended(_) => {}
        }
    }
    Err(failed(io::ErrorKind::UnexpectedEof.into()))
}

/// What the process before says, once this one serves.
#[derive(Debug)]
struct Followed {
    live: Vec<Option<Elsewhere>>,
    arrivals: Arrivals,
    /// Who waits for the answer to what was claimed last.
    waits: Option<oneshot::Sender<Answer>>,
}

impl Followed {
    /// Until that process has ended, and all its objects with it. Reads while it writes: the other one does so, too, and
    /// neither waits for the other to read first.
    async fn follow(mut self, stream: AsyncStream, mut asked: mpsc::Receiver<Ask>) {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut text = BytesMut::new();
        let error = loop {
            tokio::select! {
                said = lines.next_line() => {
                    let heard = match said {
                        Ok(Some(said)) => self.hear(&said),
                        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error),
                        // Its end, or that of a process that had not read all.
                        Ok(None) | Err(_) => return,
                    };
                    if let Err(error) = heard {
                        break error;
                    }
                }
                Some((claims, done)) = asked.recv(), if self.waits.is_none() => {
                    match line(&Word::Objects(claims)) {
                        // Who asked may have lost patience while another claim was not answered.
                        Ok(_) if done.is_closed() => {}
                        Ok(line) => {
                            text.extend_from_slice(&line);
                            self.waits = Some(done);
                        }
                        Err(error) => drop(done.send(Err(error.to_string()))),
                    }
                }
                written = write.write_buf(&mut text), if !text.is_empty() => {
                    if written.is_err() {
                        // It ends, or has ended: the reader will see that.
                        text.clear();
                    }
                }
            }
        };
        // One of its objects may be among what was not understood.
        let why = format!("what it says makes no sense: {error}");
        tracing::warn!("the process before: {why}; its objects are taken for live until it has ended");
        if let Some(waits) = self.waits.take() {
            let _ = waits.send(Err(why.clone()));
        }
        let mut rest = lines.into_inner();
        refuse(&why, asked, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }

    fn hear(&mut self, said: &str) -> io::Result<()> {
        let mut answer = |answer| self.waits.take().map(|waits| waits.send(answer));
        match serde_json::from_str(said)? {
            Notice::Live(object) => self.live.push(self.arrivals.enter(&object)),
            Notice::Done => drop(answer(Ok(()))),
            Notice::Refused(why) => drop(answer(Err(why))),
            Notice::Ended(at) => drop(self.live.get_mut(at).and_then(Option::take)),
        }
        Ok(())
    }
}

/// Refuses all that is claimed until the process before has ended.
async fn refuse(why: &str, mut asked: mpsc::Receiver<Ask>, ended: impl Future) {
    let mut ended = std::pin::pin!(ended);
    loop {
        tokio::select! {
            _ = &mut ended => return,
            Some((_, done)) = asked.recv() => drop(done.send(Err(why.to_owned()))),
        }
    }
}

/// Resolves when there is no such process.
async fn gone(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    while test_kill_process(pid) != Err(Errno::SRCH) {
        tokio::time::sleep(LOOK).await;
    }
}

fn line<T: Serialize>(said: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    Ok(line)
}

/// The objects that leave this process for the next.
#[derive(Debug)]
pub(crate) struct Departure {
    fence: Fence,
    /// Tell the place of each that has ended, in the order in which they were said to be live.
    ending: JoinSet<usize>,
    told: usize,
}

impl Departure {
    pub(crate) fn new(fence: Fence) -> Self {
        Self { fence, ending: JoinSet::new(), told: 0 }
    }

    /// Objects belong to what the next process claims from now on; what is to be said to it. What makes no sense is refused,
    /// and changes nothing.
    pub(crate) fn claimed(&mut self, claims: &[Claim]) -> io::Result<Vec<u8>> {
        let all = match self.fence.raise(claims) {
            Ok(all) => all,
            Err(error) => return line(&Notice::Refused(error.to_string())),
        };
        let mut text = Vec::new();
        for leaving in all {
            text.extend(line(&Notice::Live(leaving.object().clone()))?);
            self.ending.spawn(ended(leaving, self.told));
            self.told += 1;
        }
        text.extend(line(&Notice::Done)?);
        Ok(text)
    }

    /// The next process does not come.
    pub(crate) fn lift(&mut self) {
        self.ending.abort_all();
        self.fence.lift();
    }

    /// The next process serves: tells it what ends here, and hears what it claims later. For as long as this process lives:
    /// the end of the stream says that all its objects have ended.
    pub(crate) async fn go_on(mut self, mut stream: AsyncStream) {
        self.fence.replaced();
        if let Err(error) = self.converse(&mut stream).await {
            tracing::debug!(%error, "the new process is told no more of objects");
        }
        std::future::pending::<()>().await;
    }

    /// Reads while it writes: the other one does so, too, and neither waits for the other to read first.
    async fn converse(&mut self, stream: &mut AsyncStream) -> io::Result<()> {
        let (read, mut write) = stream.split();
        let mut lines = BufReader::new(read).lines();
        let mut text = BytesMut::new();
        loop {
            tokio::select! {
                Some(Ok(at)) = self.ending.join_next() => text.extend_from_slice(&line(&Notice::Ended(at))?),
                said = lines.next_line() => {
                    let said = said?.ok_or(io::ErrorKind::UnexpectedEof)?;
                    if let Word::Objects(claims) = serde_json::from_str(&said)? {
                        text.extend_from_slice(&self.claimed(&claims)?);
                    }
                }
                written = write.write_buf(&mut text), if !text.is_empty() => {
                    written?;
                }
            }
        }
    }
}

async fn ended(leaving: Leaving, at: usize) -> usize {
    leaving.ended().await;
    at
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use super::*;
    use crate::config::AccessTarget;
    use crate::export::access::AccessLog;
    use crate::metrics::Registry;
    use crate::proxy::{Services, Shards};

    /// The shards of a process whose only version has all objects of `shop`.
    async fn process(version: &str) -> Shards {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[worker]]\nname = \"shop\"\n[worker.objects]\n\
             key = 'http.request.headers[\"x-room\"][0]'\n[[worker.version]]\nid = \"{version}\"\n\
             upstreams = [\"http://127.0.0.1:9\"]\n\
             [worker.deployment]\nversions = [{{ version_id = \"{version}\", percentage = 100 }}]\n"
        );
        let (config, _) = crate::config::parse("gradual.toml", &text, std::path::Path::new("")).unwrap();
        let log = AccessLog::open(&AccessTarget::Off).unwrap();
        let services = Services { registry: Arc::new(Registry::default()), log };
        let mut shards = Shards::start(NonZeroUsize::MIN, &services).unwrap();
        let prepared = shards.prepare(&config).await.unwrap();
        shards.commit(prepared).await;
        shards
    }

    fn claim(version: &str, arcs: &str) -> Claim {
        let text = format!(
            r#"{{"worker":"shop","salt":"c2hvcA","versions":["{version}"],"shares":[100000],"arcs":{arcs},"reset":false,"timeout_ms":30000}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    const ALL: &str = "[[0,100000]]";

    /// A live object at the first version, by its number.
    fn object(number: usize) -> LiveObject {
        let text = format!(r#"{{"worker":"shop","version":"v1","name":"{number:08}"}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn pair() -> (AsyncStream, AsyncStream) {
        AsyncStream::pair().unwrap()
    }

    /// A process that follows, and the other end.
    fn following(arrivals: Arrivals, pid: u32) -> (Elder, AsyncStream) {
        let ((ours, theirs), (spare, _)) = (pair(), UnixStream::pair().unwrap());
        let mut elder = Elder::at(spare, pid, true);
        elder.follow(Some(ours), arrivals);
        (elder, theirs)
    }

    #[tokio::test]
    async fn a_claim_and_the_ends_of_many_objects_that_meet_do_not_wait_for_each_other() {
        let (old, new) = (process("v1").await, process("v2").await);
        let arrivals = old.arrivals();
        let live: Vec<_> = (0..20_000).map(|number| arrivals.enter(&object(number)).unwrap()).collect();
        let mut departure = Departure::new(old.fence());
        departure.claimed(&[claim("v2", ALL)]).unwrap();
        let (ours, theirs) = pair();
        tokio::spawn(departure.go_on(theirs));
        drop(live);
        // Until what ends has filled all that the system keeps for a reader.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (spare, _other) = UnixStream::pair().unwrap();
        let mut elder = Elder::at(spare, 1, true);
        elder.follow(Some(ours), new.arrivals());
        let long = claim(&"v".repeat(1 << 20), ALL);
        elder.claim(vec![long], &new.arrivals()).await.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_is_not_understood_has_its_objects_until_it_ends_and_is_told_nothing_more() {
        let new = process("v2").await;
        let (mut elder, mut theirs) = following(new.arrivals(), 7);
        let live = serde_json::to_string(&Notice::Live(object(1))).unwrap();
        theirs.write_all(format!("{live}\nnonsense\n").as_bytes()).await.unwrap();
        // It has heard all of that when it answers.
        let refused = elder.claim(vec![claim("v2", ALL)], &new.arrivals()).await.unwrap_err();
        assert!(refused.to_string().contains("in process 7") && refused.why.contains("makes no sense"));
        let moves = || new.fence().raise(&[claim("v2", ALL)]).unwrap().len();
        assert_eq!((moves(), elder.lives_on()), (1, Some(7)));
        drop(theirs);
        elder.asks.as_ref().unwrap().closed().await;
        elder.claim(vec![claim("v2", ALL)], &new.arrivals()).await.unwrap();
        assert_eq!((moves(), elder.lives_on()), (0, None));
    }

    #[tokio::test]
    async fn what_an_upgrade_that_is_given_up_has_told_holds_while_the_old_process_lives() {
        let new = process("v2").await;
        let mut other = tokio::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (stream, _theirs) = UnixStream::pair().unwrap();
        let mut elder = Elder::at(stream, other.id().unwrap(), true);
        elder.live.push(new.arrivals().enter(&object(1)));
        elder.follow(None, new.arrivals());
        let moves = || new.fence().raise(&[claim("v2", ALL)]).unwrap().len();
        tokio::time::sleep(3 * LOOK).await;
        assert_eq!((moves(), elder.lives_on()), (1, other.id()));
        assert!(elder.claim(vec![claim("v2", ALL)], &new.arrivals()).await.is_err());
        other.kill().await.unwrap();
        elder.asks.as_ref().unwrap().closed().await;
        tokio::task::yield_now().await;
        assert_eq!((moves(), elder.lives_on()), (0, None));
    }

    #[tokio::test]
    async fn a_claim_that_makes_no_sense_changes_nothing_and_is_refused() {
        let old = process("v1").await;
        let arrivals = old.arrivals();
        let _live = arrivals.enter(&object(1)).unwrap();
        let mut departure = Departure::new(old.fence());
        let said = |text: Vec<u8>| String::from_utf8(text).unwrap();
        let refused = said(departure.claimed(&[claim("v2", ALL), claim("v2", "[[0,1]]")]).unwrap());
        assert!(refused.starts_with(r#"{"Refused":"what is claimed for the objects of worker"#), "{refused}");
        let taken = said(departure.claimed(&[claim("v2", ALL)]).unwrap());
        assert!(taken.starts_with(r#"{"Live":"#) && taken.ends_with("\"Done\"\n"), "{taken}");
    }

    #[tokio::test]
    async fn a_start_without_an_answer_to_its_claim_fails() {
        let new = process("v2").await;
        for (answer, expected) in [
            ("", "it does not answer: "),
            ("nonsense\n", "it does not answer: "),
            ("{\"Refused\":\"so it is\"}\n", ": so it is"),
        ] {
            let (stream, mut theirs) = UnixStream::pair().unwrap();
            let mut elder = Elder::at(stream, 7, true);
            theirs.write_all(answer.as_bytes()).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let error = elder.claim(vec![claim("v2", ALL)], &new.arrivals()).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}

//! The live objects of the process before, as this one knows them: an object that moves with the upgrade is answered here
//! when it has ended there.

use std::io::{self, BufRead, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream as AsyncStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
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
}

/// Claims of this process's next generation, and who waits until the other has answered.
type Ask = (Vec<Claim>, oneshot::Sender<()>);

/// The process before, as far as objects go.
#[derive(Debug, Default)]
pub(crate) struct Elder {
    /// Until this process serves.
    stream: Option<UnixStream>,
    /// In the order in which they were said to be live.
    live: Vec<Option<Elsewhere>>,
    /// From then on; closed when that process has ended.
    asks: Option<mpsc::Sender<Ask>>,
}

/// How long that process may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

impl Elder {
    /// The process at the other end of a stream, which understands claims.
    pub(crate) fn at(stream: UnixStream) -> Self {
        Self { stream: Some(stream), ..Self::default() }
    }

    /// Says what the next generation claims, before it serves, and enters what is live there.
    pub(crate) async fn claim(&mut self, claims: Vec<Claim>, arrivals: &Arrivals) {
        if let Some(asks) = &self.asks {
            let (done, answered) = oneshot::channel();
            let asked = async {
                // An error says that it has ended meanwhile, and all its objects with it.
                if asks.send((claims, done)).await.is_ok() {
                    let _ = answered.await;
                }
            };
            if tokio::time::timeout(PATIENCE, asked).await.is_err() {
                tracing::warn!("the process before does not say which objects are live there");
            }
            return;
        }
        if claims.is_empty() {
            return;
        }
        let Some(stream) = &self.stream else { return };
        // Nothing is served yet that this could keep waiting.
        if let Err(error) = exchange(stream, claims, arrivals, &mut self.live) {
            tracing::warn!("the process before does not say which objects are live there: {error}");
        }
    }

    /// This process serves, and that one ends: goes on with what it says.
    pub(crate) fn follow(&mut self, stream: Option<AsyncStream>, arrivals: Arrivals) {
        self.stream = None;
        let live = std::mem::take(&mut self.live);
        if let Some(stream) = stream {
            let (asks, asked) = mpsc::channel(1);
            self.asks = Some(asks);
            tokio::spawn(follow(stream, live, asked, arrivals));
        }
    }
}

/// One claim and the answer to it. Nothing else comes between: the other process waits for the next word.
fn exchange(
    mut stream: &UnixStream,
    claims: Vec<Claim>,
    arrivals: &Arrivals,
    live: &mut Vec<Option<Elsewhere>>,
) -> io::Result<()> {
    stream.write_all(&line(&Word::Objects(claims))?)?;
    for line in io::BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Notice::Live(object) => live.push(arrivals.enter(&object)),
            Notice::Done => return Ok(()),
            Notice::Ended(_) => {}
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// With its end, all objects there have ended, too.
async fn follow(
    stream: AsyncStream,
    mut live: Vec<Option<Elsewhere>>,
    mut asked: mpsc::Receiver<Ask>,
    arrivals: Arrivals,
) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut waits = None;
    loop {
        tokio::select! {
            said = lines.next_line() => {
                let Ok(Some(said)) = said else { return };
                match serde_json::from_str(&said) {
                    Ok(Notice::Live(object)) => live.push(arrivals.enter(&object)),
                    Ok(Notice::Done) => drop(waits.take()),
                    Ok(Notice::Ended(at)) => drop(live.get_mut(at).and_then(Option::take)),
                    Err(error) => tracing::warn!("the process before says what makes no sense: {error}"),
                }
            }
            Some((claims, done)) = asked.recv(), if waits.is_none() => {
                waits = Some(done);
                let Ok(line) = line(&Word::Objects(claims)) else { return };
                if write.write_all(&line).await.is_err() {
                    return;
                }
            }
        }
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

    /// Objects belong to what the next process claims from now on; what is to be said to it.
    pub(crate) fn claimed(&mut self, claims: &[Claim]) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        for leaving in self.fence.raise(claims) {
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

    /// The next process serves: tells it what ends here, and hears what it claims later, until either process ends.
    pub(crate) async fn go_on(mut self, stream: AsyncStream) {
        self.fence.replaced();
        let (read, mut write) = stream.into_split();
        let mut lines: Lines<BufReader<OwnedReadHalf>> = BufReader::new(read).lines();
        while let Ok(()) = self.turn(&mut lines, &mut write).await {}
    }

    async fn turn(
        &mut self,
        lines: &mut Lines<BufReader<OwnedReadHalf>>,
        write: &mut OwnedWriteHalf,
    ) -> io::Result<()> {
        let text = tokio::select! {
            Some(Ok(at)) = self.ending.join_next() => line(&Notice::Ended(at))?,
            said = lines.next_line() => {
                let said = said?.ok_or(io::ErrorKind::UnexpectedEof)?;
                match serde_json::from_str(&said)? {
                    Word::Objects(claims) => self.claimed(&claims)?,
                    Word::Serving | Word::Failed(_) => return Ok(()),
                }
            }
        };
        write.write_all(&text).await
    }
}

async fn ended(leaving: Leaving, at: usize) -> usize {
    leaving.ended().await;
    at
}

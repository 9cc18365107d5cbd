//! What one shard does for objects: requests that wait for theirs, and the end of those whose object is cut.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::domain::Tenancy;
use super::{Answer, Common, Objects, Permit, Place};
use crate::proxy::body::ResponseBody;
use crate::proxy::failure::{Failure, Kind, Source};
use crate::proxy::handler::{Exchange, Halt};
use crate::proxy::record::Meter;
use crate::proxy::respond::refuse;
use crate::proxy::retire::Tenures;
use crate::proxy::shard::Shard;
use crate::proxy::tap::Tap;
use crate::proxy::upload;
use crate::proxy::watch::{Patience, Watch};

/// How much longer than the worker's `timeout` a request may wait for its object: what is cut needs a moment to end.
const GRACE: Duration = Duration::from_secs(3);

/// A shard's permit: until it has gone, the shard is busy. A request has it, and its connection to the upstream, and
/// whatever sees to it that the upstream has seen the end.
pub(in crate::proxy) struct Hold {
    permit: Permit,
    shard: Rc<Shard>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let holds = &self.shard.holders().holds;
        holds.set(holds.get().saturating_sub(1));
        self.shard.ended();
    }
}

/// A request's permit, for as long as the request lasts.
pub(in crate::proxy) struct Held {
    hold: Rc<Hold>,
    /// Its place among the shard's holders, from its response's head on.
    place: Cell<Option<usize>>,
}

/// The requests of a shard that hold objects and whose responses have begun.
#[derive(Default)]
pub(in crate::proxy) struct Holders {
    streams: RefCell<Slab<Holder>>,
    /// How many permits the shard has.
    holds: Cell<usize>,
    /// Calls requests that wait for their shard's next commit.
    pub(in crate::proxy) committed: Notify,
}

struct Holder {
    tenancy: Arc<Tenancy>,
    watch: Rc<Watch>,
    /// Over HTTP/2, its place among the shard's streams.
    stream: Option<usize>,
}

impl Held {
    pub(in crate::proxy) fn new(permit: Permit, shard: &Rc<Shard>) -> Box<Self> {
        let holds = &shard.holders().holds;
        holds.set(holds.get() + 1);
        let hold = Rc::new(Hold { permit, shard: Rc::clone(shard) });
        Box::new(Self { hold, place: Cell::new(None) })
    }

    pub(in crate::proxy) fn hold(&self) -> &Rc<Hold> {
        &self.hold
    }

    pub(in crate::proxy) fn tenancy(&self) -> &Arc<Tenancy> {
        self.hold.permit.tenancy()
    }

    /// The response's head is there: from now on the connection or stream is ended when the object is cut.
    pub(in crate::proxy) fn answers(&self, watch: &Rc<Watch>, stream: Option<usize>) {
        let holder = Holder { tenancy: Arc::clone(self.tenancy()), watch: Rc::clone(watch), stream };
        self.place.set(Some(self.hold.shard.holders().streams.borrow_mut().insert(holder)));
    }

    /// It is no stream any more, but a tunnel, which sees by itself when the object is cut.
    pub(in crate::proxy) fn ends_by_itself(&self) {
        if let Some(place) = self.place.take() {
            let left = self.hold.shard.holders().streams.borrow_mut().try_remove(place);
            drop(left);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.ends_by_itself();
    }
}

impl Holders {
    /// Whether the shard has no permit: no object is held by a request, or by the end of one.
    pub(in crate::proxy) fn is_empty(&self) -> bool {
        self.holds.get() == 0
    }

    /// Ends the responses of objects that are cut, without a word that would make them look whole.
    fn end_cut(&self, tenures: &Tenures) {
        let mut streams = Vec::new();
        for (_, holder) in &*self.streams.borrow() {
            if !holder.tenancy.is_over() {
                continue;
            }
            match holder.stream {
                Some(stream) => streams.push(stream),
                None => holder.watch.ends(Patience::Lost),
            }
        }
        tenures.cut(&streams);
    }
}

/// Ends what is cut, whenever something is. For as long as the shard lives.
pub(in crate::proxy) async fn end_cut(shard: Weak<Shard>, common: Arc<Common>) {
    loop {
        let cuts = common.cuts();
        match shard.upgrade() {
            Some(shard) => shard.holders().end_cut(shard.tenures()),
            None => return,
        }
        cuts.await;
    }
}

/// Why a request cannot go on yet.
pub(in crate::proxy) struct Wait {
    place: Place,
    /// Whether its shard is behind the table.
    is_stale: bool,
    /// How long it may take.
    patience: Duration,
    objects: Objects,
}

/// A permit for an object, or the reason why there is none yet.
pub(in crate::proxy) fn acquire(objects: &Objects, name: &[u8]) -> Result<Permit, Obstacle> {
    let patience = objects.plan.timeout + GRACE;
    let wait = |place, is_stale| {
        let objects = objects.clone();
        Err(Obstacle::Wait(Box::new(Wait { place, is_stale, patience, objects })))
    };
    match objects.domain.acquire(&objects.plan, name) {
        Answer::Granted(permit) => Ok(permit),
        Answer::Busy(place) => wait(place, false),
        Answer::Stale(place) => wait(place, true),
        Answer::Full => {
            objects.domain.refused();
            Err(Obstacle::Refused(Kind::ObjectMoving))
        }
        Answer::Elsewhere => {
            objects.domain.refused();
            Err(Obstacle::Refused(Kind::ObjectElsewhere))
        }
    }
}

/// What is between a request and its object.
pub(in crate::proxy) enum Obstacle {
    Wait(Box<Wait>),
    Refused(Kind),
}

/// A request that waits for its object, with all that is needed to begin with it anew.
pub(in crate::proxy) struct Waiting<B> {
    pub(in crate::proxy) request: Request<B>,
    pub(in crate::proxy) meter: Box<Meter>,
    pub(in crate::proxy) wait: Box<Wait>,
    /// Whether what its client still sends is taken where nobody wants it.
    pub(in crate::proxy) drained: bool,
}

impl<B> Waiting<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Source>,
{
    /// Waits until the object is free, decides anew by what is deployed then, and goes on; or answers that it took too long.
    pub(in crate::proxy) async fn end(self) -> Result<Response<ResponseBody>, Infallible> {
        let Self { mut request, mut meter, mut wait, drained } = self;
        loop {
            let due = meter.started + wait.patience;
            let is_called = tokio::time::timeout_at(due.into(), wait.called(&meter)).await.is_ok();
            if !is_called {
                wait.objects.domain.refused();
                if drained {
                    upload::decline(request.into_body());
                }
                return Ok(refuse(&Kind::ObjectMoving.into(), meter));
            }
            drop(wait);
            meter.snapshot = meter.client.shard.snapshot();
            let client = Rc::clone(&meter.client);
            match Exchange::begin(&client, meter, request, true) {
                Ok(exchange) => return exchange.run().await,
                Err(Halt::Answered(response)) => return Ok(*response),
                Err(Halt::Waits(waiting)) => Self { request, meter, wait, .. } = *waiting,
            }
        }
    }
}

impl Wait {
    /// Resolves when it is worth while to decide anew.
    async fn called(&mut self, meter: &Meter) {
        if !self.is_stale {
            return self.place.called().await;
        }
        let shard = &meter.client.shard;
        // No other code runs on this thread between the look and the wait.
        if !Rc::ptr_eq(&shard.snapshot(), &meter.snapshot) {
            return;
        }
        tokio::select! {
            () = shard.holders().committed.notified() => {}
            () = self.place.called() => {}
        }
    }
}

/// How long an upstream may take to see that a connection ends, and to end its own side of it; or that a stream of HTTP/2
/// is reset, which nobody acknowledges.
pub(super) const SEEN: Duration = Duration::from_secs(1);
/// How often it is looked whether a connection that its task owns has ended.
const LOOK: Duration = Duration::from_millis(5);

/// Ends a connection with a request under way; its object is free when the upstream has seen the end, or had the time to.
/// `tap`: `None` where the connection was made to become a tunnel, of which nothing can be read here; it is given the time.
pub(in crate::proxy) fn end_connection(hold: Rc<Hold>, tap: Option<Rc<Tap>>, task: AbortHandle) {
    task.abort();
    tokio::task::spawn_local(async move {
        let due = tokio::time::Instant::now() + SEEN;
        let _ = tokio::time::timeout_at(due, async {
            while !task.is_finished() {
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
        // The codec is gone with its task: nobody else reads or writes any more.
        match tap {
            None => tokio::time::sleep(SEEN).await,
            Some(tap) => {
                if let Some(mut stream) = tap.take_stream() {
                    see_off(&mut stream).await;
                }
            }
        }
        drop(hold);
    });
}

/// Ends a connection to an upstream, and waits until that has ended its side of it, or has had the time to.
pub(in crate::proxy) async fn see_off<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let end = async {
        if stream.shutdown().await.is_ok() {
            let _ = tokio::io::copy(stream, &mut tokio::io::sink()).await;
        }
    };
    let _ = tokio::time::timeout(SEEN, end).await;
}

/// A stream to an HTTP/2 upstream has ended, perhaps before its time; its object is free when the upstream had the time to see
/// that.
pub(in crate::proxy) fn end_stream(hold: Rc<Hold>) {
    tokio::task::spawn_local(async move {
        tokio::time::sleep(SEEN).await;
        drop(hold);
    });
}

/// Resolves when a request has to end because its object is cut.
pub(in crate::proxy) fn cut(held: &Held) -> Pin<Box<dyn Future<Output = ()>>> {
    let tenancy = Arc::clone(held.tenancy());
    Box::pin(async move { tenancy.over().await })
}

/// An exchange that ends when its request's object is cut, where it is for one.
pub(in crate::proxy) struct Within<'a, F> {
    pub(in crate::proxy) cut: Option<&'a mut Pin<Box<dyn Future<Output = ()>>>>,
    pub(in crate::proxy) exchange: Pin<&'a mut F>,
}

impl<T, F: Future<Output = Result<T, Failure>>> Future for Within<'_, F> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(cut) = &mut self.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(Kind::ObjectMoving.into()));
        }
        self.exchange.as_mut().poll(cx)
    }
}

impl Exchange {
    /// The exchange for an object is over: from now on the response is found by what cuts it.
    #[inline(never)]
    pub(in crate::proxy) fn hold_on<T>(&mut self, exchanged: &mut Result<T, Failure>) {
        if exchanged.is_err() {
            return;
        }
        self.meter.holds_on();
        if self.meter.held.as_ref().is_some_and(|held| held.tenancy().is_over()) {
            *exchanged = Err(Kind::ObjectMoving.into());
        }
    }
}

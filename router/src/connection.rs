//! One connection of a client: HTTP/1.1 or HTTP/2, whichever its first bytes are, until either side ends it. When the router does is decided
//! in [`crate::keeper`], by the time a client takes in [`crate::slow_clients`] and [`crate::slow_streams`].

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures::task::AtomicWaker;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use crate::{
    head_timer::HeadTimer,
    keeper::{Keeper, Phase, Seen},
    paced::Paced,
    proxy,
    router::{Peer, Router},
    server::FrontDoor,
    slow_clients::Impatient,
    slow_streams::Streams,
};

/// Largest request head in bytes; also the largest piece of a body that is read at once.
const READ_BUFFER: usize = 128 * 1024;
const STREAMS_PER_CONNECTION: u32 = 256;

/// Serve it to its end.
pub async fn serve<S>(stream: S, peer: Peer, router: Arc<Router>, door: FrontDoor, mut phase: watch::Receiver<Phase>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let streams = Streams::new(peer.clone(), door.write_timeout);
    let has_sent = AtomicBool::new(false);
    router.metrics.connections.inc();
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        has_sent.store(true, Ordering::Relaxed);
        let (router, peer) = (router.clone(), peer.clone());
        async move { Ok::<_, Infallible>(proxy::handle(&router, request, &peer).await.map(Paced::new)) }
    });
    let builder = builder(&door, streams.clone());
    let stream = Impatient::new(stream, door.write_timeout);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut left_behind = pin!(streams.left_behind());
    let mut keeper = Keeper::new(door.header_timeout, door.idle_timeout);
    let seen = || Seen { has_sent: has_sent.load(Ordering::Relaxed), begun: streams.begun(), open: streams.open() };
    let beside = Arc::new(Beside::default());
    loop {
        let now = *phase.borrow_and_update();
        if keeper.says_goodbye(now, seen()) {
            served.as_mut().graceful_shutdown();
        }
        let happened = event(served.as_mut(), left_behind.as_mut(), &mut keeper, &mut phase, &beside).await;
        match happened {
            Event::Ended => break,
            Event::Due if keeper.gives_up(seen()) => break,
            Event::Due | Event::Phase => {}
        }
    }
    router.metrics.connections.dec();
}

/// What may happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Ended,
    /// It is time to look at it.
    Due,
    /// The router drains or closes.
    Phase,
}

/// What happens next. The connection is polled several times a request, what stands beside it only when it has woken the task itself.
async fn event(
    mut served: Pin<&mut impl Future>,
    mut left_behind: Pin<&mut impl Future<Output = ()>>,
    keeper: &mut Keeper,
    phase: &mut watch::Receiver<Phase>,
    beside: &Arc<Beside>,
) -> Event {
    let mut changed = pin!(phase.changed());
    beside.woken.store(true, Ordering::Relaxed);
    poll_fn(|context| {
        if served.as_mut().poll(context).is_ready() {
            return Poll::Ready(Event::Ended);
        }
        beside.poll(context, |context| {
            if left_behind.as_mut().poll(context).is_ready() {
                return Poll::Ready(Event::Ended);
            }
            if keeper.poll(context).is_ready() {
                return Poll::Ready(Event::Due);
            }
            changed.as_mut().poll(context).map(|changed| changed.map_or(Event::Ended, |()| Event::Phase))
        })
    })
    .await
}

/// Wakes the task of a connection and remembers that it did.
#[derive(Debug, Default)]
struct Beside {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Beside {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Beside {
    /// Poll, if it was woken. A task keeps its waker as long as it lives, so that it is told only then.
    fn poll<T>(self: &Arc<Self>, context: &Context<'_>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if !self.woken.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        self.task.register(context.waker());
        poll(&mut Context::from_waker(&Waker::from(self.clone())))
    }
}

fn builder(door: &FrontDoor, streams: Streams) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(streams);
    builder.http1().timer(HeadTimer::default()).header_read_timeout(door.idle_timeout).max_buf_size(READ_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .adaptive_window(true);
    builder
}

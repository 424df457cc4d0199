//! Copies of requests for a revision whose answers nobody gets. A copy is made after the client was answered, waits for nobody, and is
//! the first thing that is left out when the router is short of anything.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use millrace_contract::routing::MIRROR_HEADER;
use tokio::time::Instant;

use crate::{
    balance::least_loaded,
    compare::{Form, Said, compare},
    counting::Outcome,
    forward::{Answered, Bounds, Call, Payload, Received, attempt},
    grpc,
    mark::Mark,
    route::is_inference,
    router::Router,
    snapshot::Service,
    traffic::{Agreement, Copying, MirrorCounts},
};

const MIRROR: HeaderName = HeaderName::from_static(MIRROR_HEADER);
/// Bytes of two answers that are compared on the thread that serves: it takes some 100 µs.
const COMPARED_HERE: usize = 16 * 1024;
/// In ten thousand.
const ALL: u32 = 10_000;

/// The live answer a copy's is compared with.
#[derive(Debug)]
pub struct Live {
    /// What it says; none where it streamed.
    said: Option<Said>,
    /// Time to its head in microseconds.
    microseconds: u64,
}

impl Live {
    /// The answer that is about to leave.
    pub fn of(answered: &Answered, microseconds: u64) -> Self {
        Self { said: said(answered), microseconds }
    }
}

fn said(answered: &Answered) -> Option<Said> {
    match &answered.body {
        Received::Held(whole) => Some(Said { form: Form::of(&answered.head.headers), body: whole.data().clone() }),
        Received::Streaming(_) => None,
    }
}

/// Perhaps send a copy of a call that was answered, by the draw. `served_by` is the target that answered.
pub fn perhaps(
    router: &Arc<Router>,
    service: &Arc<Service>,
    call: &Call,
    served_by: &str,
    live: impl FnOnce() -> Live,
) {
    let Some(mirror) = &service.policy.mirror else { return };
    let Some(target) = service.targets.get(mirror.target).filter(|target| target.revision != served_by) else { return };
    if rand::random_range(0..ALL) >= mirror.per_ten_thousand {
        return;
    }
    let Some(payload) = copied(call) else { return };
    if router.is_short() || target.endpoints.is_empty() {
        return mirror.counts.shed();
    }
    let Some(copying) = mirror.counts.begin(mirror.most) else { return };
    let mut copy =
        Call { method: call.method.clone(), path: call.path.clone(), headers: call.headers.clone(), payload };
    copy.headers.insert(MIRROR, HeaderValue::from_static("1"));
    // A copy has the service's time, however impatient the client was.
    grpc::without_deadline(&mut copy.headers);
    let sent = Copy { router: router.clone(), service: service.clone(), call: copy, live: live(), copying };
    tokio::spawn(sent.send(mirror.target, mirror.tolerance, mirror.counts.clone()));
}

/// The body of a copy. Only predictions are copied: nothing else has an answer to compare, and some of the rest changes the server that it
/// is sent to.
fn copied(call: &Call) -> Option<Payload> {
    let path = call.path.path();
    match &call.payload {
        Payload::Held(body) if is_inference(path) => Some(Payload::Held(body.clone())),
        Payload::Message(body) if grpc::is_inference(path) => Some(Payload::Message(body.clone())),
        Payload::Held(_) | Payload::Message(_) | Payload::Streamed(_) => None,
    }
}

struct Copy {
    router: Arc<Router>,
    service: Arc<Service>,
    call: Call,
    live: Live,
    copying: Copying,
}

impl Copy {
    async fn send(self, target: usize, tolerance: f64, counts: Arc<MirrorCounts>) {
        let Self { router, service, call, live, copying } = self;
        let target = &service.targets[target];
        let started = Instant::now();
        let Some(endpoint) = least_loaded(&target.endpoints, &[], 0, started.into_std()) else { return };
        let bounds = Bounds {
            mark: Mark::Unmeasured,
            deadline: started + service.timeout,
            settings: &router.settings,
            budget: &router.body_budget,
        };
        let result = attempt(&call, endpoint, bounds, started.into_std()).await;
        let microseconds = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        match result {
            Ok(answered) if is_success(&answered) => {
                let percent = microseconds.saturating_mul(100) / live.microseconds.max(1);
                counts.took(u32::try_from(percent).unwrap_or(u32::MAX));
                counts.compared(match live.said.zip(said(&answered)) {
                    Some((live, copied)) => beside(live, copied, tolerance).await,
                    None => None,
                });
            }
            Ok(_) | Err(_) => counts.failed(),
        }
        drop(copying);
    }
}

/// Over gRPC the status tells, which comes at the end.
fn is_success(answered: &Answered) -> bool {
    answered.head.status.is_success() && answered.status.is_none_or(|status| status.outcome() == Outcome::Answered)
}

/// Compare two answers. Long ones take milliseconds, which this thread owes its requests: others have them.
async fn beside(live: Said, copy: Said, tolerance: f64) -> Option<Agreement> {
    if live.body.len() + copy.body.len() <= COMPARED_HERE {
        return compare(&live, &copy, tolerance);
    }
    tokio::task::spawn_blocking(move || compare(&live, &copy, tolerance)).await.ok().flatten()
}

//! Choose a revision for a request, get its answer, and let the shield or the fallback answer where the revision fails.

use std::{sync::Arc, time::Instant};

use http::{HeaderName, HeaderValue, Response, Version};
use http_body_util::Either;
use millrace_contract::routing::{FALLBACK_HEADER, REVISION_HEADER};
use tokio::time::timeout_at;

use crate::{
    access_log::Shielded,
    attempts::{Manner, at_target, may_follow},
    body::AnswerBody,
    caller::Caller,
    counting::Outcome,
    forward::{Answered, Call, Failure, Received},
    headers::prepare_answer,
    judge::{Attempted, lack, outcome as judge},
    metrics::Ending,
    mirror::{self, Live},
    pick::{Wish, pick},
    refusal::Refusal,
    router::Router,
    snapshot::{Service, Target},
    streamed::Streamed,
    ticket::{Brought, Ticket},
    traffic::{InHand, Lack},
};

const REVISION: HeaderName = HeaderName::from_static(REVISION_HEADER);
const FALLBACK: HeaderName = HeaderName::from_static(FALLBACK_HEADER);

/// A request that is ready to be sent.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The service.
    pub service: &'a Arc<Service>,
    /// What is sent.
    pub call: &'a Call,
    /// The name of a revision it asks for.
    pub name: Option<&'a str>,
    /// Who sends it.
    pub caller: Option<&'a Caller>,
    /// The key of a cookie that will be set.
    pub new_key: Option<&'a str>,
}

impl Asked<'_> {
    /// Who shall have it by the plan of the service, and nobody where none of those is ready. Not to be kept from one plan to the next: routes
    /// have places in their plan.
    fn pick(&self) -> Option<(usize, Brought)> {
        let name = self.name.map(str::to_owned);
        let wish = Wish::of(self.service, name, &self.call.headers, self.caller, self.new_key);
        let (index, brought) = pick(self.service, &wish, &mut rand::rng())?;
        let brought = if self.call.asks_for_prediction() { brought } else { brought.without_prediction() };
        Some((index, brought))
    }
}

type Result<T, E = Refusal> = std::result::Result<T, E>;

/// Answer a request by the revision that is chosen for it, else by the shield, else by the fallback. What few requests need is boxed:
/// what a request may await is moved about with it.
pub async fn answer(router: &Arc<Router>, asked: Asked<'_>, in_hand: InHand) -> Result<Response<AnswerBody>> {
    if let Some(picked) = asked.pick() {
        return by_target(router, asked, in_hand, picked).await;
    }
    if asked.name.is_some() {
        return Err(nobody(asked.service));
    }
    if shield_of(asked.service, None).is_some() {
        return Box::pin(by_shield(router, asked, in_hand)).await;
    }
    Box::pin(after_hold(router, asked, in_hand)).await
}

async fn after_hold(router: &Arc<Router>, asked: Asked<'_>, in_hand: InHand) -> Result<Response<AnswerBody>> {
    let Some(service) = first_endpoint(router, asked.service).await else {
        return without_anybody(router, asked, in_hand).await;
    };
    let asked = Asked { service: &service, ..asked };
    match asked.pick() {
        Some(picked) => by_target(router, asked, in_hand, picked).await,
        None => without_anybody(router, asked, in_hand).await,
    }
}

async fn by_target(
    router: &Arc<Router>,
    asked: Asked<'_>,
    in_hand: InHand,
    (index, brought): (usize, Brought),
) -> Result<Response<AnswerBody>> {
    let Asked { service, call, .. } = asked;
    let target = &service.targets[index];
    // A revision that is asked for by name answers for itself, whatever it answers.
    let is_shielded = !matches!(brought, Brought::Name);
    let now = Instant::now();
    let mark = brought.mark(service.compares());
    let manner = Manner { mark, has_shield: is_shielded && has_shield(service, target) };
    let mut ticket = Ticket::open(target.clone(), brought, now);
    let result = at_target(router, service, target, call, manner, now).await;
    let outcome = judge(&result);
    let microseconds = ticket.head_arrived();
    match lack(&result) {
        Some(lack) if is_shielded => Box::pin(instead(router, asked, target, result, lack, ticket, in_hand)).await,
        Some(_) | None => {
            router.metrics.served(Ending::of(outcome));
            if let (Outcome::Answered, Ok(answered)) = (outcome, &result) {
                let live = || Live::of(answered, microseconds);
                mirror::perhaps(router, service, call, &target.revision, live);
            }
            reply(result, outcome, service, target, ticket, in_hand)
        }
    }
}

/// The target failed: the shield answers, else the fallback, else its failure is the answer.
async fn instead(
    router: &Arc<Router>,
    Asked { service, call, .. }: Asked<'_>,
    target: &Arc<Target>,
    result: Attempted,
    lack: Lack,
    mut ticket: Ticket,
    in_hand: InHand,
) -> Result<Response<AnswerBody>> {
    let outcome = judge(&result);
    let may_follow = may_follow(service, call, &result);
    if outcome == Outcome::Error && may_follow {
        ticket.settle(Outcome::Error);
        let is_evidence = ticket.is_evidence();
        if let Some(rescuer) = rescuer(router, service, target) {
            let (rescued, mut ticket) = rescue(router, service, &rescuer, call).await;
            let outcome = judge(&rescued);
            if outcome == Outcome::Error {
                ticket.settle(outcome);
            } else {
                if is_evidence {
                    target.counters.was_shielded();
                    rescuer.counters.served_as_shield();
                }
                router.metrics.served(Ending::Shielded);
                let mut answer = reply(rescued, outcome, service, &rescuer, ticket, in_hand)?;
                answer.extensions_mut().insert(Shielded(target.revision.clone()));
                return Ok(answer);
            }
        }
    }
    if may_follow && let Some(fallback) = fallback(service, Some(target), lack) {
        ticket.settle(outcome);
        let (rescued, mut ticket) = rescue(router, service, fallback, call).await;
        if judge(&rescued) != Outcome::Error {
            return reply_as_fallback(router, rescued, service, fallback, lack, ticket, in_hand);
        }
        ticket.settle(Outcome::Error);
    }
    router.metrics.served(Ending::of(outcome));
    reply(result, outcome, service, target, ticket, in_hand)
}

async fn rescue(router: &Router, service: &Service, target: &Arc<Target>, call: &Call) -> (Attempted, Ticket) {
    let now = Instant::now();
    let mut ticket = Ticket::open(target.clone(), Brought::Rescue, now);
    let result = at_target(router, service, target, call, Manner::default(), now).await;
    ticket.head_arrived();
    (result, ticket)
}

/// No target with a weight has an endpoint: the shield answers, and no revision is blamed.
async fn by_shield(router: &Arc<Router>, asked: Asked<'_>, in_hand: InHand) -> Result<Response<AnswerBody>> {
    let Asked { service, call, .. } = asked;
    let Some(shield) = shield_of(service, None) else { return Err(nobody(service)) };
    let (result, ticket) = rescue(router, service, &shield, call).await;
    let outcome = judge(&result);
    if outcome == Outcome::Error {
        router.metrics.served(Ending::Error);
    } else {
        if call.asks_for_prediction() {
            shield.counters.served_as_shield();
        }
        router.metrics.served(Ending::Shielded);
    }
    reply(result, outcome, service, &shield, ticket, in_hand)
}

/// Nothing is loaded: the fallback, or 503.
async fn without_anybody(router: &Arc<Router>, asked: Asked<'_>, in_hand: InHand) -> Result<Response<AnswerBody>> {
    let Asked { service, call, .. } = asked;
    let Some(target) = fallback(service, None, Lack::Absence) else { return Err(nobody(service)) };
    let (result, ticket) = rescue(router, service, target, call).await;
    if judge(&result) == Outcome::Error {
        router.metrics.served(Ending::Error);
        return reply(result, Outcome::Error, service, target, ticket, in_hand);
    }
    reply_as_fallback(router, result, service, target, Lack::Absence, ticket, in_hand)
}

/// Wait for a first endpoint, as long as the plan says. None: it did not come, or nobody waits.
async fn first_endpoint(router: &Router, service: &Service) -> Option<Arc<Service>> {
    let time = service.policy.hold_time()?;
    let most = service.policy.hold.as_ref()?.max_requests;
    let waiting = service.traffic.wait(most)?;
    let mut changes = router.changes();
    let deadline = tokio::time::Instant::now() + time;
    loop {
        let latest = router.look().service(&service.name).cloned()?;
        if latest.is_served() {
            return Some(latest);
        }
        if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            waiting.in_vain();
            return None;
        }
    }
}

/// Who answers if `target` fails: the shield of the newest plan. Asked again after the failure: the plan may have changed since
/// the request chose, so that even a former stable revision has one.
fn rescuer(router: &Router, service: &Service, target: &Target) -> Option<Arc<Target>> {
    shield_of(router.look().service(&service.name)?, Some(target))
}

/// Whether the shield would answer for this target, by the plan as it is known here.
fn has_shield(service: &Service, target: &Target) -> bool {
    service.shield().is_some_and(|shield| shield.revision != target.revision && !shield.endpoints.is_empty())
}

fn shield_of(service: &Service, instead_of: Option<&Target>) -> Option<Arc<Target>> {
    let shield = service.shield()?;
    let is_another = instead_of.is_none_or(|target| target.revision != shield.revision);
    (is_another && !shield.endpoints.is_empty()).then(|| shield.clone())
}

fn fallback<'a>(service: &'a Service, instead_of: Option<&Target>, lack: Lack) -> Option<&'a Arc<Target>> {
    let (target, rule) = service.fallback()?;
    let applies = match lack {
        Lack::Overload => rule.on_overload,
        Lack::Absence => rule.on_absence,
        Lack::Outage => rule.on_outage,
    };
    let is_another = instead_of.is_none_or(|other| other.revision != target.revision);
    (applies && is_another && !target.endpoints.is_empty()).then_some(target)
}

fn reply_as_fallback(
    router: &Router,
    result: Attempted,
    service: &Service,
    target: &Target,
    lack: Lack,
    ticket: Ticket,
    in_hand: InHand,
) -> Result<Response<AnswerBody>> {
    target.totals.fell_back(lack);
    router.metrics.served(Ending::Fallback);
    let outcome = judge(&result);
    let mut answer = reply(result, outcome, service, target, ticket, in_hand)?;
    answer.headers_mut().insert(FALLBACK, HeaderValue::from_static(lack.as_str()));
    Ok(answer)
}

fn reply(
    result: Attempted,
    outcome: Outcome,
    service: &Service,
    target: &Target,
    mut ticket: Ticket,
    in_hand: InHand,
) -> Result<Response<AnswerBody>> {
    let Answered { mut head, body, .. } = result.map_err(|failure| {
        ticket.settle(outcome);
        refusal(failure, service, target)
    })?;
    head.version = Version::HTTP_11;
    prepare_answer(&mut head.headers);
    if let Some(revision) = &target.header {
        head.headers.insert(REVISION, revision.clone());
    }
    let body = match body {
        Received::Held(whole) => {
            ticket.settle(outcome);
            Either::Left(whole)
        }
        Received::Streaming(arriving) => {
            Either::Right(Streamed::new(arriving, outcome, ticket, in_hand, service.timeout))
        }
    };
    Ok(Response::from_parts(head, body))
}

fn nobody(service: &Service) -> Refusal {
    Refusal::NoReadyEndpoint { service: service.name.clone() }
}

fn refusal(failure: Failure, service: &Service, target: &Target) -> Refusal {
    let (service_name, revision) = (service.name.clone(), target.revision.clone());
    match failure {
        Failure::Refused | Failure::Broken => Refusal::Unreachable { service: service_name, revision },
        Failure::TimedOut => {
            Refusal::TimedOut { service: service_name, revision, milliseconds: service.timeout.as_millis() }
        }
    }
}

//! Attempts at one revision: which failures are tried again on another endpoint, and how often.
//!
//! Inference counts as idempotent unless the plan says otherwise, so a request whose connection broke may be sent again. It is bounded:
//! a request that kills its server must not be handed from server to server, and a service in trouble must not be buried under retries.

use std::{net::SocketAddr, sync::Arc, time::Instant as Clock};

use millrace_contract::routing_policy::Ejection;
use tokio::time::Instant;

use crate::{
    balance::{Endpoint, least_loaded},
    counting::Outcome,
    forward::{Answered, Bounds, Call, Failure, Payload, Received, attempt},
    health::may_eject,
    judge::{Attempted, outcome, trouble},
    mark::Mark,
    router::Router,
    snapshot::{Service, Target},
};

/// What went wrong in an attempt, as far as another one may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing was sent.
    Refused,
    /// The server may have read the request.
    Broken,
    /// 429, 503 or what gRPC has for them: the server is full or ends; another one may be neither.
    Unavailable,
    /// Another attempt would take as long.
    TimedOut,
}

/// Whether to try again after `attempts` of at most `most` attempts, of which `broken` broke. With a shield behind it, a request that
/// broke two connections goes there; without one, it has all attempts.
fn tries_again(
    trouble: Trouble,
    attempts: usize,
    most: usize,
    broken: usize,
    has_untried: bool,
    has_shield: bool,
) -> bool {
    if attempts >= most {
        return false;
    }
    match trouble {
        Trouble::Refused => true,
        Trouble::Broken => broken < 2 || !has_shield,
        Trouble::Unavailable => has_untried,
        Trouble::TimedOut => false,
    }
}

/// Whether the same request may be sent to somebody else after this: it is there as a whole, and no server acts on it twice.
pub fn may_follow(service: &Service, call: &Call, result: &Attempted) -> bool {
    let was_not_sent = matches!(result, Err(Failure::Refused));
    match &call.payload {
        Payload::Held(_) | Payload::Message(_) => was_not_sent || service.policy.retries.idempotent,
        Payload::Streamed(lender) => lender.is_whole(),
    }
}

/// How a request is sent to a revision. By default as to one that stands in for another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// What its server is told.
    pub mark: Mark,
    /// Another revision would answer for this one.
    pub has_shield: bool,
}

/// Get an answer from this revision within the plan's time, `started` just now.
pub async fn at_target(
    router: &Router,
    service: &Service,
    target: &Arc<Target>,
    call: &Call,
    manner: Manner,
    started: Clock,
) -> Attempted {
    let deadline = Instant::from_std(started) + service.timeout;
    let Manner { mark, has_shield } = manner;
    let bounds = Bounds { mark, deadline, settings: &router.settings, budget: &router.body_budget };
    let mut now = started;
    let rule = &service.policy.retries;
    let most = usize::try_from(rule.max_attempts).unwrap_or(usize::MAX);
    service.traffic.budget.request(router.seconds(started));
    let mut newer = None;
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut broken = 0;
    loop {
        let target = newer.as_ref().unwrap_or(target);
        let offset = rand::random_range(0..usize::MAX);
        let Some(endpoint) = least_loaded(&target.endpoints, &tried, offset, now) else {
            return Err(Failure::Refused);
        };
        let mut result = attempt(call, endpoint, bounds, now).await;
        note(endpoint, target, service, &mut result);
        let Some(trouble) = trouble(&result) else { return result };
        tried.push(endpoint.address());
        broken += usize::from(trouble == Trouble::Broken);
        let latest = newest(router, service, target);
        let has_untried = latest.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.address()));
        newer = Some(latest);
        let again = tries_again(trouble, tried.len(), most, broken, has_untried, has_shield);
        if !again || !may_follow(service, call, &result) {
            return result;
        }
        now = Clock::now();
        if !service.traffic.budget.retry(router.seconds(now), rule) {
            service.traffic.over_budget();
            return result;
        }
        router.metrics.retried(trouble);
    }
}

/// What an attempt tells of its endpoint; of an answer that is still coming, its end will tell. A server that is full or ends says so
/// itself and is left to the balancing.
fn note(endpoint: &Endpoint, target: &Arc<Target>, service: &Service, result: &mut Attempted) {
    let is_full = trouble(result) == Some(Trouble::Unavailable);
    let has_failed = outcome(result) == Outcome::Error;
    match result {
        Ok(_) if is_full => {}
        Ok(Answered { body: Received::Streaming(arriving), .. }) if !has_failed => {
            arriving.later = Some(Later { target: target.clone(), rule: service.policy.ejection.clone() });
        }
        Ok(_) if !has_failed => endpoint.health.succeeded(),
        Ok(_) => blame(endpoint, target, &service.policy.ejection),
        Err(failure) => {
            if *failure == Failure::Refused {
                endpoint.health.refused(Clock::now());
            }
            blame(endpoint, target, &service.policy.ejection);
        }
    }
}

/// The endpoint failed a request: it is left alone for a while when that was one too many.
fn blame(endpoint: &Endpoint, target: &Target, rule: &Ejection) {
    let now = Clock::now();
    let may_go = || {
        let out = target.endpoints.iter().filter(|other| other.health.is_ejected(now)).count();
        may_eject(out, target.endpoints.len(), rule)
    };
    if endpoint.health.failed(now, rule, may_go) {
        target.totals.ejected();
    }
}

/// What is told of an endpoint when its answer has ended.
#[derive(Debug)]
pub struct Later {
    target: Arc<Target>,
    rule: Ejection,
}

impl Later {
    /// It ended so.
    pub fn ended(&self, endpoint: &Endpoint, outcome: Outcome) {
        match outcome {
            Outcome::Answered | Outcome::ClientError => endpoint.health.succeeded(),
            Outcome::Error => blame(endpoint, &self.target, &self.rule),
            Outcome::Cancelled => {}
        }
    }
}

/// The same revision in the newest snapshot: endpoints may have changed since this request looked. As it was, when it has none there.
fn newest(router: &Router, service: &Service, target: &Arc<Target>) -> Arc<Target> {
    let snapshot = router.snapshot();
    let found = snapshot.service(&service.name).and_then(|service| service.target(&target.revision));
    found.filter(|found| !found.endpoints.is_empty()).unwrap_or(target).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_again() {
        // trouble, attempts, broken, another endpoint, shield
        let cases = [
            ((Trouble::Refused, 1, 0, false, true), true),
            ((Trouble::Refused, 2, 0, true, false), true),
            ((Trouble::Refused, 3, 0, true, false), false),
            ((Trouble::Broken, 1, 1, false, true), true),
            ((Trouble::Broken, 2, 2, true, true), false),
            ((Trouble::Broken, 2, 2, true, false), true),
            ((Trouble::Broken, 3, 3, true, false), false),
            ((Trouble::Unavailable, 1, 0, true, false), true),
            ((Trouble::Unavailable, 1, 0, false, false), false),
            ((Trouble::TimedOut, 1, 0, true, false), false),
        ];
        for (case, expected) in cases {
            let (trouble, attempts, broken, has_untried, has_shield) = case;
            assert_eq!(tries_again(trouble, attempts, 3, broken, has_untried, has_shield), expected, "{case:?}");
        }
    }
}

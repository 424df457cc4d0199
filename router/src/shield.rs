//! Choose a revision for a request, get its answer, and let the shield answer where the revision fails.

use std::sync::Arc;

use http::{HeaderName, Response, Version};
use http_body_util::{Either, Full};
use millrace_contract::routing::REVISION_HEADER;

use crate::{
    attempts::at_target,
    body::{AnswerBody, Streamed, grpc_outcome},
    choose::draw,
    counting::{Outcome, Ticket},
    forward::{Answered, Call, Failure, Received},
    headers::prepare_answer,
    metrics::Ending,
    refusal::Refusal,
    router::Router,
    snapshot::{Service, Target},
};

const REVISION: HeaderName = HeaderName::from_static(REVISION_HEADER);

/// Answer a call by the revision the draw chooses, or by the shield.
pub async fn answer(router: &Router, service: &Service, call: &Call) -> Result<Response<AnswerBody>, Refusal> {
    let shares = service.targets.iter().map(|target| target.share());
    let Some(target) = draw(shares, &mut rand::rng()).and_then(|index| service.targets.get(index)) else {
        return instead_of_nobody(router, service, call).await;
    };
    let mut ticket = Ticket::open(target.counters.clone());
    let has_rescuer = rescuer(router, service, target).is_some();
    let result = at_target(router, service, target, call, has_rescuer).await;
    let outcome = judge(&result);
    ticket.head_arrived();
    if outcome != Outcome::Error {
        router.metrics.served(Ending::of(outcome));
        return reply(result, outcome, service, target, ticket);
    }
    ticket.settle(Outcome::Error);
    if call.can_be_sent_again()
        && let Some(rescuer) = rescuer(router, service, target)
    {
        let rescued = at_target(router, service, &rescuer, call, false).await;
        let outcome = judge(&rescued);
        if outcome != Outcome::Error {
            target.counters.was_shielded();
            rescuer.counters.served_as_shield();
            router.metrics.served(Ending::Shielded);
            return reply(rescued, outcome, service, &rescuer, Ticket::uncounted());
        }
    }
    router.metrics.served(Ending::Error);
    reply(result, Outcome::Error, service, target, ticket)
}

/// No target with a weight has an endpoint: the shield answers if it has one, and no revision is blamed.
async fn instead_of_nobody(router: &Router, service: &Service, call: &Call) -> Result<Response<AnswerBody>, Refusal> {
    let shield = service.shield().filter(|shield| !shield.endpoints.is_empty());
    let shield = shield.ok_or_else(|| Refusal::NoReadyEndpoint { service: service.name.clone() })?;
    let result = at_target(router, service, shield, call, false).await;
    let outcome = judge(&result);
    if outcome == Outcome::Error {
        router.metrics.served(Ending::Error);
    } else {
        shield.counters.served_as_shield();
        router.metrics.served(Ending::Shielded);
    }
    reply(result, outcome, service, shield, Ticket::uncounted())
}

/// Who answers if `target` fails: the shield of the newest plan. Asked again after the failure: the plan may have changed since
/// the request chose, so that even a former stable revision has one.
fn rescuer(router: &Router, service: &Service, target: &Target) -> Option<Arc<Target>> {
    let snapshot = router.snapshot();
    let shield = snapshot.service(&service.name)?.shield()?;
    (shield.revision != target.revision && !shield.endpoints.is_empty()).then(|| shield.clone())
}

fn judge(result: &Result<Answered, Failure>) -> Outcome {
    match result {
        Err(_) => Outcome::Error,
        Ok(answered) if answered.head.status.is_server_error() => Outcome::Error,
        Ok(answered) if answered.head.status.is_client_error() => Outcome::ClientError,
        Ok(answered) => grpc_outcome(&answered.head.headers).unwrap_or(Outcome::Answered),
    }
}

fn reply(
    result: Result<Answered, Failure>,
    outcome: Outcome,
    service: &Service,
    target: &Target,
    mut ticket: Ticket,
) -> Result<Response<AnswerBody>, Refusal> {
    let Answered { mut head, body } = result.map_err(|failure| refusal(failure, service, target))?;
    head.version = Version::HTTP_11;
    prepare_answer(&mut head.headers);
    if let Some(revision) = &target.header {
        head.headers.insert(REVISION, revision.clone());
    }
    let body = match body {
        Received::Held(bytes) => {
            ticket.settle(outcome);
            Either::Left(Full::new(bytes))
        }
        Received::Streaming(body, in_flight) => Either::Right(Streamed::new(body, outcome, ticket, in_flight)),
    };
    Ok(Response::from_parts(head, body))
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

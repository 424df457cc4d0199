//! Attempts at one revision: which failures are tried again on another endpoint, and how often.
//!
//! Inference is idempotent, so a request whose connection broke may be sent again. It is bounded, for a request that kills its
//! server must not be handed from server to server.

use std::{net::SocketAddr, sync::Arc};

use http::StatusCode;
use tokio::time::Instant;

use crate::{
    balance::least_loaded,
    forward::{Answered, Call, Failure},
    router::Router,
    snapshot::{Service, Target},
};

/// Attempts at one revision, the first included.
const MOST: usize = 3;

/// What went wrong in an attempt, as far as another one may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing was sent.
    Refused,
    /// The server may have read the request.
    Broken,
    /// 503: the server is full or ends; another one may be neither.
    Unavailable,
    /// Another attempt would take as long.
    TimedOut,
}

/// Whether to try again after `attempts` attempts, of which `broken` broke. With a shield behind it, a request that broke two
/// connections goes there; without one, it has all attempts.
fn tries_again(trouble: Trouble, attempts: usize, broken: usize, has_untried: bool, has_shield: bool) -> bool {
    if attempts >= MOST {
        return false;
    }
    match trouble {
        Trouble::Refused => true,
        Trouble::Broken => broken < 2 || !has_shield,
        Trouble::Unavailable => has_untried,
        Trouble::TimedOut => false,
    }
}

fn trouble(result: &Result<Answered, Failure>) -> Option<Trouble> {
    match result {
        Ok(answered) if answered.head.status == StatusCode::SERVICE_UNAVAILABLE => Some(Trouble::Unavailable),
        Ok(_) => None,
        Err(Failure::Refused) => Some(Trouble::Refused),
        Err(Failure::Broken) => Some(Trouble::Broken),
        Err(Failure::TimedOut) => Some(Trouble::TimedOut),
    }
}

/// Get an answer from this revision within the plan's time.
pub async fn at_target(
    router: &Router,
    service: &Service,
    target: &Arc<Target>,
    call: &Call,
    has_shield: bool,
) -> Result<Answered, Failure> {
    let deadline = Instant::now() + service.timeout;
    let mut target = target.clone();
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut broken = 0;
    loop {
        let now = std::time::Instant::now();
        let Some(endpoint) = least_loaded(&target.endpoints, &tried, rand::random_range(0..usize::MAX), now) else {
            return Err(Failure::Refused);
        };
        let result = router.clients.attempt(call, endpoint, deadline).await;
        let Some(trouble) = trouble(&result) else { return result };
        tried.push(endpoint.address());
        broken += usize::from(trouble == Trouble::Broken);
        target = newest(router, service, target);
        let has_untried = target.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.address()));
        let again = tries_again(trouble, tried.len(), broken, has_untried, has_shield) && call.can_be_sent_again();
        if !again {
            return result;
        }
        router.metrics.retried(trouble);
    }
}

/// The same revision in the newest snapshot: endpoints may have changed since this request looked. As it was, when it has none there.
fn newest(router: &Router, service: &Service, target: Arc<Target>) -> Arc<Target> {
    let snapshot = router.snapshot();
    let found = snapshot.service(&service.name).and_then(|service| service.target(&target.revision));
    found.filter(|found| !found.endpoints.is_empty()).cloned().unwrap_or(target)
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
            assert_eq!(tries_again(trouble, attempts, broken, has_untried, has_shield), expected, "{case:?}");
        }
    }
}

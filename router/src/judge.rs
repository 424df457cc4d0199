//! What an answer means, or that there is none: for the revision's counts, for who may answer instead, and for another attempt. Pure.

use http::StatusCode;

use crate::{
    attempts::Trouble,
    counting::Outcome,
    forward::{Answered, Failure},
    traffic::Lack,
};

/// What came of asking a revision.
pub type Attempted = Result<Answered, Failure>;

/// How it counts. 429 is an error: it is the server that is full, not the client that asks wrongly.
pub fn outcome(result: &Attempted) -> Outcome {
    let Ok(answered) = result else { return Outcome::Error };
    match answered.head.status {
        StatusCode::TOO_MANY_REQUESTS => Outcome::Error,
        status if status.is_server_error() => Outcome::Error,
        status if status.is_client_error() => Outcome::ClientError,
        _ => answered.status.map_or(Outcome::Answered, |status| status.outcome()),
    }
}

/// What it lacks, if somebody else may have it.
pub fn lack(result: &Attempted) -> Option<Lack> {
    let Ok(answered) = result else { return Some(Lack::Outage) };
    if outcome(result) != Outcome::Error {
        return None;
    }
    Some(match (answered.head.status, answered.status) {
        (status, _) if is_full(status) => Lack::Overload,
        (status, _) if status.is_server_error() => Lack::Outage,
        (_, Some(status)) => status.lack(),
        (_, None) => Lack::Outage,
    })
}

/// Why another attempt may help, if it may.
pub fn trouble(result: &Attempted) -> Option<Trouble> {
    match result {
        Ok(answered) if is_full(answered.head.status) => Some(Trouble::Unavailable),
        Ok(answered) => answered.status.and_then(|status| status.trouble()),
        Err(Failure::Refused) => Some(Trouble::Refused),
        Err(Failure::Broken) => Some(Trouble::Broken),
        Err(Failure::TimedOut) => Some(Trouble::TimedOut),
    }
}

fn is_full(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use http::Response;

    use super::*;
    use crate::{body::Whole, forward::Received, grpc::Status};

    fn answered(code: u16, status: Option<Status>) -> Attempted {
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = StatusCode::from_u16(code).expect("a status");
        Ok(Answered { head, body: Received::Held(Whole::default()), status })
    }

    #[test]
    fn every_failure_is_judged_alike_for_counts_shield_and_retries() {
        let cases = [
            (answered(200, None), Outcome::Answered, None, None),
            (answered(404, None), Outcome::ClientError, None, None),
            (answered(429, None), Outcome::Error, Some(Lack::Overload), Some(Trouble::Unavailable)),
            (answered(503, None), Outcome::Error, Some(Lack::Overload), Some(Trouble::Unavailable)),
            (answered(500, None), Outcome::Error, Some(Lack::Outage), None),
            (answered(200, Some(Status::UNKNOWN)), Outcome::Error, Some(Lack::Outage), None),
            (Err(Failure::Broken), Outcome::Error, Some(Lack::Outage), Some(Trouble::Broken)),
        ];
        for (result, counts, lacks, again) in cases {
            assert_eq!((outcome(&result), lack(&result), trouble(&result)), (counts, lacks, again), "{result:?}");
        }
    }
}

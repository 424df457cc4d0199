//! gRPC as far as the router understands it: which calls have one request and one answer, and whose fault a status is. Pure.

use http::{HeaderMap, HeaderName};

use crate::{attempts::Trouble, counting::Outcome, traffic::Lack};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// How long the client waits, if it says so.
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The service of the Open Inference Protocol; all its calls but one are unary.
const INFERENCE: &str = "/inference.GRPCInferenceService/";
const STREAM: &str = "ModelStreamInfer";
const INFER: &str = "ModelInfer";
/// Bytes before each message.
pub const PREFIX: usize = 5;

/// A status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    code: u16,
    /// A DEADLINE_EXCEEDED is of the deadline that the client has set.
    client_has_deadline: bool,
}

impl Status {
    /// An answer that ended without a status: clients take it for this.
    pub const UNKNOWN: Self = Self { code: 2, client_has_deadline: false };

    /// The one in these headers or trailers.
    pub fn of(headers: &HeaderMap, client_has_deadline: bool) -> Option<Self> {
        let code = headers.get(STATUS)?.to_str().ok()?.parse().ok()?;
        Some(Self { code, client_has_deadline })
    }

    /// What it means for the revision. The codes that are a server's fault are UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL,
    /// UNAVAILABLE and DATA_LOSS; but impatient clients must not roll back a good revision.
    pub fn outcome(self) -> Outcome {
        match self.code {
            0 => Outcome::Answered,
            4 if self.client_has_deadline => Outcome::ClientError,
            2 | 4 | 8 | 13 | 14 | 15 => Outcome::Error,
            _ => Outcome::ClientError,
        }
    }

    /// What an error lacks. RESOURCE_EXHAUSTED and UNAVAILABLE are what 429 and 503 are over REST.
    pub fn lack(self) -> Lack {
        match self.code {
            8 | 14 => Lack::Overload,
            _ => Lack::Outage,
        }
    }

    /// Whether another server may do better.
    pub fn trouble(self) -> Option<Trouble> {
        matches!(self.code, 8 | 14).then_some(Trouble::Unavailable)
    }
}

/// Whether a call has one request and one answer, by its path. Everything that is not known to is a stream.
pub fn is_unary(path: &str) -> bool {
    path.strip_prefix(INFERENCE).is_some_and(|method| !method.is_empty() && method != STREAM)
}

/// Whether a call has a prediction for its answer.
pub fn is_inference(path: &str) -> bool {
    path.strip_prefix(INFERENCE) == Some(INFER)
}

/// Whether a call is a stream of predictions.
pub fn is_inference_stream(path: &str) -> bool {
    path.strip_prefix(INFERENCE) == Some(STREAM)
}

/// Whether the client says how long it waits.
pub fn has_deadline(headers: &HeaderMap) -> bool {
    headers.contains_key(TIMEOUT)
}

/// Nobody waits for the answer.
pub fn without_deadline(headers: &mut HeaderMap) {
    headers.remove(TIMEOUT);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_status_is_read_from_headers_and_judged_by_whose_fault_it_is() {
        let cases = [
            ("0", Some(Outcome::Answered)),
            ("1", Some(Outcome::ClientError)),
            ("3", Some(Outcome::ClientError)),
            ("4", Some(Outcome::Error)),
            ("8", Some(Outcome::Error)),
            ("12", Some(Outcome::ClientError)),
            ("13", Some(Outcome::Error)),
            ("14", Some(Outcome::Error)),
            ("x", None),
        ];
        for (status, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static(status));
            assert_eq!(Status::of(&headers, false).map(Status::outcome), expected, "grpc-status {status}");
        }
        assert_eq!(Status::of(&HeaderMap::new(), false), None);
        assert_eq!(Status { code: 4, client_has_deadline: true }.outcome(), Outcome::ClientError);
    }

    #[test]
    fn what_429_and_503_are_over_rest_may_be_had_elsewhere() {
        let lacks = [2, 8, 13, 14].map(|code| {
            let status = Status { code, client_has_deadline: false };
            (status.lack(), status.trouble())
        });
        let (outage, overload) = ((Lack::Outage, None), (Lack::Overload, Some(Trouble::Unavailable)));
        assert_eq!(lacks, [outage, overload, outage, overload]);
    }

    #[test]
    fn only_calls_that_are_known_to_be_unary_are_and_few_predict() {
        let cases = [
            ("/inference.GRPCInferenceService/ModelInfer", (true, true, false)),
            ("/inference.GRPCInferenceService/ServerReady", (true, false, false)),
            ("/inference.GRPCInferenceService/ModelStreamInfer", (false, false, true)),
            ("/inference.GRPCInferenceService/", (false, false, false)),
            ("/other.Service/ModelInfer", (false, false, false)),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", (false, false, false)),
            ("/grpc.health.v1.Health/Watch", (false, false, false)),
        ];
        for (path, expected) in cases {
            assert_eq!((is_unary(path), is_inference(path), is_inference_stream(path)), expected, "{path}");
        }
    }
}

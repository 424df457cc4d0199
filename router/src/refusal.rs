//! Every answer the router gives of its own: one table from the reason to HTTP and gRPC status and the text. Pure.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use thiserror::Error;

/// Longest part of a host or path that is repeated in a message.
const REPEATED: usize = 200;
/// What a client is told to wait, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why the router answers itself.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Neither host nor path names a service with a plan.
    #[error(
        "no InferenceService matches host \"{host}\" and path \"{path}\": send it to host NAME or NAME.{namespace}, or to /v2/models/NAME/..."
    )]
    Unmatched {
        /// Host as sent.
        host: String,
        /// Path as sent.
        path: String,
        /// The router's namespace.
        namespace: String,
    },
    /// CONNECT, or a request without a path.
    #[error("the router forwards requests to models; it is no tunnel")]
    NotForwarded,
    /// No credentials, or none that are valid.
    #[error("valid credentials are needed: {0}")]
    Unauthenticated(String),
    /// Nobody can tell yet which tokens are valid.
    #[error("the issuer's key set could not be read yet, so no token can be verified: try again")]
    NoKeySet,
    /// The body is greater than the plan allows.
    #[error("request body is larger than the {limit} bytes that this service accepts")]
    BodyTooLarge {
        /// Bytes.
        limit: usize,
    },
    /// The body did not arrive in time.
    #[error("request body did not arrive within {seconds} s")]
    BodyTimeout {
        /// Seconds.
        seconds: u64,
    },
    /// The body broke off.
    #[error("request body could not be read")]
    BodyBroken,
    /// The router itself has more in hand than it is allowed.
    #[error("the router has too many requests in hand: try again")]
    Overloaded,
    /// Nobody can serve it now.
    #[error("InferenceService \"{service}\" has no ready endpoint")]
    NoReadyEndpoint {
        /// The service.
        service: String,
    },
    /// Its servers refuse or break connections.
    #[error("InferenceService \"{service}\", revision {revision}: the connection to its server was refused or broken")]
    Unreachable {
        /// The service.
        service: String,
        /// The revision that was asked last.
        revision: String,
    },
    /// Its servers do not answer in time.
    #[error("InferenceService \"{service}\", revision {revision}: no answer within {milliseconds} ms")]
    TimedOut {
        /// The service.
        service: String,
        /// The revision that was asked last.
        revision: String,
        /// What the plan allows.
        milliseconds: u128,
    },
}

impl Refusal {
    /// Cut what a client sent to a length that is fit to be repeated.
    pub fn repeated(text: &str) -> String {
        text.chars().take(REPEATED).collect()
    }

    /// HTTP status and gRPC code.
    pub fn codes(&self) -> (StatusCode, u8) {
        match self {
            Self::Unmatched { .. } => (StatusCode::NOT_FOUND, 5),
            Self::NotForwarded => (StatusCode::METHOD_NOT_ALLOWED, 12),
            Self::Unauthenticated(_) => (StatusCode::UNAUTHORIZED, 16),
            Self::NoKeySet => (StatusCode::SERVICE_UNAVAILABLE, 14),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, 8),
            Self::BodyTimeout { .. } => (StatusCode::REQUEST_TIMEOUT, 4),
            Self::BodyBroken => (StatusCode::BAD_REQUEST, 3),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, 14),
            Self::NoReadyEndpoint { .. } => (StatusCode::SERVICE_UNAVAILABLE, 14),
            Self::Unreachable { .. } => (StatusCode::BAD_GATEWAY, 14),
            Self::TimedOut { .. } => (StatusCode::GATEWAY_TIMEOUT, 4),
        }
    }

    /// The answer in the form of the Open Inference Protocol.
    pub fn into_http(self) -> Response<Bytes> {
        let (status, _) = self.codes();
        let text = serde_json::json!({"error": self.to_string()}).to_string();
        let mut answer = Response::new(Bytes::from(text));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        answer
    }

    /// The answer as gRPC has it: headers only, with the status in them.
    pub fn into_grpc(self) -> Response<Bytes> {
        let (_, code) = self.codes();
        let printable: String =
            self.to_string().chars().map(|c| if (' '..='~').contains(&c) && c != '%' { c } else { '?' }).collect();
        let mut answer = Response::new(Bytes::new());
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
        if let Ok(message) = HeaderValue::from_str(&printable) {
            headers.insert("grpc-message", message);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_an_error_object_of_the_protocol() {
        let refusal = Refusal::Unmatched { host: "a\"b".into(), path: "/x".into(), namespace: "shop".into() };
        let answer = refusal.into_http();
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.headers()["content-type"], "application/json");
        let body: serde_json::Value = serde_json::from_slice(answer.body()).expect("json");
        let expected = "no InferenceService matches host \"a\"b\" and path \"/x\": send it to host NAME or NAME.shop, or to /v2/models/NAME/...";
        assert_eq!(body, serde_json::json!({"error": expected}));
    }

    #[test]
    fn who_finds_no_endpoint_is_told_when_to_try_again() {
        let answer = Refusal::NoReadyEndpoint { service: "fraud".into() }.into_http();
        assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &HeaderValue::from_static("1")));
    }

    #[test]
    fn grpc_callers_get_a_status_in_the_headers() {
        let answer = Refusal::NoReadyEndpoint { service: "fraud".into() }.into_grpc();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["grpc-status"], "14");
        assert_eq!(answer.headers()["grpc-message"], "InferenceService \"fraud\" has no ready endpoint");
    }
}

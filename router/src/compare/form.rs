//! How an answer is written, by its headers. Pure.

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_ENCODING};

use crate::headers::is_grpc;

/// Bytes of JSON before the raw outputs.
const JSON_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// So many bytes of JSON, and behind them the raw outputs; none where their number can't be read.
    Binary(Option<usize>),
    /// One message of gRPC, with the bytes before it.
    Message,
    /// In a content coding, which is not undone.
    Encoded,
}

impl Form {
    /// The form of an answer with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        if is_grpc(headers) {
            return Self::Message;
        }
        if headers.get_all(CONTENT_ENCODING).iter().any(|coding| !is_identity(coding)) {
            return Self::Encoded;
        }
        let mut lengths = headers.get_all(JSON_LENGTH).iter();
        match (lengths.next(), lengths.next()) {
            (None, _) => Self::Json,
            (Some(length), None) => Self::Binary(number(length)),
            (Some(_), Some(_)) => Self::Binary(None),
        }
    }
}

fn is_identity(coding: &HeaderValue) -> bool {
    coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity")
}

fn number(value: &HeaderValue) -> Option<usize> {
    value.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_tell_how_an_answer_is_written() {
        const LENGTH: &str = "inference-header-content-length";
        let cases: [(&[(&'static str, &'static str)], Form); 13] = [
            (&[], Form::Json),
            (&[("content-type", "application/json"), ("content-encoding", "Identity")], Form::Json),
            (&[(LENGTH, "120"), ("content-type", "application/octet-stream")], Form::Binary(Some(120))),
            (&[(LENGTH, "0")], Form::Binary(Some(0))),
            (&[(LENGTH, "-1")], Form::Binary(None)),
            (&[(LENGTH, "")], Form::Binary(None)),
            (&[(LENGTH, "99999999999999999999")], Form::Binary(None)),
            (&[(LENGTH, "120"), (LENGTH, "120")], Form::Binary(None)),
            (&[("content-type", "application/grpc")], Form::Message),
            (&[("content-type", "application/grpc+proto"), (LENGTH, "1")], Form::Message),
            (&[("content-encoding", "gzip")], Form::Encoded),
            (&[("content-encoding", "identity"), ("content-encoding", "br")], Form::Encoded),
            (&[("content-encoding", "deflate"), (LENGTH, "120")], Form::Encoded),
        ];
        for (pairs, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(Form::of(&headers), expected, "{headers:?}");
        }
    }
}

//! Trace context (W3C): passed on as it comes, and begun here where there is none, so that the lines of one request can be found.

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, RngExt};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// `00-` trace id `-` parent id `-` flags.
const LENGTH: usize = 55;

/// Make sure that there is a trace. Of those that begin here so many of a million are sampled: the router records none, but whoever comes after
/// it does as the beginning says.
pub fn ensure(headers: &mut HeaderMap, sampled_per_million: u32, rng: &mut impl Rng) {
    if headers.get(TRACEPARENT).is_some_and(|value| trace_id(value).is_some()) {
        return;
    }
    let mut text = [b'0'; LENGTH];
    text[2] = b'-';
    text[35] = b'-';
    text[52] = b'-';
    // All zeros would be no trace, and are drawn once in 2^64 requests.
    let ids: [u64; 3] = [rng.random(), rng.random(), rng.random_range(1..=u64::MAX)];
    for (id, start) in ids.into_iter().zip([3, 19, 36]) {
        hex::encode_to_slice(id.to_be_bytes(), &mut text[start..start + 16]).expect("eight bytes have sixteen digits");
    }
    if sampled_per_million > 0 && rng.random_range(0..1_000_000) < sampled_per_million {
        text[LENGTH - 1] = b'1';
    }
    if let Ok(value) = HeaderValue::from_bytes(&text) {
        headers.insert(TRACEPARENT, value);
        // It belonged to a trace that was none.
        headers.remove(TRACESTATE);
    }
}

/// The trace of a request.
pub fn of(headers: &HeaderMap) -> Option<&str> {
    trace_id(headers.get(TRACEPARENT)?)
}

fn trace_id(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = (version.len(), trace.len(), parent.len(), flags.len()) == (2, 32, 16, 2);
    let hex = [version, trace, parent, flags].into_iter().all(is_hex);
    let is_some = |part: &str| part.bytes().any(|byte| byte != b'0');
    (lengths && hex && version != "ff" && is_some(trace) && is_some(parent)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn a_trace_that_comes_passes_unchanged() {
        let mut headers = HeaderMap::new();
        let given = HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        headers.insert(TRACEPARENT, given.clone());
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        ensure(&mut headers, 0, &mut StdRng::seed_from_u64(1));
        assert_eq!((&headers[TRACEPARENT], &headers[TRACESTATE]), (&given, &HeaderValue::from_static("a=b")));
        assert_eq!(of(&headers), Some("0af7651916cd43dd8448eb211c80319c"));
    }

    #[test]
    fn one_is_begun_where_there_is_none_or_one_that_is_none() {
        let bad = [
            None,
            Some("00-00000000000000000000000000000000-b7ad6b7169203331-01"),
            Some("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"),
            Some("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            Some("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
            Some("hello"),
        ];
        let mut seen = std::collections::HashSet::new();
        let mut rng = StdRng::seed_from_u64(1);
        for given in bad {
            let mut headers = HeaderMap::new();
            if let Some(given) = given {
                headers.insert(TRACEPARENT, HeaderValue::from_static(given));
                headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
            }
            ensure(&mut headers, 0, &mut rng);
            let text = headers[TRACEPARENT].to_str().expect("text").to_owned();
            assert!(text.starts_with("00-") && text.ends_with("-00") && text.len() == LENGTH, "{text}");
            assert!(of(&headers).is_some() && !headers.contains_key(TRACESTATE), "{text}");
            assert!(seen.insert(text));
        }
    }

    #[test]
    fn the_share_asked_for_of_those_that_begin_here_is_sampled() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut sampled = |per_million| {
            let begin = |_: &u32| {
                let mut headers = HeaderMap::new();
                ensure(&mut headers, per_million, &mut rng);
                headers[TRACEPARENT].as_bytes().ends_with(b"-01")
            };
            (0..1_000).filter(begin).count()
        };
        assert_eq!((sampled(0), sampled(1_000_000)), (0, 1_000));
        let tenth = sampled(100_000);
        assert!((60..140).contains(&tenth), "{tenth} of 1000");
    }
}

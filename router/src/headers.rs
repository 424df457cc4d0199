//! Which headers pass: those between two neighbours do not, nor what only Millrace may say. Pure.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_TYPE, Entry, TE},
};

const OWN_PREFIX: &str = "x-millrace-";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whether a request is gRPC, by its content type.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Make a client's headers fit to be sent on: neighbours' headers and inbound `x-millrace-*` go, the client's address is added.
pub fn prepare_request(headers: &mut HeaderMap, client: &HeaderValue, tls: bool, grpc: bool) {
    remove(headers, |name| name == "expect" || stays_here(name));
    append_forwarded_for(headers, client);
    let scheme = if tls { "https" } else { "http" };
    headers.entry(FORWARDED_PROTO).or_insert_with(|| HeaderValue::from_static(scheme));
    if grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Make a server's headers fit to be sent back.
pub fn prepare_answer(headers: &mut HeaderMap) {
    remove(headers, stays_here);
}

/// Whether a header is between two neighbours, whatever `connection` lists, or Millrace's own.
fn stays_here(name: &str) -> bool {
    let is_of_neighbours = matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    );
    is_of_neighbours || name.starts_with(OWN_PREFIX)
}

/// Remove these headers, and with `connection` what it lists.
fn remove(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) {
    // Most messages have none of them or only `connection`: one pass that compares text is cheaper than look-ups, which hash.
    let mut removed: Vec<HeaderName> = headers.keys().filter(|name| is_removed(name.as_str())).cloned().collect();
    if removed.contains(&CONNECTION) {
        removed.extend(listed(headers));
    }
    for name in removed {
        headers.remove(name);
    }
}

/// The headers that `connection` names.
fn listed(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
        .filter_map(|name| HeaderName::try_from(name).ok())
}

/// A proxy before this one may have added a line of its own instead of lengthening the client's.
fn append_forwarded_for(headers: &mut HeaderMap, client: &HeaderValue) {
    match headers.entry(FORWARDED_FOR) {
        Entry::Vacant(entry) => {
            entry.insert(client.clone());
        }
        Entry::Occupied(mut entry) => {
            let chain: Vec<&[u8]> = entry.iter().chain([client]).map(HeaderValue::as_bytes).collect();
            let joined = HeaderValue::from_bytes(&chain.join(&b", "[..])).ok();
            entry.insert(joined.unwrap_or_else(|| client.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn client() -> HeaderValue {
        HeaderValue::from_static("192.0.2.7")
    }

    #[test]
    fn what_is_between_neighbours_is_removed_with_what_connection_lists() {
        let mut given = headers(&[
            ("connection", "keep-alive, X-Private"),
            ("keep-alive", "timeout=5"),
            ("x-private", "1"),
            ("connection", "Close,\tx-other , , no name"),
            ("x-private", "2"),
            ("x-other", "3"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("content-type", "application/json"),
        ]);
        prepare_request(&mut given, &client(), false, false);
        let expected = headers(&[
            ("content-type", "application/json"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(given, expected);
    }

    #[test]
    fn every_header_between_neighbours_goes_both_ways_with_millraces_own_and_the_rest_stays() {
        for name in [
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "x-millrace-revision",
        ] {
            let (mut request, mut answer) =
                (headers(&[(name, "a"), ("x-b", "c")]), headers(&[(name, "a"), ("x-b", "c")]));
            prepare_request(&mut request, &client(), false, false);
            prepare_answer(&mut answer);
            assert!(!request.contains_key(name) && request.contains_key("x-b"), "{request:?}");
            assert_eq!(answer, headers(&[("x-b", "c")]), "{name}");
        }
    }

    #[test]
    fn nobody_outside_may_speak_for_millrace() {
        let mut given = headers(&[("x-millrace-revision", "abc"), ("X-Millrace-Anything", "1"), ("x-mill", "2")]);
        prepare_request(&mut given, &client(), false, false);
        assert!(given.keys().all(|name| !name.as_str().starts_with("x-millrace-")), "{given:?}");
        assert_eq!(given["x-mill"], "2");
    }

    #[test]
    fn trace_headers_pass_and_the_forwarded_chain_grows() {
        let mut given = headers(&[
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "https"),
        ]);
        prepare_request(&mut given, &client(), false, false);
        assert_eq!(given["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        assert_eq!(given["x-forwarded-for"], "203.0.113.9, 192.0.2.7");
        assert_eq!(given["x-forwarded-proto"], "https");
        let mut given =
            headers(&[("x-forwarded-for", "203.0.113.9, 198.51.100.1"), ("x-forwarded-for", "198.51.100.2")]);
        prepare_request(&mut given, &client(), false, false);
        let chain: Vec<_> = given.get_all("x-forwarded-for").iter().collect();
        assert_eq!(chain, ["203.0.113.9, 198.51.100.1, 198.51.100.2, 192.0.2.7"]);
    }

    #[test]
    fn grpc_keeps_its_te_header() {
        let mut given = headers(&[("content-type", "application/grpc+proto"), ("te", "trailers")]);
        assert!(is_grpc(&given));
        prepare_request(&mut given, &client(), false, true);
        assert_eq!(given["te"], "trailers");
        assert!(!is_grpc(&headers(&[("content-type", "application/json")])));
    }
}

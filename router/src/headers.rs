//! Which headers pass: those between two neighbours do not, nor what only Millrace may say. Pure.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_TYPE, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
        UPGRADE,
    },
};

const OWN_PREFIX: &str = "x-millrace-";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const HOPS: usize = 9;
/// Headers that are between two neighbours, whatever `connection` lists.
const HOP_BY_HOP: [HeaderName; HOPS] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether a request is gRPC, by its content type.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Make a client's headers fit to be sent on: neighbours' headers and inbound `x-millrace-*` go, the client's address is added.
pub fn prepare_request(headers: &mut HeaderMap, client: &HeaderValue, tls: bool, grpc: bool) {
    remove_hop_by_hop(headers);
    headers.remove(EXPECT);
    remove_own(headers);
    append_forwarded_for(headers, client);
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if tls { "https" } else { "http" }));
    }
    if grpc {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Make a server's headers fit to be sent back.
pub fn prepare_answer(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    remove_own(headers);
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have none of them or only `connection`: one pass that compares is cheaper than nine that hash.
    let mut found = [false; HOPS];
    for name in headers.keys() {
        if let Some(index) = HOP_BY_HOP.iter().position(|hop| hop == name) {
            found[index] = true;
        }
    }
    if found[0] {
        let listed: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
            .filter_map(|name| HeaderName::try_from(name).ok())
            .collect();
        for name in &listed {
            headers.remove(name);
        }
    }
    for (name, _) in HOP_BY_HOP.iter().zip(found).filter(|(_, found)| *found) {
        headers.remove(name);
    }
}

fn remove_own(headers: &mut HeaderMap) {
    let own: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(OWN_PREFIX)).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

/// A proxy before this one may have added a line of its own instead of lengthening the client's.
fn append_forwarded_for(headers: &mut HeaderMap, client: &HeaderValue) {
    let mut chain: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    let joined = if chain.is_empty() {
        None
    } else {
        chain.push(client.as_bytes());
        HeaderValue::from_bytes(&chain.join(&b", "[..])).ok()
    };
    headers.insert(FORWARDED_FOR, joined.unwrap_or_else(|| client.clone()));
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

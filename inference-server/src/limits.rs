//! What one client may ask of the server, in the types that the code uses, and where each limit is kept: slow clients in `guard` (by what
//! `watch` sees and `judge` says), `streams` and `slow_body`; the memory of all requests in `budget`, answers on their way in `sent`; heads
//! and how many streams by the HTTP library, set up here, and what it leaves of heads by [`Limits::allow_head`]; tensors and JSON by the codecs
//! in `api`.
//! `ending` is for bodies without an end of their own.

mod budget;
mod ending;
mod guard;
mod judge;
mod sent;
mod slow_body;
mod streams;
mod watch;

use std::time::Duration;

use http::{Request, Version};
use hyper_util::{rt::TokioTimer, server::conn::auto};
use millrace_contract::server_options as contract;

pub use self::{
    budget::{Budget, Flow, Metered, UsedUp},
    ending::{Ended, Ending},
    guard::{FIRST_REQUEST, Guarded, drive},
    sent::Sent,
    slow_body::{Broken, Patience, SlowBody, TooSlow},
    streams::Streams,
    watch::{InFlight, Watch},
};

/// The least that the HTTP library reads at once.
const LEAST_HEADER_BYTES: usize = 8 << 10;
/// Most that is read at once over HTTP/1.1. The library begins with 8 KiB and doubles that while reads fill it, so only large bodies come to
/// this; a call of the system for each 16 KiB of them costs as much as copying them. More would gain little, and a connection keeps its
/// buffer, of up to twice this size, until it ends.
const READ_BYTES: usize = 64 << 10;

/// The limits; see [`contract::Limits`] for what each is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Body of a request and gRPC message, bytes.
    pub body_bytes: usize,
    /// Elements of a tensor.
    pub tensor_elements: usize,
    /// Bytes of a tensor.
    pub tensor_bytes: usize,
    /// Nesting of JSON.
    pub json_depth: usize,
    /// JSON of a request, bytes.
    pub json_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Head of a request, bytes.
    pub header_bytes: usize,
    /// Open connections.
    pub connections: usize,
    /// Requests of one HTTP/2 connection.
    pub streams: u32,
    /// Inference requests at the same time.
    pub requests: usize,
    /// Bytes of all requests and answers.
    pub in_flight_bytes: usize,
    /// TLS and the head of a request.
    pub head: Duration,
    /// The body of a request.
    pub body: Duration,
    /// A client that takes nothing of its answer.
    pub write: Duration,
    /// A connection without a request.
    pub idle: Duration,
}

impl From<&contract::Limits> for Limits {
    fn from(limits: &contract::Limits) -> Self {
        let contract::Limits {
            body_bytes,
            tensor_elements,
            tensor_bytes,
            json_depth,
            json_bytes,
            headers,
            header_bytes,
            connections,
            streams,
            requests,
            in_flight_bytes,
            head_milliseconds,
            body_milliseconds,
            write_milliseconds,
            idle_milliseconds,
        } = limits;
        let size = |bytes: &u64| usize::try_from(*bytes).unwrap_or(usize::MAX);
        Self {
            body_bytes: size(body_bytes),
            tensor_elements: size(tensor_elements),
            tensor_bytes: size(tensor_bytes),
            json_depth: *json_depth as usize,
            json_bytes: size(json_bytes),
            headers: *headers as usize,
            header_bytes: (*header_bytes as usize).max(LEAST_HEADER_BYTES),
            connections: *connections as usize,
            streams: *streams,
            requests: *requests as usize,
            in_flight_bytes: in_flight_bytes.as_ref().map_or_else(budget::share_of_memory, size),
            head: Duration::from_millis(*head_milliseconds),
            body: Duration::from_millis(*body_milliseconds),
            write: Duration::from_millis(*write_milliseconds),
            idle: Duration::from_millis(*idle_milliseconds),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&contract::Limits::default())
    }
}

impl Limits {
    /// Sets up the HTTP library: buffers, headers, streams. It answers 431 to more headers over HTTP/1.1 and to a larger head over HTTP/2, and
    /// to a head that does not fit the buffer; the rest is for [`Limits::allow_head`].
    pub fn apply<E>(&self, builder: &mut auto::Builder<E>) {
        // The guard knows an idle connection from a slow head; the library's own timer for heads does not.
        builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_headers(self.headers);
        builder.http1().max_buf_size(self.header_bytes.max(READ_BYTES));
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams)
            .max_header_list_size(u32::try_from(self.header_bytes).unwrap_or(u32::MAX))
            .keep_alive_interval(self.idle)
            .keep_alive_timeout(self.write);
    }

    /// Whether a head is within the limit that the library does not keep: over HTTP/1.1 it counts headers and not their bytes, over HTTP/2 it
    /// is the other way round.
    pub fn allow_head<B>(&self, request: &Request<B>) -> bool {
        if request.version() <= Version::HTTP_11 {
            head_bytes(request) <= self.header_bytes
        } else {
            request.headers().len() <= self.headers
        }
    }
}

/// Bytes of a head as HTTP/1.1 writes it.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let target = uri.path().len() + uri.query().map_or(0, |query| "?".len() + query.len());
    let line = request.method().as_str().len() + " ".len() + target + " HTTP/1.1\r\n".len();
    let header = |name: &str, value: &[u8]| name.len() + ": ".len() + value.len() + "\r\n".len();
    let headers: usize = request.headers().iter().map(|(name, value)| header(name.as_str(), value.as_bytes())).sum();
    line + headers + "\r\n".len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_limit_is_the_one_that_is_kept() {
        let written = contract::Limits { head_milliseconds: 1500, header_bytes: 1, ..contract::Limits::default() };
        let limits = Limits::from(&written);
        assert_eq!((limits.head, limits.header_bytes), (Duration::from_millis(1500), 8192));
        assert_eq!(limits.body, Duration::from_secs(30));
    }

    #[test]
    fn a_head_is_counted_as_it_is_written() {
        let written = "POST /v2/models/m/infer?x=1 HTTP/1.1\r\nhost: m\r\na: b\r\na: cd\r\n\r\n";
        let request = Request::post("/v2/models/m/infer?x=1").header("host", "m").header("a", "b").header("a", "cd");
        let request = request.body(()).unwrap();
        assert_eq!(head_bytes(&request), written.len());
        let limits = |header_bytes| Limits { header_bytes, ..Limits::default() };
        assert!(limits(written.len()).allow_head(&request) && !limits(written.len() - 1).allow_head(&request));
    }

    #[test]
    fn headers_are_counted_over_http2_also_those_of_one_name() {
        let limits = Limits { headers: 2, ..Limits::default() };
        let with = |count: usize| {
            let request = Request::get("/").version(Version::HTTP_2);
            (0..count).fold(request, |request, _| request.header("a", "b")).body(()).unwrap()
        };
        assert!(limits.allow_head(&with(2)) && !limits.allow_head(&with(3)));
    }
}

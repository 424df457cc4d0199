//! HTTP/1.1 as the router speaks it to servers: a request's head as bytes, and an answer's head, length and chunks from bytes. Pure.
//!
//! It is stricter than it has to be (RFC 9112, section 6.3): an answer whose length could be read in two ways is no answer.

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING},
    uri::PathAndQuery,
};

/// Room that is made for a request's head at once.
const HEAD_ROOM: usize = 1_024;
const FEW_HEADERS: usize = 24;
const MOST_HEADERS: usize = 256;
/// Headers the router may add to an answer.
const ADDED_HEADERS: usize = 4;
/// Largest head of an answer, and largest trailers, in bytes.
const LARGEST_HEAD: usize = 128 * 1024;
/// Longest line that says how long a chunk is.
const LONGEST_SIZE: usize = 1_024;

/// What came is no HTTP/1.1, or nothing the router can pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// How an answer's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// By its chunks.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the connection stays open after it.
    pub keeps_alive: bool,
}

/// Write the head of a request with a body of this length. `host` stands in where the request has none; `mark` is one more header.
pub fn write_head(
    out: &mut BytesMut,
    (method, path): (&Method, &PathAndQuery),
    headers: &HeaderMap,
    mark: Option<(HeaderName, u32)>,
    host: &str,
    length: usize,
) {
    out.reserve(HEAD_ROOM);
    let mut line = |parts: [&[u8]; 4]| parts.into_iter().for_each(|part| out.extend_from_slice(part));
    line([method.as_str().as_bytes(), b" ", path.as_str().as_bytes(), b" HTTP/1.1\r\n"]);
    for (name, value) in headers {
        if name != CONTENT_LENGTH {
            line([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }
    if let Some((mark, value)) = mark {
        line([mark.as_str().as_bytes(), b": ", itoa::Buffer::new().format(value).as_bytes(), b"\r\n"]);
    }
    if !headers.contains_key(HOST) {
        line([b"host", b": ", host.as_bytes(), b"\r\n"]);
    }
    // Methods that have no body by their meaning get no length either.
    if length > 0 || matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        line([b"content-length", b": ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// Take the head of the answer to a request of this method from what was read; none while it is not complete. Interim answers (1xx)
/// are passed over.
pub fn take_head(read: &mut BytesMut, method: &Method) -> Result<Option<Head>, Malformed> {
    loop {
        let Some(head) = take_any_head(read, method)? else { return Ok(None) };
        match head.status {
            StatusCode::SWITCHING_PROTOCOLS => return Err(Malformed),
            status if status.is_informational() => {}
            _ => return Ok(Some(head)),
        }
    }
}

fn take_any_head(read: &mut BytesMut, method: &Method) -> Result<Option<Head>, Malformed> {
    // The space is cleared for each answer, and nearly all have a few headers only.
    match parse::<FEW_HEADERS>(read, method) {
        Err(Unread::TooManyHeaders) => parse::<MOST_HEADERS>(read, method).map_err(|_| Malformed),
        Err(Unread::Malformed) => Err(Malformed),
        Ok(head) => Ok(head),
    }
}

enum Unread {
    TooManyHeaders,
    Malformed,
}

impl From<Malformed> for Unread {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

fn parse<const MOST: usize>(read: &mut BytesMut, method: &Method) -> Result<Option<Head>, Unread> {
    let mut space = [httparse::EMPTY_HEADER; MOST];
    let mut parsed = httparse::Response::new(&mut space);
    let length = match parsed.parse(read) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if read.len() > LARGEST_HEAD => return Err(Unread::Malformed),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Unread::TooManyHeaders),
        Err(_) => return Err(Unread::Malformed),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed)?;
    let is_11 = parsed.version == Some(1);
    // Where names and values are: the bytes of values are shared with what was read instead of copied.
    let start = read.as_ptr() as usize;
    let place = |part: &[u8]| {
        let at = part.as_ptr() as usize - start;
        (at, at + part.len())
    };
    let mut places = [((0, 0), (0, 0)); MOST];
    let count = parsed.headers.len();
    for (at, header) in places.iter_mut().zip(parsed.headers.iter()) {
        *at = (place(header.name.as_bytes()), place(header.value));
    }
    let bytes = read.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(count + ADDED_HEADERS);
    for &((name, name_end), (value, value_end)) in &places[..count] {
        let name = HeaderName::from_bytes(&bytes[name..name_end]).map_err(|_| Malformed)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice(value..value_end)).map_err(|_| Malformed)?;
        headers.append(name, value);
    }
    let framing = framing(&headers, status, method)?;
    let keeps_alive = is_11 && framing != Framing::UntilClose && !says_close(&headers);
    Ok(Some(Head { status, headers, framing, keeps_alive }))
}

fn framing(headers: &HeaderMap, status: StatusCode, method: &Method) -> Result<Framing, Malformed> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let announced = lengths.next().map(length).transpose()?;
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let encoding = encodings.next().map(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    let is_ambiguous = lengths.next().is_some() || encodings.next().is_some();
    let has_body = !(*method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED));
    match (announced, encoding) {
        _ if is_ambiguous => Err(Malformed),
        (Some(_), Some(_)) | (None, Some(false)) => Err(Malformed),
        _ if !has_body => Ok(Framing::Length(0)),
        (Some(length), None) => Ok(Framing::Length(length)),
        (None, Some(true)) => Ok(Framing::Chunked),
        (None, None) => Ok(Framing::UntilClose),
    }
}

fn length(value: &HeaderValue) -> Result<u64, Malformed> {
    let text = value.to_str().map_err(|_| Malformed)?;
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().map_err(|_| Malformed) } else { Err(Malformed) }
}

fn says_close(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// Where a chunked body is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunks {
    /// At a line with a size.
    Size,
    /// So many bytes before the end of a chunk.
    Data(u64),
    /// At the line end after a chunk.
    DataEnd,
    /// Behind the last chunk.
    Trailers,
    /// Behind everything.
    Done,
}

impl Chunks {
    /// Take the next piece of the body from what was read; none when more must be read, or all is done. Trailers are left out.
    pub fn take(&mut self, read: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        loop {
            match *self {
                Self::Size => {
                    let size = match httparse::parse_chunk_size(read).map_err(|_| Malformed)? {
                        httparse::Status::Partial if read.len() > LONGEST_SIZE => return Err(Malformed),
                        httparse::Status::Partial => return Ok(None),
                        httparse::Status::Complete((line, size)) => {
                            read.advance(line);
                            size
                        }
                    };
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Self::Data(left) => {
                    if read.is_empty() {
                        return Ok(None);
                    }
                    let taken = read.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let rest = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                    *self = if rest == 0 { Self::DataEnd } else { Self::Data(rest) };
                    return Ok(Some(read.split_to(taken).freeze()));
                }
                Self::DataEnd => {
                    if read.len() < 2 {
                        return Ok(None);
                    }
                    if !read.starts_with(b"\r\n") {
                        return Err(Malformed);
                    }
                    read.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers => {
                    let mut space = [httparse::EMPTY_HEADER; FEW_HEADERS];
                    match httparse::parse_headers(read, &mut space).map_err(|_| Malformed)? {
                        httparse::Status::Partial if read.len() > LARGEST_HEAD => return Err(Malformed),
                        httparse::Status::Partial => return Ok(None),
                        httparse::Status::Complete((end, _)) => read.advance(end),
                    }
                    *self = Self::Done;
                }
                Self::Done => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::Mark;

    fn head_of(text: &str) -> Result<Option<Head>, Malformed> {
        take_head(&mut BytesMut::from(text), &Method::POST)
    }

    #[test]
    fn a_request_is_written_with_its_own_length_and_a_host() {
        let mut headers = HeaderMap::new();
        headers.insert("content-length", HeaderValue::from_static("999"));
        headers.insert("x-a", HeaderValue::from_static("1"));
        let path = PathAndQuery::from_static("/v2/models/fraud/infer?a=b");
        let written = |method: Method, headers: &HeaderMap, length| {
            let mut out = BytesMut::new();
            write_head(&mut out, (&method, &path), headers, None, "10.0.0.1:8080", length);
            String::from_utf8(out.to_vec()).expect("text")
        };
        let expected =
            "POST /v2/models/fraud/infer?a=b HTTP/1.1\r\nx-a: 1\r\nhost: 10.0.0.1:8080\r\ncontent-length: 7\r\n\r\n";
        assert_eq!(written(Method::POST, &headers, 7), expected);
        headers.insert("host", HeaderValue::from_static("fraud"));
        let expected = "GET /v2/models/fraud/infer?a=b HTTP/1.1\r\nx-a: 1\r\nhost: fraud\r\n\r\n";
        assert_eq!(written(Method::GET, &headers, 0), expected);
    }

    #[test]
    fn a_mark_is_one_more_header() {
        let (method, path) = (Method::POST, PathAndQuery::from_static("/"));
        for (mark, expected) in [
            (Mark::Absent, ""),
            (Mark::Unmeasured, "x-millrace-unmeasured: 1\r\n"),
            (Mark::Cluster(399), "x-millrace-cluster: 399\r\n"),
        ] {
            let mut out = BytesMut::new();
            write_head(&mut out, (&method, &path), &HeaderMap::new(), mark.header(), "a", 0);
            let expected = format!("POST / HTTP/1.1\r\n{expected}host: a\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(String::from_utf8(out.to_vec()).expect("text"), expected);
        }
    }

    #[test]
    fn an_answer_is_read_when_its_head_is_complete_and_its_body_stays() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: one \r\nx-a: two\r\n\r\nhello";
        for end in 0..text.len() - 5 {
            assert!(head_of(&text[..end]).expect("well formed").is_none(), "{end}");
        }
        let mut read = BytesMut::from(text);
        let head = take_head(&mut read, &Method::POST).expect("well formed").expect("complete");
        assert_eq!((head.status, head.framing, head.keeps_alive), (StatusCode::OK, Framing::Length(5), true));
        assert_eq!(head.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["one", "two"]);
        assert_eq!(read, "hello");
    }

    #[test]
    fn how_a_body_ends_follows_the_head() {
        let cases = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n", Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose, false),
            ("HTTP/1.1 204 No Content\r\n\r\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 1\r\n\r\n", Framing::Length(1), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n", Framing::Length(1), false),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Full\r\ncontent-length: 2\r\n\r\n", Framing::Length(2), true),
        ];
        for (text, framing, keeps_alive) in cases {
            let head = head_of(text).expect("well formed").expect("complete");
            assert_eq!((head.framing, head.keeps_alive), (framing, keeps_alive), "{text:?}");
        }
        let head = take_head(&mut BytesMut::from("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"), &Method::HEAD);
        assert_eq!(head.expect("well formed").expect("complete").framing, Framing::Length(0));
    }

    #[test]
    fn an_answer_that_could_be_read_in_two_ways_is_none() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert_eq!(head_of(text).err(), Some(Malformed), "{text:?}");
        }
        let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 1\r\n\r\n", "x: y\r\n".repeat(200));
        assert_eq!(head_of(&many).expect("well formed").expect("complete").headers.len(), 201);
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(LARGEST_HEAD));
        assert_eq!(head_of(&endless).err(), Some(Malformed));
    }

    fn pieces(text: &[u8], at_once: usize) -> Result<(Vec<u8>, Chunks, usize), Malformed> {
        let (mut chunks, mut read, mut body) = (Chunks::Size, BytesMut::new(), Vec::new());
        for part in text.chunks(at_once) {
            read.extend_from_slice(part);
            while let Some(piece) = chunks.take(&mut read)? {
                body.extend_from_slice(&piece);
            }
        }
        Ok((body, chunks, read.len()))
    }

    #[test]
    fn chunks_are_joined_however_they_arrive() {
        let text = b"5;name=value\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nx-trailer: 1\r\n\r\nHTTP";
        for at_once in [1, 2, 3, 7, text.len()] {
            assert_eq!(pieces(text, at_once), Ok((b"hello world".to_vec(), Chunks::Done, 4)), "{at_once} at once");
        }
        assert_eq!(pieces(b"5\r\nhel", 100), Ok((b"hel".to_vec(), Chunks::Data(2), 0)));
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        for text in [&b"x\r\n"[..], b"5\r\nhelloXX", b"fffffffffffffffff\r\n", b"-1\r\n"] {
            assert_eq!(pieces(text, 100), Err(Malformed), "{:?}", String::from_utf8_lossy(text));
        }
        assert_eq!(pieces(&[b'1'; 2_000], 2_000).err(), Some(Malformed));
    }
}

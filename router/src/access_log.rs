//! A line of JSON for each request, written beside the requests: a log that can't follow loses lines, which are counted, and delays
//! nobody.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Request, Response};
use http_body::Body;
use millrace_contract::routing::{FALLBACK_HEADER, REVISION_HEADER};
use serde::Serialize;

use crate::snapshot::Service;

/// Lines that wait to be written.
const WAITING: usize = 4_096;
/// Longest method and path that are kept of a request, in characters: lines that wait take memory that nobody counts.
const LONGEST: usize = 1_024;
/// In ten thousand.
const ALL: u32 = 10_000;

/// Goes with an answer that another revision gave for the one named here, which had failed.
#[derive(Clone, Debug)]
pub struct Shielded(pub String);

/// What is known of a request until it is answered.
#[derive(Debug)]
pub struct Record {
    started: Instant,
    method: String,
    path: String,
    client: String,
    /// The service that was matched.
    pub service: Option<Arc<Service>>,
    /// Who called, if it was asked.
    pub caller: Option<Arc<str>>,
    /// Its trace.
    pub trace: Option<String>,
    /// Bytes of its body, where it does not stream.
    pub request_bytes: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    /// Milliseconds since 1970, when the head of the answer was there.
    time: u64,
    client: String,
    method: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// The revision whose failure was kept from the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    shielded: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<String>,
    status: u16,
    microseconds: u64,
    request_bytes: usize,
    /// None where the answer streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
}

/// Where lines go.
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<Line>,
    per_ten_thousand: u32,
    lost: AtomicU64,
}

impl AccessLog {
    /// Lines of so many of ten thousand requests, written to `sink` by a thread of its own.
    pub fn new(per_ten_thousand: u32, sink: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (lines, waiting) = sync_channel(WAITING);
        thread::Builder::new().name("access-log".into()).spawn(move || write(&waiting, sink))?;
        Ok(Self { lines, per_ten_thousand, lost: AtomicU64::new(0) })
    }

    /// A request has come; none when it is not to be logged.
    pub fn begin<B>(&self, request: &Request<B>, client: &HeaderValue) -> Option<Record> {
        let is_drawn = self.per_ten_thousand >= ALL || rand::random_range(0..ALL) < self.per_ten_thousand;
        is_drawn.then(|| Record {
            started: Instant::now(),
            method: cut(request.method().as_str()),
            // Without its query: that is where clients put secrets.
            path: cut(request.uri().path()),
            client: client.to_str().unwrap_or_default().to_owned(),
            service: None,
            caller: None,
            trace: None,
            request_bytes: 0,
        })
    }

    /// The head of its answer is there.
    pub fn end<B: Body>(&self, record: Record, answer: &Response<B>) {
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = Line {
            time: u64::try_from(now.as_millis()).unwrap_or_default(),
            client: record.client,
            method: record.method,
            path: record.path,
            service: record.service.map(|service| service.name.clone()),
            revision: header(REVISION_HEADER),
            shielded: answer.extensions().get::<Shielded>().map(|shielded| shielded.0.clone()),
            fallback: header(FALLBACK_HEADER),
            status: answer.status().as_u16(),
            microseconds: u64::try_from(record.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            request_bytes: record.request_bytes,
            answer_bytes: answer.body().size_hint().exact(),
            caller: record.caller,
            trace: record.trace,
        };
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

fn write(lines: &Receiver<Line>, sink: impl Write) {
    let mut sink = std::io::BufWriter::new(sink);
    while let Ok(line) = lines.recv() {
        // One write for all that wait; a reader sees whole lines.
        for line in std::iter::once(line).chain(lines.try_iter()) {
            if serde_json::to_writer(&mut sink, &line).is_err() || sink.write_all(b"\n").is_err() {
                return;
            }
        }
        if sink.flush().is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_keeps_the_beginning_of_a_long_path() {
        let log = AccessLog::new(ALL, std::io::sink()).expect("a thread");
        let of = |path: &str| {
            let request = Request::get(path).body(()).expect("a request");
            log.begin(&request, &HeaderValue::from_static("192.0.2.7")).expect("all are logged").path
        };
        assert_eq!(of("/v2/models/fraud/infer?key=secret"), "/v2/models/fraud/infer");
        assert_eq!(of(&format!("/{}", "x".repeat(60_000))), format!("/{}", "x".repeat(LONGEST - 1)));
    }
}

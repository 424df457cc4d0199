//! A line of JSON for each request, written beside the requests: a log that can't follow, or can't be written for a while, loses lines, which
//! are counted, and delays nobody.

use std::{
    io::{ErrorKind, Write},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use http::{HeaderValue, Request, Response};
use http_body::Body;
use millrace_contract::routing::{FALLBACK_HEADER, REVISION_HEADER};
use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use crate::snapshot::Service;

/// Lines that wait to be written.
const WAITING: usize = 4_096;
/// Bytes that are written at once where so many wait.
const AT_ONCE: usize = 64 * 1024;
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
    lost: Counter,
}

impl AccessLog {
    /// Lines of so many of ten thousand requests, written to `sink` by a thread of its own.
    pub fn new(per_ten_thousand: u32, sink: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (lines, waiting) = sync_channel(WAITING);
        let lost: Counter = Counter::default();
        let (counted, mut file) = (lost.clone(), File { sink, is_within_a_line: false });
        thread::Builder::new().name("access-log".into()).spawn(move || write(&waiting, &mut file, &counted))?;
        Ok(Self { lines, per_ten_thousand, lost })
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
            self.lost.inc();
        }
    }

    /// Lines that were not written.
    pub fn lost(&self) -> &Counter {
        &self.lost
    }
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

fn write(lines: &Receiver<Line>, file: &mut File<impl Write>, lost: &Counter) {
    let mut text = Vec::new();
    while let Ok(line) = lines.recv() {
        // One write for all that wait; a reader sees whole lines.
        let mut next = Some(line);
        while let Some(line) = next {
            serde_json::to_writer(&mut text, &line).expect("text and numbers are JSON");
            text.push(b'\n');
            next = if text.len() < AT_ONCE { lines.try_recv().ok() } else { None };
        }
        lost.inc_by(file.append(&text));
        text.clear();
    }
}

/// Where lines end up. It may be full, or gone, and come back.
struct File<W> {
    sink: W,
    /// A line was written in part.
    is_within_a_line: bool,
}

impl<W: Write> File<W> {
    /// Add these lines, and say how many were lost.
    fn append(&mut self, lines: &[u8]) -> u64 {
        if self.is_within_a_line {
            self.is_within_a_line = self.written(b"\n") == 0;
        }
        let written = if self.is_within_a_line { 0 } else { self.written(lines) };
        self.is_within_a_line |= !lines[..written].is_empty() && !lines[..written].ends_with(b"\n");
        lines[written..].iter().map(|byte| u64::from(*byte == b'\n')).sum()
    }

    /// How many of these bytes could be written.
    fn written(&mut self, bytes: &[u8]) -> usize {
        let mut count = 0;
        while count < bytes.len() {
            match self.sink.write(&bytes[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        // Files have no buffer here, and the standard output keeps no whole line in its own.
        let _ = self.sink.flush();
        count
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Takes so many bytes in each write; nothing where that is none, and all after the last.
    struct Moody(std::vec::IntoIter<usize>, Vec<u8>);

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = self.0.next().unwrap_or(bytes.len()).min(bytes.len());
            self.1.extend_from_slice(&bytes[..taken]);
            if taken > 0 { Ok(taken) } else { Err(ErrorKind::StorageFull.into()) }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_can_not_be_written_is_lost_and_the_next_line_is_whole() {
        let moods = vec![0, 2, 4, 0, 0, 1];
        let mut file = File { sink: Moody(moods.into_iter(), Vec::new()), is_within_a_line: false };
        let lost: Vec<u64> = (0..4).map(|_| file.append(b"one\ntwo\n")).collect();
        assert_eq!(lost, [2, 1, 2, 0]);
        assert_eq!(String::from_utf8_lossy(&file.sink.1), "one\ntw\none\ntwo\n");
    }

    /// Fails once, and then tells of every write.
    struct Recovers(bool, std::sync::mpsc::Sender<()>);

    impl Write for Recovers {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if !std::mem::replace(&mut self.0, true) {
                return Err(ErrorKind::StorageFull.into());
            }
            let _ = self.1.send(());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_goes_on_after_an_error() {
        const PATIENCE: Duration = Duration::from_secs(20);
        let (tell, told) = std::sync::mpsc::channel();
        let log = AccessLog::new(ALL, Recovers(false, tell)).expect("a thread");
        let request = Request::get("/").body(()).expect("a request");
        let answered = || {
            let record = log.begin(&request, &HeaderValue::from_static("192.0.2.7")).expect("all are logged");
            log.end(record, &Response::new(String::new()));
        };
        answered();
        let since = Instant::now();
        while log.lost().get() == 0 {
            assert!(since.elapsed() < PATIENCE, "it is never counted");
            thread::yield_now();
        }
        answered();
        told.recv_timeout(PATIENCE).expect("it goes on");
        assert_eq!(log.lost().get(), 1);
    }

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

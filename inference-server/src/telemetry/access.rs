//! One JSON line a request, written by a thread of its own. Where the reader of standard output does not read, lines are dropped and
//! counted; requests do not wait.

use std::{
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use jiff::Timestamp;
use serde::Serialize;

use super::{Ended, shortened};
use crate::metrics::{Metrics, Written};

/// Lines that may wait.
const WAITING: usize = 8192;
/// Longest that a line waits for company before it is written out.
const FLUSH: Duration = Duration::from_millis(200);

#[derive(Debug, Serialize)]
struct Line {
    time: String,
    protocol: &'static str,
    model: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    status: u16,
    outcome: &'static str,
    duration_us: u64,
    request_bytes: usize,
    response_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

enum Message {
    Line(Box<Line>),
    /// Write out all that came before, and say so.
    Flush(SyncSender<()>),
}

/// The log.
pub struct AccessLog {
    /// Share of the answered requests.
    pub rate: f64,
    messages: SyncSender<Message>,
    metrics: Arc<Metrics>,
}

impl AccessLog {
    /// Starts the thread that writes to `output`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(rate: f64, output: Box<dyn Write + Send>, metrics: Arc<Metrics>) -> io::Result<Self> {
        let (messages, received) = sync_channel(WAITING);
        let counted = Arc::clone(&metrics);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&received, output, &counted))?;
        Ok(Self { rate, messages, metrics })
    }

    /// Hands a line over; never waits.
    pub fn write(&self, time: SystemTime, ended: &Ended<'_>, trace_id: Option<u128>) {
        let line = Line {
            time: Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
            protocol: ended.protocol.word(),
            model: shortened(ended.model).to_owned(),
            version: shortened(ended.version).to_owned(),
            id: ended.id.map(|id| shortened(id).to_owned()),
            status: ended.status,
            outcome: ended.outcome,
            duration_us: u64::try_from(ended.duration.as_micros()).unwrap_or(u64::MAX),
            request_bytes: ended.request_bytes,
            response_bytes: ended.response_bytes,
            trace_id: trace_id.map(|id| format!("{id:032x}")),
        };
        if self.messages.try_send(Message::Line(Box::new(line))).is_err() {
            self.metrics.access_log(Written::DroppedFull);
        }
    }

    /// Waits until what was handed over is written, at most `patience`. Blocks.
    pub fn flush(&self, patience: Duration) {
        let (done, written) = sync_channel(1);
        let deadline = Instant::now() + patience;
        let mut message = Message::Flush(done);
        while let Err(error) = self.messages.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            let (std::sync::mpsc::TrySendError::Full(back) | std::sync::mpsc::TrySendError::Disconnected(back)) = error;
            message = back;
            thread::sleep(Duration::from_millis(1));
        }
        _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

fn write(messages: &Receiver<Message>, output: Box<dyn Write + Send>, metrics: &Metrics) {
    let mut output = BufWriter::with_capacity(1 << 16, output);
    // When the oldest line in the buffer has waited long enough, however many come behind it.
    let mut due: Option<Instant> = None;
    loop {
        let next = match due.map(|due| due.saturating_duration_since(Instant::now())) {
            // Without anything in the buffer there is nothing to wake up for.
            None => messages.recv().map_err(Into::into),
            Some(patience) if patience.is_zero() => Err(RecvTimeoutError::Timeout),
            Some(patience) => messages.recv_timeout(patience),
        };
        let written = match next {
            Ok(Message::Line(line)) => {
                let line = serde_json::to_writer(&mut output, &line).map_err(io::Error::from);
                let line = line.and_then(|()| output.write_all(b"\n"));
                due = due.or_else(|| Some(Instant::now() + FLUSH));
                metrics.access_log(if line.is_ok() { Written::Written } else { Written::DroppedSink });
                continue;
            }
            Ok(Message::Flush(done)) => {
                let flushed = output.flush();
                _ = done.try_send(());
                flushed
            }
            Err(RecvTimeoutError::Timeout) => output.flush(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        due = None;
        if let Err(error) = written {
            tracing::debug!(%error, "the access log cannot be written");
        }
    }
}

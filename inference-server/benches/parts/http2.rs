//! A gRPC client as cheap as `http1`: frames are made once, only stream identifiers change, and an answer is counted when its stream ends.
//! A call that fails is HTTP 200 too: its `grpc-status` is in the trailers, which may be compressed, but there is no DATA before them, and
//! that ends the measurement.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header field without Huffman coding and without the table: the server's decoder keeps no state for it.
fn field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).expect("short"));
        block.extend_from_slice(text.as_bytes());
    }
}

/// A gRPC call of one message: HEADERS and DATA, of stream 0.
pub fn call(path: &str, message: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "bench"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ] {
        field(&mut block, name, value);
    }
    let prefixed = [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
    [frame(HEADERS, END_HEADERS, 0, &block), frame(DATA, END_STREAM, 0, &prefixed)].concat()
}

fn number(call: &mut [u8], stream: u32) {
    let data = 9 + usize::from(call[1]) * 256 + usize::from(call[2]);
    call[5..9].copy_from_slice(&stream.to_be_bytes());
    call[data + 5..data + 9].copy_from_slice(&stream.to_be_bytes());
}

struct Call {
    stream: u32,
    began: Instant,
    /// A message came, or a part of it.
    answered: bool,
}

struct Connection {
    stream: TcpStream,
    call: Vec<u8>,
    next: u32,
    /// Streams under way, oldest first.
    open: VecDeque<Call>,
    read: Vec<u8>,
    filled: usize,
    /// Bytes of DATA since the connection's window was last opened.
    taken: u32,
    out: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr, call: Vec<u8>) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // No push, and windows that never close in between.
        let settings =
            [&2_u16.to_be_bytes()[..], &0_u32.to_be_bytes(), &4_u16.to_be_bytes(), &(1_u32 << 30).to_be_bytes()]
                .concat();
        let hello =
            [PREFACE, &frame(SETTINGS, 0, 0, &settings), &frame(WINDOW, 0, 0, &(1_u32 << 30).to_be_bytes())].concat();
        stream.write_all(&hello).await?;
        let (read, out) = (vec![0; 1 << 18], Vec::with_capacity(1 << 16));
        Ok(Self { stream, call, next: 1, open: VecDeque::new(), read, filled: 0, taken: 0, out })
    }

    /// A call that was due then.
    fn begin(&mut self, began: Instant) {
        number(&mut self.call, self.next);
        self.out.extend_from_slice(&self.call);
        self.open.push_back(Call { stream: self.next, began, answered: false });
        self.next += 2;
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).await?;
            self.out.clear();
        }
        Ok(())
    }

    /// Reads what there is; latencies of the streams that ended.
    async fn turn(&mut self, latencies: &mut Vec<Duration>) -> io::Result<usize> {
        self.flush().await?;
        let read = self.stream.read(&mut self.read[self.filled..]).await?;
        self.taken_in(read, latencies)
    }

    /// The same, without waiting for anything.
    fn glance(&mut self, latencies: &mut Vec<Duration>) -> io::Result<()> {
        match self.stream.try_read(&mut self.read[self.filled..]) {
            Ok(read) => self.taken_in(read, latencies).map(|_| ()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn taken_in(&mut self, read: usize, latencies: &mut Vec<Duration>) -> io::Result<usize> {
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled += read;
        let (mut at, mut ended, now) = (0, 0, Instant::now());
        while self.filled - at >= 9 {
            let head = &self.read[at..at + 9];
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            if self.filled - at < 9 + length {
                break;
            }
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
            let payload = &self.read[at + 9..at + 9 + length];
            match kind {
                SETTINGS if flags & ACK == 0 => self.out.extend(frame(SETTINGS, ACK, 0, &[])),
                PING if flags & ACK == 0 => self.out.extend(frame(PING, ACK, 0, payload)),
                DATA => self.taken += length as u32,
                RESET | GO_AWAY => return Err(io::Error::other("the server broke a stream off")),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS)
                && let Some(place) = self.open.iter().position(|call| call.stream == stream)
            {
                self.open[place].answered |= kind == DATA && length > 0;
                if flags & END_STREAM != 0 {
                    let call = self.open.remove(place).expect("found");
                    if !call.answered {
                        return Err(io::Error::other("a call ended without a message: its grpc-status is not 0"));
                    }
                    latencies.push(now - call.began);
                    ended += 1;
                }
            }
            at += 9 + length;
        }
        self.read.copy_within(at..self.filled, 0);
        self.filled -= at;
        if self.taken > 1 << 28 {
            self.out.extend(frame(WINDOW, 0, 0, &self.taken.to_be_bytes()));
            self.taken = 0;
        }
        Ok(ended)
    }
}

/// So many calls under way over a few connections, each followed by the next; the latencies.
pub async fn closed(address: SocketAddr, call: &[u8], under_way: usize, length: Duration) -> io::Result<Vec<Duration>> {
    let connections = under_way.div_ceil(16);
    let mut tasks = Vec::new();
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(address, call.to_vec()).await?);
    }
    let end = Instant::now() + length;
    for mut connection in open {
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(1 << 14);
            (0..under_way / connections).for_each(|_| connection.begin(Instant::now()));
            while Instant::now() < end {
                for _ in 0..connection.turn(&mut latencies).await? {
                    connection.begin(Instant::now());
                }
            }
            Ok::<_, io::Error>(latencies)
        }));
    }
    super::gather(tasks).await
}

/// So many calls a second, at even distances over a few connections, with at most as many under way as are named; latencies count from when a
/// call was due.
pub async fn paced(
    address: SocketAddr,
    call: &[u8],
    under_way: usize,
    rate: f64,
    length: Duration,
) -> io::Result<Vec<Duration>> {
    let connections = under_way.div_ceil(16);
    let gap = Duration::from_secs_f64(connections as f64 / rate);
    let start = Instant::now() + Duration::from_millis(20);
    let mut tasks = Vec::new();
    for index in 0..connections {
        let mut connection = Connection::open(address, call.to_vec()).await?;
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(1 << 14);
            let mut due = start + gap.mul_f64(index as f64 / connections as f64);
            while due < start + length {
                while due <= Instant::now() && connection.open.len() < under_way / connections {
                    connection.begin(due);
                    due += gap;
                }
                connection.flush().await?;
                // The timer knows milliseconds only; the rest is waited for in turns.
                let early = due.saturating_duration_since(Instant::now());
                if early > Duration::from_millis(2) {
                    let soon = early - Duration::from_millis(1);
                    _ = tokio::time::timeout(soon, connection.stream.readable()).await;
                } else {
                    tokio::task::yield_now().await;
                }
                connection.glance(&mut latencies)?;
            }
            while !connection.open.is_empty() {
                connection.turn(&mut latencies).await?;
            }
            Ok::<_, io::Error>(latencies)
        }));
    }
    super::gather(tasks).await
}

//! A client of HTTP/1.1 that costs as little as it can: a request is a buffer that is written as it is, an answer is read up to its
//! length. Whatever measures a server on the next core must be faster than the server.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An open connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A request, ready to be written.
pub fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

impl Connection {
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; 1 << 20] })
    }

    /// Sends a request and reads its whole answer, which must fit; its body.
    pub async fn text(&mut self, request: &[u8]) -> io::Result<String> {
        let (head, length) = self.exchange(request).await?;
        let body = self.buffer.get(head..head + length).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(String::from_utf8_lossy(body).into_owned())
    }

    /// Sends a request and reads its whole answer; the length of the body.
    pub async fn call(&mut self, request: &[u8]) -> io::Result<usize> {
        self.exchange(request).await.map(|(_, length)| length)
    }

    /// The lengths of head and body; as much of both as fits is in the buffer.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<(usize, usize)> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let (head, length) = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            if let Some(head) = find(&self.buffer[..filled], b"\r\n\r\n") {
                break (head + 4, length(&self.buffer[..head])?);
            }
        };
        let mut left = (head + length).saturating_sub(filled);
        let fits = head + length <= self.buffer.len();
        while left > 0 {
            let at = if fits { filled } else { 0 };
            let room = left.min(self.buffer.len() - at);
            let read = self.stream.read(&mut self.buffer[at..at + room]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += read;
            left -= read;
        }
        Ok((head, length))
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// The content length of an answer, which must be a good one.
fn length(head: &[u8]) -> io::Result<usize> {
    let bad = || io::Error::other(String::from_utf8_lossy(head).into_owned());
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(bad());
    }
    // Its line begins with it: the length of an answer's JSON part has a header whose name ends like it.
    let name = b"\r\ncontent-length: ";
    let start = find(head, name).ok_or_else(bad)? + name.len();
    let digits = head[start..].iter().take_while(|byte| byte.is_ascii_digit());
    Ok(digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

/// How often a model of the server has been asked, by its own count.
pub async fn asked_of(address: SocketAddr, model: &str) -> io::Result<u64> {
    let request = format!("GET /v2/models/{model}/stats HTTP/1.1\r\nhost: bench\r\n\r\n");
    let text = Connection::open(address).await?.text(request.as_bytes()).await?;
    let stats: serde_json::Value = serde_json::from_str(&text)?;
    stats["model_stats"][0]["inference_count"].as_u64().ok_or_else(|| io::Error::other(text))
}

/// Many connections, each sending its next request when it has the answer to the last; the latencies.
pub async fn closed(
    address: SocketAddr,
    request: &[u8],
    connections: usize,
    length: Duration,
) -> io::Result<Vec<Duration>> {
    closed_over(address, &[request.to_vec()], &[0], connections, length).await
}

/// The same over several requests in this order, each connection from a place of its own.
pub async fn closed_over(
    address: SocketAddr,
    requests: &[Vec<u8>],
    order: &[usize],
    connections: usize,
    length: Duration,
) -> io::Result<Vec<Duration>> {
    let (requests, order): (Arc<[Vec<u8>]>, Arc<[usize]>) = (requests.into(), order.into());
    let mut tasks = Vec::new();
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(Connection::open(address).await?);
    }
    let end = Instant::now() + length;
    for (index, mut connection) in open.into_iter().enumerate() {
        let (requests, order) = (Arc::clone(&requests), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::with_capacity(1 << 12);
            let mut place = order.len() * index / connections;
            let mut began = Instant::now();
            while began < end {
                connection.call(&requests[order[place % order.len()]]).await?;
                place += 1;
                let now = Instant::now();
                latencies.push(now - began);
                began = now;
            }
            Ok::<_, io::Error>(latencies)
        }));
    }
    super::gather(tasks).await
}

/// So many requests a second, at even distances over all connections; latencies count from when a request was due, not from when a
/// connection was free for it.
pub async fn paced(
    address: SocketAddr,
    request: &[u8],
    connections: usize,
    rate: f64,
    length: Duration,
) -> io::Result<Vec<Duration>> {
    let gap = Duration::from_secs_f64(connections as f64 / rate);
    let mut tasks = Vec::new();
    let start = Instant::now() + Duration::from_millis(20);
    for index in 0..connections {
        let mut connection = Connection::open(address).await?;
        let request = request.to_vec();
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            let mut due = start + gap.mul_f64(index as f64 / connections as f64);
            while due < start + length {
                // The timer knows milliseconds only; the rest is waited for in turns.
                let early = due.saturating_duration_since(Instant::now());
                if early > Duration::from_millis(2) {
                    tokio::time::sleep(early - Duration::from_millis(1)).await;
                }
                while Instant::now() < due {
                    tokio::task::yield_now().await;
                }
                connection.call(&request).await?;
                latencies.push(due.elapsed());
                due += gap;
            }
            Ok::<_, io::Error>(latencies)
        }));
    }
    super::gather(tasks).await
}

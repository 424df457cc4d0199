//! When a connection of a client is ended although it works: nothing has come over it for too long, or the router ends.

use std::{
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// Longest that a first request is waited for once the router ends: whoever has got a connection counts on an answer.
pub const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What the router is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Clients are welcome.
    Serving,
    /// Answers ask clients to go elsewhere.
    Draining,
    /// Connections close as soon as they have nothing to do.
    Closing,
}

/// What is seen of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// A request has come.
    pub has_sent: bool,
    /// Streams of HTTP/2 so far.
    pub begun: usize,
    /// Those that are not over.
    pub open: usize,
}

/// Decides about one connection.
#[derive(Debug)]
pub struct Keeper {
    idle_timeout: Duration,
    /// When it is looked at next. None where the HTTP library keeps the time: over HTTP/1.1 from the first request on.
    due: Option<Pin<Box<Sleep>>>,
    /// Streams there had been at the last look.
    begun: usize,
    is_idle: bool,
    said_goodbye: bool,
}

impl Keeper {
    /// Of a new connection: how long a first request may take, and how long there may be none.
    pub fn new(header_timeout: Duration, idle_timeout: Duration) -> Self {
        let due = Some(Box::pin(sleep(header_timeout)));
        Self { idle_timeout, due, begun: 0, is_idle: false, said_goodbye: false }
    }

    /// Ready when it is time to look whether it [gives up](Self::gives_up).
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.due {
            Some(due) => due.as_mut().poll(context),
            None => Poll::Pending,
        }
    }

    /// Whether the connection is closed at once.
    pub fn gives_up(&mut self, seen: Seen) -> bool {
        if !seen.has_sent {
            return true;
        }
        if seen.begun == 0 {
            self.due = None;
            return false;
        }
        // Pings keep a connection of HTTP/2 alive for as long as its client likes; only requests count.
        self.is_idle = mem::replace(&mut self.begun, seen.begun) == seen.begun && seen.open == 0;
        if let Some(due) = &mut self.due {
            due.as_mut().reset(Instant::now() + self.idle_timeout);
        }
        self.is_idle && self.said_goodbye
    }

    /// Whether the client is told now that the connection closes. It is told once.
    pub fn says_goodbye(&mut self, phase: Phase, seen: Seen) -> bool {
        let may = match phase {
            Phase::Serving => self.is_idle,
            // HTTP/2 can say that no further request will be read (GOAWAY), so it closes at once; an idle HTTP/1.1 connection can't,
            // so it stays until its client has been told by an answer, or the drain is over.
            Phase::Draining => seen.begun > 0,
            Phase::Closing => seen.has_sent,
        };
        if phase == Phase::Closing && !seen.has_sent {
            self.hurry();
        }
        may && !mem::replace(&mut self.said_goodbye, true)
    }

    /// The first request has less time.
    fn hurry(&mut self) {
        let soon = Instant::now() + FIRST_REQUEST;
        if let Some(due) = self.due.as_mut().filter(|due| due.deadline() > soon) {
            due.as_mut().reset(soon);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const HTTP1: Seen = Seen { has_sent: true, begun: 0, open: 0 };

    fn http2(begun: usize, open: usize) -> Seen {
        Seen { has_sent: true, begun, open }
    }

    #[tokio::test]
    async fn without_a_first_request_it_is_given_up_and_over_http_1_not_looked_at_again() {
        let mut keeper = Keeper::new(HOUR, HOUR);
        assert!(keeper.gives_up(Seen::default()));
        assert!(!keeper.gives_up(HTTP1));
        assert!(keeper.due.is_none());
    }

    #[tokio::test]
    async fn over_http_2_a_time_without_a_stream_is_its_end_and_a_second_one_whatever_the_client_says() {
        let mut keeper = Keeper::new(HOUR, HOUR);
        for busy in [http2(1, 0), http2(1, 1), http2(2, 0), http2(9, 0)] {
            assert!(!keeper.gives_up(busy) && !keeper.says_goodbye(Phase::Serving, busy), "{busy:?}");
        }
        let idle = http2(9, 0);
        assert!(!keeper.gives_up(idle));
        assert!(keeper.says_goodbye(Phase::Serving, idle) && !keeper.says_goodbye(Phase::Closing, idle), "once");
        assert!(!keeper.gives_up(http2(10, 0)) && keeper.gives_up(http2(10, 0)));
    }

    #[tokio::test]
    async fn a_router_that_ends_lets_those_go_that_can_be_told_and_waits_a_moment_for_a_first_request() {
        let cases = [
            (Phase::Serving, http2(1, 0), false),
            (Phase::Draining, Seen::default(), false),
            (Phase::Draining, HTTP1, false),
            (Phase::Draining, http2(1, 1), true),
            (Phase::Closing, HTTP1, true),
            (Phase::Closing, http2(1, 1), true),
        ];
        for (phase, seen, expected) in cases {
            assert_eq!(Keeper::new(HOUR, HOUR).says_goodbye(phase, seen), expected, "{phase:?} {seen:?}");
        }
        let mut keeper = Keeper::new(HOUR, HOUR);
        assert!(!keeper.says_goodbye(Phase::Closing, Seen::default()));
        let deadline = keeper.due.as_ref().expect("a time").deadline();
        assert!(deadline <= Instant::now() + FIRST_REQUEST);
        keeper.says_goodbye(Phase::Closing, Seen::default());
        assert_eq!(keeper.due.as_ref().expect("a time").deadline(), deadline, "it is not put off");
    }
}

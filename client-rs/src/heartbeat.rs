//! When to be heard, and when the node has not been heard for too long.

use std::time::Duration;

use batonq_protocol::messages::Welcome;
use tokio::time::Instant;

/// What a node that names no time gets, and the least that is kept to.
const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(15);
const INTERVAL_MIN: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Heartbeat {
    interval: Duration,
    timeout: Duration,
    next_ping: Instant,
    heard_at: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Ping,
    Wait,
    Dead,
}

impl Heartbeat {
    pub(crate) fn new(welcome: &Welcome, now: Instant) -> Self {
        let or = |ms, default| if ms == 0 { default } else { Duration::from_millis(ms) };
        let interval = or(welcome.heartbeat_interval_ms, INTERVAL).max(INTERVAL_MIN);
        let timeout = or(welcome.heartbeat_timeout_ms, TIMEOUT).max(interval);
        Self { interval, timeout, next_ping: now + interval, heard_at: now }
    }

    /// Something came from the node.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// When to ask for the next beat.
    pub(crate) fn next(&self) -> Instant {
        self.next_ping.min(self.heard_at + self.timeout)
    }

    pub(crate) fn beat(&mut self, now: Instant) -> Beat {
        if now >= self.heard_at + self.timeout {
            return Beat::Dead;
        }
        if now < self.next_ping {
            return Beat::Wait;
        }
        self.next_ping = now + self.interval;
        Beat::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(now: Instant) -> Heartbeat {
        let welcome = Welcome {
            heartbeat_interval_ms: 1000,
            heartbeat_timeout_ms: 3500,
            ..Welcome::default()
        };
        Heartbeat::new(&welcome, now)
    }

    #[test]
    fn a_ping_is_due_every_interval_whatever_was_heard() {
        let start = Instant::now();
        let mut heartbeat = given(start);
        for second in 1..10 {
            let now = start + Duration::from_secs(second);
            heartbeat.heard(now);
            assert_eq!(heartbeat.next(), now);
            assert_eq!(heartbeat.beat(now), Beat::Ping, "{second}");
            assert_eq!(heartbeat.beat(now), Beat::Wait, "{second}");
        }
    }

    #[test]
    fn a_node_that_is_silent_for_the_timeout_is_dead() {
        let start = Instant::now();
        let mut heartbeat = given(start);
        for second in 1..4 {
            assert_eq!(heartbeat.beat(start + Duration::from_secs(second)), Beat::Ping);
        }
        assert_eq!(heartbeat.next(), start + Duration::from_millis(3500));
        assert_eq!(heartbeat.beat(start + Duration::from_millis(3499)), Beat::Wait);
        assert_eq!(heartbeat.beat(start + Duration::from_millis(3500)), Beat::Dead);
    }
}

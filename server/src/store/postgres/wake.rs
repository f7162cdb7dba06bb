//! Telling other nodes what has become ready, and hearing it from them.
//!
//! Every commit that notifies takes a lock of the whole database. So a push does not notify; what
//! was committed is gathered, and told in a transaction of its own, a hundred times a second at
//! most. This makes other nodes faster and nothing else: what nobody tells is found by looking, a
//! second later.
//!
//! The SQL functions of `0004_sql.sql` tell in the same form, as part of the transactions that call
//! them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::leases::LeaseId;
use super::{PostgresStore, QueueId};
use crate::job::{JobId, Lease, Timestamp};
use crate::store::{SessionId, Signal};

/// The shortest time between two messages.
const GATHER: Duration = Duration::from_millis(10);

/// What fits a message: Postgres allows just under 8000 bytes.
const MESSAGE_BYTES_MAX: usize = 7_500;

/// The place of jobs that could not start before, and may now: nobody has counted them, only the
/// reasons.
const NOWHERE: i64 = i64::MAX;

/// What other nodes are to be told.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pending: Mutex<Pending>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    /// Those that stand somewhere apart from those of [`NOWHERE`].
    ready: BTreeMap<(QueueId, i32, bool), Ready>,
    /// The earliest time at which a job will be due.
    due: Option<Timestamp>,
    lost: Vec<(SessionId, Lease)>,
    cancelled: Vec<(SessionId, Lease)>,
    nodes: Vec<String>,
    /// False: there is nobody to tell of jobs, as far as is known: what becomes of leases is told
    /// in any case, since a node is known a few seconds after it has given its first ones.
    has_readers: bool,
}

/// Jobs of one queue and priority that have become ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ready {
    lowest: i64,
    count: usize,
}

impl Outbox {
    /// Whether there are other nodes.
    pub(super) fn set_readers(&self, has_readers: bool) {
        let mut pending = self.pending.lock();
        pending.has_readers = has_readers;
        if !has_readers {
            pending.ready.clear();
            pending.due = None;
        }
    }

    /// So many jobs are ready, at this place or behind it.
    pub(super) fn ready(&self, queue: QueueId, priority: i32, place: i64, count: usize) {
        let mut pending = self.pending.lock();
        if pending.has_readers {
            let new = Ready { lowest: place, count: 0 };
            let ready = pending.ready.entry((queue, priority, place == NOWHERE)).or_insert(new);
            ready.lowest = ready.lowest.min(place);
            ready.count += count;
            self.bell.notify_one();
        }
    }

    /// Jobs of a queue may start now that could not before.
    pub(super) fn opened(&self, queue: QueueId) {
        self.ready(queue, 0, NOWHERE, 1);
    }

    pub(super) fn due(&self, at: Timestamp) {
        let mut pending = self.pending.lock();
        if pending.has_readers {
            pending.due = Some(pending.due.map_or(at, |due| due.min(at)));
            self.bell.notify_one();
        }
    }

    pub(super) fn lost(&self, lost: &[(SessionId, Lease)]) {
        if !lost.is_empty() {
            self.pending.lock().lost.extend_from_slice(lost);
            self.bell.notify_one();
        }
    }

    pub(super) fn cancelled(&self, session: SessionId, lease: Lease) {
        self.pending.lock().cancelled.push((session, lease));
        self.bell.notify_one();
    }

    pub(super) fn node(&self, id: &str) {
        self.pending.lock().nodes.push(id.to_owned());
        self.bell.notify_one();
    }

    /// All that is pending, as messages.
    fn take(&self, sender: i64) -> Vec<String> {
        let mut pending = self.pending.lock();
        let ready = std::mem::take(&mut pending.ready);
        let due = pending.due.take();
        let lost = std::mem::take(&mut pending.lost);
        let cancelled = std::mem::take(&mut pending.cancelled);
        let nodes = std::mem::take(&mut pending.nodes);
        drop(pending);
        let mut messages = Messages { sender, done: Vec::new(), open: String::new() };
        for ((queue, priority, _), Ready { lowest, count }) in ready {
            messages.add(&format!("r {queue} {priority} {lowest} {count}"));
        }
        if let Some(at) = due {
            messages.add(&format!("d {}", at.0));
        }
        for (session, lease) in lost {
            messages.add(&format!("l {} {} {}", session.0, lease.job.0, lease.delivery));
        }
        for (session, lease) in cancelled {
            messages.add(&format!("c {} {} {}", session.0, lease.job.0, lease.delivery));
        }
        for node in nodes {
            messages.add(&format!("n {node}"));
        }
        messages.finish()
    }
}

struct Messages {
    sender: i64,
    done: Vec<String>,
    open: String,
}

impl Messages {
    fn add(&mut self, line: &str) {
        if self.open.len() + line.len() > MESSAGE_BYTES_MAX {
            self.done.push(std::mem::take(&mut self.open));
        }
        if self.open.is_empty() {
            write!(self.open, "{}", self.sender).expect("a String takes everything");
        }
        self.open.push('\n');
        self.open.push_str(line);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.done.push(self.open);
        }
        self.done
    }
}

/// One line of a message.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Ready {
        queue: QueueId,
        priority: i32,
        lowest: i64,
        count: usize,
    },
    Due(Timestamp),
    Lost(SessionId, Lease),
    Cancelled(SessionId, Lease),
    /// Told by SQL functions: a job has ended; of interest to who gave the lease.
    Ended(Lease),
    Node(String),
}

/// The lines of a message of another node. What is not understood is passed over: it may be of a
/// later version.
fn parse(message: &str, own: i64) -> Vec<Line> {
    let mut lines = message.lines();
    match lines.next().and_then(|sender| sender.parse::<i64>().ok()) {
        Some(sender) if sender != own => lines.filter_map(parse_line).collect(),
        _ => Vec::new(),
    }
}

fn parse_line(line: &str) -> Option<Line> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["r", queue, priority, lowest, count] => Some(Line::Ready {
            queue: queue.parse().ok()?,
            priority: priority.parse().ok()?,
            lowest: lowest.parse().ok()?,
            count: count.parse().ok()?,
        }),
        ["d", at] => Some(Line::Due(Timestamp(at.parse().ok()?))),
        [kind @ ("l" | "c"), session, job, delivery] => {
            let lease = Lease { job: JobId(job.parse().ok()?), delivery: delivery.parse().ok()? };
            let session = SessionId(session.parse().ok()?);
            Some(match kind {
                "l" => Line::Lost(session, lease),
                _ => Line::Cancelled(session, lease),
            })
        }
        ["e", job, delivery] => Some(Line::Ended(Lease {
            job: JobId(job.parse().ok()?),
            delivery: delivery.parse().ok()?,
        })),
        ["n", node] => Some(Line::Node(node.to_owned())),
        _ => None,
    }
}

/// The channel of a cluster: names of channels are of the database, not of the schema.
pub(super) fn channel(schema: &str) -> String {
    format!("batonq {schema}")
}

/// What there is to be done about a message.
#[derive(Debug)]
pub(super) struct Heard {
    /// What is of use to others.
    pub(super) signals: Vec<Signal>,
    /// The nodes that are asked something.
    pub(super) nodes: Vec<String>,
    /// Rows of leases that have ended: see [`PostgresStore::delete_empty`].
    pub(super) empty: Vec<LeaseId>,
}

impl PostgresStore {
    /// Tells other nodes what has happened here, until it is dropped.
    pub(super) async fn tell(&self) {
        let channel = channel(&self.connector.schema);
        loop {
            self.outbox.bell.notified().await;
            let started = Instant::now();
            for message in self.outbox.take(self.node.incarnation) {
                let sql = "SELECT pg_notify($1, $2)";
                if let Err(error) = self.notify_lane.once((sql, &[&channel, &message])).await {
                    tracing::debug!(%error, "other nodes were not told");
                }
            }
            tokio::time::sleep_until(started + GATHER).await;
        }
    }

    /// What another node has told: notes it.
    pub(super) async fn hear(&self, message: &str) -> Heard {
        let (mut signals, mut nodes, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for line in parse(message, self.node.incarnation) {
            match line {
                Line::Ready { queue, priority, lowest, count } => {
                    self.cursors.note(queue, priority, lowest);
                    match self.queues.name(&self.pool, queue).await {
                        Ok(name) if lowest == NOWHERE => signals.push(Signal::Opened(name, count)),
                        Ok(name) => signals.push(Signal::Ready(name, count)),
                        Err(error) => tracing::debug!(%error, "unknown queue"),
                    }
                }
                Line::Due(at) => signals.push(Signal::Due(at)),
                Line::Lost(session, lease) => {
                    ended.push(lease);
                    signals.push(Signal::Lost(session, lease));
                }
                Line::Cancelled(session, lease) => {
                    signals.push(Signal::Cancelled(session, lease));
                }
                Line::Ended(lease) => {
                    ended.push(lease);
                    signals.push(Signal::Ended(lease.job));
                }
                Line::Node(id) => nodes.push(id),
            }
        }
        // Leases that this node may have given were ended behind its back.
        Heard { signals, nodes, empty: self.leases.end(ended.into_iter()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease { job: JobId(41), delivery: 2 };

    #[test]
    fn what_is_told_is_heard() {
        let outbox = Outbox::default();
        outbox.set_readers(true);
        outbox.ready(7, -3, 90, 1);
        outbox.ready(7, -3, 80, 1);
        outbox.ready(7, 0, 95, 1);
        outbox.opened(7);
        outbox.due(Timestamp(70));
        outbox.due(Timestamp(60));
        outbox.lost(&[(SessionId(5), LEASE)]);
        outbox.cancelled(SessionId(6), LEASE);
        outbox.node("n-1");
        let messages = outbox.take(1);
        assert_eq!(messages.len(), 1);
        let expected = [
            Line::Ready { queue: 7, priority: -3, lowest: 80, count: 2 },
            Line::Ready { queue: 7, priority: 0, lowest: 95, count: 1 },
            Line::Ready { queue: 7, priority: 0, lowest: NOWHERE, count: 1 },
            Line::Due(Timestamp(60)),
            Line::Lost(SessionId(5), LEASE),
            Line::Cancelled(SessionId(6), LEASE),
            Line::Node("n-1".into()),
        ];
        assert_eq!(parse(&messages[0], 2), expected);
        assert_eq!(parse(&messages[0], 1), [], "one's own is not heard");
        assert!(outbox.take(1).is_empty());
    }

    #[test]
    fn what_sql_functions_tell_is_heard() {
        let ready = Line::Ready { queue: 7, priority: -3, lowest: 80, count: 2 };
        let expected = [ready, Line::Due(Timestamp(60)), Line::Ended(LEASE)];
        assert_eq!(parse("0\nr 7 -3 80 2\nd 60\ne 41 2", 1), expected);
    }

    #[test]
    fn nothing_is_gathered_for_nobody() {
        let outbox = Outbox::default();
        outbox.ready(7, 0, 1, 1);
        assert!(outbox.take(1).is_empty());
    }

    #[test]
    fn long_messages_are_split() {
        let outbox = Outbox::default();
        outbox.set_readers(true);
        (0..2000).for_each(|queue| outbox.ready(queue, 0, 1, 1));
        let messages = outbox.take(1);
        assert!(messages.len() > 1);
        assert!(messages.iter().all(|message| message.len() < 8000));
        assert_eq!(messages.iter().map(|message| parse(message, 2).len()).sum::<usize>(), 2000);
    }

    #[test]
    fn garbage_is_passed_over() {
        for message in ["", "x", "5", "5\nr 1", "5\nz 1 2 3", "5\nr a b c d", "5\nl 1 2 -3"] {
            assert_eq!(parse(message, 1), [], "{message:?}");
        }
    }
}

//! What the jobs of a run look like, and how they spread over queues.

use std::time::Duration;

use batonq_client::{Client, NewJob};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::Dial;
use crate::exit::Failure;

/// How long a job waits that is pushed with a delay.
const DELAY: Duration = Duration::from_secs(1);

/// Jobs in one request while a backlog is pushed: as many as a node takes.
const FILL_BATCH: u64 = 1000;

/// Requests that push a backlog at once.
const FILLS_AT_ONCE: u64 = 4;

/// A time in a payload is written in so many hexadecimal digits.
const STAMP_DIGITS: usize = 16;

/// What is pushed.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Load {
    /// Size of a payload
    #[arg(long, default_value_t = 60, value_name = "P", value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub(super) payload_bytes: u32,

    /// The queue to use; it should be empty. With --queues, the beginning of their names
    #[arg(long, default_value = "bench")]
    pub(super) queue: String,

    /// Spread jobs over so many queues; each consumer takes from all of them (modes cycle, push)
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) queues: u32,

    /// Spread jobs over so many priorities (modes cycle, push)
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(super) priorities: u32,

    /// So many of a hundred jobs are pushed with a delay of a second (mode cycle)
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(super) delayed: u32,

    /// So many of a hundred jobs fail once and are retried (mode cycle)
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(super) failing: u32,
}

impl Load {
    /// The names of the queues.
    pub(super) fn names(&self) -> Vec<String> {
        match self.queues {
            1 => vec![self.queue.clone()],
            count => (1..=count).map(|number| format!("{}-{number}", self.queue)).collect(),
        }
    }

    pub(super) fn maker(&self) -> Maker {
        Maker { load: self.clone(), names: self.names(), made: 0 }
    }

    /// Whether the first attempt of a job is one that fails.
    pub(super) fn fails(&self) -> bool {
        is_one_of(self.failing)
    }

    /// What is in the queues and has not been acked.
    pub(super) async fn left(&self, client: &Client) -> Result<u64, Failure> {
        let names = self.names();
        let queues = client.queues().await?.into_iter();
        let ours = queues.filter(|queue| names.contains(&queue.name));
        Ok(ours.map(|queue| queue.ready + queue.leased + queue.scheduled).sum())
    }

    /// Pushes so many jobs, several requests at once.
    pub(super) async fn fill(&self, count: u64, dial: &Dial) -> Result<(), Failure> {
        let mut tasks = JoinSet::new();
        for number in 0..FILLS_AT_ONCE {
            let client = dial.connect("bench-backlog").await?;
            let mut maker = Self { delayed: 0, ..self.clone() }.maker();
            let mut left = count / FILLS_AT_ONCE + u64::from(number < count % FILLS_AT_ONCE);
            tasks.spawn(async move {
                while left > 0 {
                    let count = left.min(FILL_BATCH);
                    push(&client, maker.jobs(count, None)).await?;
                    left -= count;
                }
                Ok::<_, Failure>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(Failure::other)??;
        }
        Ok(())
    }
}

fn is_one_of(percent: u32) -> bool {
    percent > 0 && rand::random_range(0..100) < percent
}

/// Makes jobs, spread evenly over queues and priorities.
pub(super) struct Maker {
    load: Load,
    names: Vec<String>,
    made: u64,
}

impl Maker {
    /// Jobs whose payloads say that they were pushed at this time, in microseconds.
    pub(super) fn jobs(&mut self, count: u64, pushed_at: Option<u64>) -> Vec<NewJob> {
        let bytes = self.load.payload_bytes as usize;
        let stamped = payload(bytes, pushed_at);
        (0..count).map(|_| self.job(&stamped)).collect()
    }

    fn job(&mut self, stamped: &Bytes) -> NewJob {
        let queues = self.names.len() as u64;
        let name = &self.names[usize::try_from(self.made % queues).unwrap_or_default()];
        let priority = self.made / queues % u64::from(self.load.priorities);
        self.made += 1;
        if is_one_of(self.load.delayed) {
            // Its way to a consumer takes the delay, and says nothing.
            let payload = payload(self.load.payload_bytes as usize, None);
            return NewJob::new(name.as_str(), payload).priority(wire(priority)).delay(DELAY);
        }
        NewJob::new(name.as_str(), stamped.clone()).priority(wire(priority))
    }
}

fn wire(priority: u64) -> i32 {
    i32::try_from(priority).expect("there are ten priorities at most")
}

/// A JSON string of this size; it begins with the time, if there is room.
pub(super) fn payload(bytes: usize, pushed_at: Option<u64>) -> Bytes {
    let Some(inner) = bytes.checked_sub(2) else { return Bytes::from(vec![b'1'; bytes]) };
    let mut text = String::with_capacity(bytes);
    text.push('"');
    if let Some(pushed_at) = pushed_at
        && inner >= STAMP_DIGITS
    {
        text += &format!("{pushed_at:0STAMP_DIGITS$x}");
    }
    while text.len() <= inner {
        text.push('x');
    }
    text.push('"');
    text.into()
}

/// The time in a payload.
pub(super) fn pushed_at(payload: &[u8]) -> Option<u64> {
    let digits = payload.get(1..=STAMP_DIGITS)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Pushes jobs, all of which must be accepted.
pub(super) async fn push(client: &Client, jobs: Vec<NewJob>) -> Result<(), Failure> {
    for pushed in client.push_batch(jobs).await? {
        pushed?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_size_and_gives_its_time_back() {
        for bytes in 0..100 {
            let made = payload(bytes, Some(0x1234));
            assert_eq!(made.len(), bytes);
            assert_eq!(pushed_at(&made), (bytes >= 18).then_some(0x1234), "{bytes}");
            assert_eq!(pushed_at(&payload(bytes, None)), None, "{bytes}");
            let json = serde_json::from_slice::<serde_json::Value>(&made);
            assert!(bytes == 0 || json.is_ok(), "{bytes}");
        }
    }

    #[test]
    fn jobs_spread_evenly_over_queues_and_priorities() {
        let queue = "q".to_owned();
        let load =
            Load { payload_bytes: 60, queue, queues: 3, priorities: 2, delayed: 0, failing: 0 };
        let jobs = load.maker().jobs(12, None);
        for name in ["q-1", "q-2", "q-3"] {
            for priority in [0, 1] {
                let one = NewJob::new(name, payload(60, None)).priority(priority);
                assert_eq!(jobs.iter().filter(|job| **job == one).count(), 2, "{name} {priority}");
            }
        }
    }
}

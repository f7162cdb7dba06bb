//! `batonq push`.

use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use batonq_client::{Backoff, Client, NewJob, Outcome};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::flow::Policy;
use super::view;
use crate::Shared;
use crate::exit::Failure;
use crate::output::parse_duration;

/// Jobs in one request.
const BATCH: usize = 500;

/// Arguments of `push`.
#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// The queue
    queue: String,

    /// The payload, JSON; - for standard input
    #[arg(required_unless_present_any = ["file", "lines"])]
    payload: Option<String>,

    /// Take the payload from a file
    #[arg(long, conflicts_with = "payload", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Push each line of standard input as a job
    #[arg(long, conflicts_with_all = ["payload", "file", "unique"])]
    lines: bool,

    /// What the payload is, if it is not JSON
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,

    #[command(flatten)]
    options: Options,
}

/// What goes for every job of the call.
#[derive(Debug, clap::Args)]
struct Options {
    /// Higher first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,

    /// Not before this time from now, as 10s
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    delay: Option<Duration>,

    /// Not before this time, as 2030-01-31T12:00:00Z
    #[arg(long, conflicts_with = "delay", value_name = "TIME")]
    run_at: Option<jiff::Timestamp>,

    /// Not later than this time from now
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    ttl: Option<Duration>,

    /// Dead after so many failed attempts
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,

    /// fixed:5s, list:1s,5s or exponential:1s..1h
    #[arg(long, value_parser = parse_backoff, value_name = "RULE")]
    backoff: Option<Backoff>,

    /// How long one attempt may run
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    timeout: Option<Duration>,

    /// Refused as a duplicate while a live job of the queue has the same key
    #[arg(long, value_name = "KEY")]
    unique: Option<String>,

    /// With --unique: hold the key for this time, whatever becomes of the job
    #[arg(long, requires = "unique", value_parser = parse_duration, value_name = "TIME")]
    window: Option<Duration>,

    /// If a job with this key waits, give that one this payload and this time instead
    #[arg(long, conflicts_with = "unique", value_name = "KEY")]
    debounce: Option<String>,

    /// A push that is repeated with this key within a day is not done again
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// At most so many jobs with this key at once, as tenant-7=3
    #[arg(long, value_parser = parse_concurrency, value_name = "KEY=MAX")]
    concurrency: Option<(String, u32)>,

    /// Take turns with the jobs of other keys
    #[arg(long, conflicts_with = "concurrency", value_name = "KEY")]
    fair: Option<String>,

    /// At most so many jobs with this key in a time, as api=10/1s
    #[arg(long, value_parser = parse_rate, value_name = "KEY=N/TIME")]
    rate: Option<(String, u32, Duration)>,

    /// With --rate: so many at once after a rest, instead of a quarter
    #[arg(long, requires = "rate", value_name = "N")]
    burst: Option<u32>,

    /// Only after this job has been completed; may be repeated
    #[arg(long, value_name = "ID")]
    after: Vec<u64>,

    /// With --after: what becomes of it if one of those dies or is cancelled
    #[arg(long, requires = "after", value_name = "POLICY")]
    on_failure: Option<Policy>,

    /// A word to find the job by; may be repeated
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
}

fn parse_concurrency(text: &str) -> Result<(String, u32), String> {
    let wrong = || format!("{text:?} is no limit: write KEY=MAX, as tenant-7=3");
    let (key, max) = text.rsplit_once('=').ok_or_else(wrong)?;
    Ok((key.to_owned(), max.parse().map_err(|_| wrong())?))
}

fn parse_rate(text: &str) -> Result<(String, u32, Duration), String> {
    let wrong = || format!("{text:?} is no rate: write KEY=N/TIME, as api=10/1s");
    let (key, rule) = text.rsplit_once('=').ok_or_else(wrong)?;
    let (limit, per) = rule.split_once('/').ok_or_else(wrong)?;
    Ok((key.to_owned(), limit.parse().map_err(|_| wrong())?, parse_duration(per)?))
}

impl Options {
    /// What few jobs ask for.
    fn ask(&self, mut job: NewJob) -> NewJob {
        job = match (&self.unique, self.window, &self.debounce) {
            (Some(key), Some(window), _) => job.unique_for(key, window),
            (Some(key), None, _) => job.unique(key),
            (None, _, Some(key)) => job.debounce(key),
            (None, _, None) => job,
        };
        if let Some(key) = &self.idempotency_key {
            job = job.idempotency_key(key);
        }
        if let Some((key, max)) = &self.concurrency {
            job = job.concurrency(key, *max);
        }
        if let Some(key) = &self.fair {
            job = job.fair_share(key);
        }
        if let Some((key, limit, per)) = &self.rate {
            job = job.rate(key, *limit, *per);
        }
        if let Some(burst) = self.burst {
            job = job.burst(burst);
        }
        if let Some(policy) = self.on_failure {
            job = job.on_failure(policy.into());
        }
        job = self.after.iter().fold(job, |job, id| job.after(*id));
        self.tag.iter().fold(job, NewJob::tag)
    }
}

impl Push {
    pub(crate) async fn run(self, shared: &Shared) -> Result<ExitCode, Failure> {
        let client = shared.connect("").await?;
        let pushed = match self.lines {
            true => self.push_lines(&client, shared).await,
            false => self.push_one(&client, shared).await,
        };
        client.close().await;
        pushed.map(|()| ExitCode::SUCCESS)
    }

    async fn push_one(&self, client: &Client, shared: &Shared) -> Result<(), Failure> {
        let pushed = client.push(self.job(self.read_payload()?)?).await?;
        let (id, state) = (pushed.id.0, view::state(pushed.state));
        let (outcome, sentence) = match pushed.outcome {
            Outcome::Inserted => ("inserted", format!("job {id} is {state}")),
            Outcome::Duplicate => {
                ("duplicate", format!("duplicate: job {id} has this key and is {state}"))
            }
            Outcome::Replaced => {
                ("replaced", format!("replaced: job {id} has this payload now and is {state}"))
            }
            Outcome::Throttled => {
                ("throttled", format!("throttled: job {id} has this key and is {state}"))
            }
            Outcome::Repeated => {
                ("repeated", format!("repeated: this is job {id}, which is {state}"))
            }
        };
        let value = json!({ "id": id, "outcome": outcome, "state": state });
        shared.output.value(&value, &sentence)
    }

    fn read_payload(&self) -> Result<Vec<u8>, Failure> {
        match (&self.file, self.payload.as_deref()) {
            (Some(path), _) => std::fs::read(path)
                .map_err(|error| Failure::usage(format!("{}: {error}", path.display()))),
            (None, Some("-")) => {
                let mut payload = Vec::new();
                std::io::stdin().lock().read_to_end(&mut payload)?;
                Ok(payload)
            }
            (None, payload) => Ok(payload.unwrap_or_default().into()),
        }
    }

    fn job(&self, payload: Vec<u8>) -> Result<NewJob, Failure> {
        if self.content_type.is_none()
            && let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&payload)
        {
            let fix = "quote texts, or say what it is with --content-type";
            return Err(Failure::usage(format!("the payload is no JSON ({error}): {fix}")));
        }
        let options = &self.options;
        let mut job = NewJob::new(self.queue.as_str(), payload).priority(options.priority);
        if let Some(content_type) = &self.content_type {
            job = job.content_type(content_type);
        }
        if let Some(delay) = options.delay {
            job = job.delay(delay);
        }
        if let Some(run_at) = options.run_at {
            job = job.run_at(run_at.into());
        }
        if let Some(ttl) = options.ttl {
            job = job.ttl(ttl);
        }
        if let Some(max_attempts) = options.max_attempts {
            job = job.max_attempts(max_attempts);
        }
        if let Some(backoff) = &options.backoff {
            job = job.backoff(backoff.clone());
        }
        if let Some(timeout) = options.timeout {
            job = job.timeout(timeout);
        }
        Ok(options.ask(job))
    }

    async fn push_lines(&self, client: &Client, shared: &Shared) -> Result<(), Failure> {
        let progress = progress();
        let mut pushed = 0;
        let mut lines = std::io::stdin().lock().lines();
        loop {
            let jobs = lines.by_ref().take(BATCH).map(|line| self.job(line?.into_bytes()));
            let jobs: Vec<NewJob> = jobs.collect::<Result<_, _>>()?;
            if jobs.is_empty() {
                break;
            }
            for result in client.push_batch(jobs).await? {
                result.map_err(|error| {
                    let failure = Failure::from(error);
                    failure.after(&format!("{pushed} jobs were pushed"))
                })?;
                pushed += 1;
            }
            progress.set_position(pushed);
        }
        progress.finish_and_clear();
        shared.output.value(&json!({ "pushed": pushed }), &format!("{pushed} jobs pushed"))
    }
}

/// How many jobs were pushed, for a person who watches.
fn progress() -> ProgressBar {
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template("{spinner} {pos} jobs pushed, {per_sec}");
    let progress = ProgressBar::with_draw_target(None, target);
    match style {
        Ok(style) => progress.with_style(style),
        Err(_) => progress,
    }
}

fn parse_backoff(text: &str) -> Result<Backoff, String> {
    let wrong = || format!("{text:?} is no rule: write fixed:5s, list:1s,5s or exponential:1s..1h");
    let (kind, times) = text.split_once(':').ok_or_else(wrong)?;
    match kind {
        "fixed" => Ok(Backoff::fixed(parse_duration(times)?)),
        "list" => {
            let times: Vec<Duration> =
                times.split(',').map(parse_duration).collect::<Result<_, _>>()?;
            Ok(Backoff::list(times))
        }
        "exponential" => {
            let (base, max) = times.split_once("..").ok_or_else(wrong)?;
            Ok(Backoff::exponential(parse_duration(base)?, parse_duration(max)?, 0.5))
        }
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_is_written_as_its_kind_and_its_times() {
        for good in ["fixed:5s", "list:1s,5s", "exponential:1s..1h"] {
            assert!(parse_backoff(good).is_ok(), "{good}");
        }
        for bad in ["5s", "fixed:5", "list:", "exponential:1s", "random:1s"] {
            assert!(parse_backoff(bad).is_err(), "{bad}");
        }
    }
}

//! `batonq demo`: a broker in a temporary directory, and what it is for.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use batonq_client::{
    Backoff, Client, Failure as JobFailure, JobContext, JobId, NewJob, Outcome, PullOptions, State,
    Worker,
};
use batonq_server::config::{Config, Sources};
use batonq_server::node::Node;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::look::timeline_text;
use super::view::{EventRow, JobRow, QueueRow};
use crate::exit::Failure;
use crate::output::{say, table};

/// What the demo takes at most.
const PATIENCE: Duration = Duration::from_secs(30);

const QUEUES: [&str; 4] = ["mail", "report", "flaky", "hopeless"];

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {}

impl Demo {
    pub(crate) async fn run(self) -> Result<ExitCode, Failure> {
        let dir = tempfile::tempdir()?;
        let node = start(dir.path()).await?;
        let url = format!("tcp://{}", node.tcp_address());
        say(&format!("a broker serves {url}, its files are in {}", dir.path().display()))?;
        let client = Client::builder().url(&url).worker("demo").connect().await?;
        let jobs = push(&client).await?;
        vanish(&client).await?;
        let mut workers = work(&url).await?;
        finish(&client, &mut workers).await?;
        show(&client, &jobs).await?;
        let tally = tally(&client, &jobs).await?;
        workers.shutdown().await;
        client.close().await;
        node.stop().await;
        say(&format!(
            "demo: {} jobs completed, {} dead-lettered, {} lost",
            tally.completed, tally.dead, tally.lost
        ))?;
        Ok(if tally.lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

async fn start(dir: &std::path::Path) -> Result<Node, Failure> {
    let flags = [
        ("port", "0".to_owned()),
        ("http", "0".to_owned()),
        ("data_dir", dir.display().to_string()),
        ("node_id", "demo".to_owned()),
    ];
    let flags = flags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let config = Config::load(&Sources { flags, ..Sources::default() }).map_err(Failure::usage)?;
    Node::start(config).await.map_err(Failure::other)
}

/// The jobs of the demo, by queue.
type Pushed = BTreeMap<&'static str, Vec<JobId>>;

async fn push(client: &Client) -> Result<Pushed, Failure> {
    let mut pushed = Pushed::new();
    let mut add = async |queue: &'static str, jobs: Vec<NewJob>| -> Result<u32, Failure> {
        let mut duplicates = 0;
        for result in client.push_batch(jobs).await? {
            let result = result?;
            match result.outcome {
                Outcome::Inserted => pushed.entry(queue).or_default().push(result.id),
                _ => duplicates += 1,
            }
        }
        Ok(duplicates)
    };
    let mail = |number: usize| NewJob::json("mail", &json!({ "to": format!("user-{number}") }));
    let mails: Vec<NewJob> = (0..200).map(mail).collect::<Result<_, _>>()?;
    add("mail", mails).await?;
    let greeting = || mail(0).map(|job| job.unique("greeting of user-0"));
    let duplicates = add("mail", vec![greeting()?, greeting()?, greeting()?]).await?;
    let report = |number: i32| {
        let job = NewJob::json("report", &json!({ "pages": number }))?.priority(number % 3);
        let delay = Duration::from_millis(u64::from(number.unsigned_abs()) * 10);
        Ok::<_, Failure>(if number % 2 == 0 { job.delay(delay) } else { job })
    };
    add("report", (0..50).map(report).collect::<Result<_, _>>()?).await?;
    let soon = || Backoff::fixed(Duration::from_millis(100));
    let flaky = |number: i32| Ok(NewJob::json("flaky", &number)?.max_attempts(5).backoff(soon()));
    add("flaky", (0..20).map(flaky).collect::<Result<_, Failure>>()?).await?;
    let hopeless =
        |number: i32| Ok(NewJob::json("hopeless", &number)?.max_attempts(2).backoff(soon()));
    add("hopeless", (0..5).map(hopeless).collect::<Result<_, Failure>>()?).await?;
    let count: usize = pushed.values().map(Vec::len).sum();
    say(&format!(
        "{count} jobs pushed: plain, with priorities, delayed, unique ({duplicates} duplicates \
         refused), some that fail at first, some that always do"
    ))?;
    Ok(pushed)
}

/// A worker takes three jobs and is never heard from again.
async fn vanish(client: &Client) -> Result<(), Failure> {
    let pull = PullOptions::new("mail").count(3).lease(Duration::from_secs(1));
    let taken = client.pull(pull).await?.len();
    say(&format!("a worker took {taken} of them and vanished"))
}

async fn work(url: &str) -> Result<JoinSet<Result<(), batonq_client::Error>>, Failure> {
    let mut workers = JoinSet::new();
    for queue in QUEUES {
        let client = Client::builder().url(url).worker(format!("{queue}-worker")).connect().await?;
        workers.spawn(Worker::new(client, queue).concurrency(10).run(handle));
    }
    say("four workers go to work, ten jobs at a time each")?;
    Ok(workers)
}

async fn handle(job: JobContext) -> Result<String, JobFailure> {
    match &*job.queue {
        "flaky" if job.attempt <= 2 => {
            Err(JobFailure::new("CONNECTION_REFUSED", "the other side is not up yet"))
        }
        "hopeless" if job.payload == "0" => {
            Err(JobFailure::new("BAD_PAYLOAD", "nobody can do anything with this").reject())
        }
        "hopeless" => Err(JobFailure::new("NO_SUCH_USER", "it will not be there next time")),
        "report" => {
            job.progress(50, "rendered").await?;
            Ok(r#"{"url":"https://example.com/report.pdf"}"#.to_owned())
        }
        _ => Ok(r#""sent""#.to_owned()),
    }
}

/// Waits until nothing waits and nothing runs.
async fn finish(
    client: &Client,
    workers: &mut JoinSet<Result<(), batonq_client::Error>>,
) -> Result<(), Failure> {
    let until = Instant::now() + PATIENCE;
    loop {
        let queues = client.queues().await?;
        let left: u64 =
            queues.iter().map(|queue| queue.scheduled + queue.ready + queue.leased).sum();
        if left == 0 {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Failure::other(format!("{left} jobs are left after {PATIENCE:?}")));
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            Some(ended) = workers.join_next() => ended.map_err(Failure::other)??,
        }
    }
}

async fn show(client: &Client, jobs: &Pushed) -> Result<(), Failure> {
    let queues: Vec<QueueRow> = client.queues().await?.into_iter().map(Into::into).collect();
    say(&format!("\nall queues are done (batonq queues):\n{}", table(&queues)))?;
    let filter = batonq_client::JobFilter { state: State::Dead.into(), ..<_>::default() };
    let dead: Vec<JobRow> = client.jobs(filter).await?.jobs.into_iter().map(Into::into).collect();
    say(&format!("\nthe dead letter queue (batonq dlq ls):\n{}", table(&dead)))?;
    let first = |queue: &str| jobs.get(queue).and_then(|ids| ids.first().copied());
    for (title, id) in [
        ("a job that failed at first (batonq timeline)", first("flaky")),
        ("a job whose worker vanished", first("mail")),
    ] {
        let Some(id) = id else { continue };
        let timeline = client.timeline(id).await?;
        let rows: Vec<EventRow> = timeline.events.into_iter().map(Into::into).collect();
        let text = timeline_text(&timeline.job.unwrap_or_default(), &rows);
        say(&format!("\n{title}:\n{text}"))?;
    }
    say("")
}

/// What became of the jobs that were pushed.
#[derive(Default)]
struct Tally {
    completed: u32,
    dead: u32,
    lost: u32,
}

async fn tally(client: &Client, jobs: &Pushed) -> Result<Tally, Failure> {
    let mut tally = Tally::default();
    for id in jobs.values().flatten() {
        match client.job(*id).await.map(|job| job.state()) {
            Ok(State::Completed) => tally.completed += 1,
            Ok(State::Dead) => tally.dead += 1,
            Ok(_) | Err(_) => tally.lost += 1,
        }
    }
    Ok(tally)
}

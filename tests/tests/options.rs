//! Each option of a job together with each other one, on a server that is killed at any moment.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use batonq_client::{
    Backoff, Client, Failure, JobDetail, KeyUse, NewJob, Outcome, PullOptions, State, key_use,
};
use batonq_tests::harness::cluster::is_ready;
use batonq_tests::harness::{Postgres, Server, ServerBuilder, eventually, stop_all};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

const ROUNDS: usize = 20;
const HOUR: Duration = Duration::from_secs(3600);
const DELAY: Duration = Duration::from_millis(200);
const AT_ONCE: usize = 2;
const IN_A_SECOND: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Choice {
    After,
    Attempts,
    Backoff,
    Concurrency,
    Debounce,
    Delay,
    Idempotency,
    Priority,
    Rate,
    Share,
    Tag,
    Timeout,
    Ttl,
    Unique,
    Window,
}

use Choice::{
    After, Attempts, Concurrency, Debounce, Delay, Idempotency, Priority, Rate, Share, Tag,
    Timeout, Ttl, Unique, Window,
};

const ALL: [Choice; 15] = [
    After,
    Attempts,
    Choice::Backoff,
    Concurrency,
    Debounce,
    Delay,
    Idempotency,
    Priority,
    Rate,
    Share,
    Tag,
    Timeout,
    Ttl,
    Unique,
    Window,
];

/// Of each of these a job has one at most.
const EITHER_OR: [&[Choice]; 2] = [&[Debounce, Unique, Window], &[Concurrency, Share]];

type Pair = [Choice; 2];

fn pairs() -> Vec<Pair> {
    let all =
        ALL.iter().enumerate().flat_map(|(at, one)| ALL[at + 1..].iter().map(|two| [*one, *two]));
    let is_possible = |pair: &Pair| {
        !EITHER_OR.iter().any(|group| pair.iter().all(|choice| group.contains(choice)))
    };
    all.filter(is_possible).collect()
}

/// A job as it was pushed.
#[derive(Debug, Clone)]
struct Wish {
    pair: Pair,
    number: usize,
    after: u64,
}

impl Wish {
    fn has(&self, choice: Choice) -> bool {
        self.pair.contains(&choice)
    }

    fn key(&self) -> String {
        format!("key-{}", self.number)
    }

    fn job(&self) -> NewJob {
        let put = |job: NewJob, choice: &Choice| match choice {
            After => job.after(self.after),
            Attempts => job.max_attempts(3),
            Choice::Backoff => job.backoff(Backoff::fixed(Duration::from_millis(30))),
            Concurrency => job.concurrency("few", AT_ONCE as u32),
            Debounce => job.debounce(self.key()),
            Delay => job.delay(DELAY),
            Idempotency => job.idempotency_key(self.key()),
            Priority => job.priority(7),
            Rate => job.rate("slow", IN_A_SECOND, Duration::from_secs(1)),
            Share => job.fair_share("tenant"),
            Tag => job.tag("tag"),
            Timeout => job.timeout(HOUR),
            Ttl => job.ttl(HOUR),
            Unique => job.unique(self.key()),
            Window => job.unique_for(self.key(), HOUR),
        };
        self.pair.iter().fold(NewJob::new("q", self.number.to_string()), put)
    }

    /// Whether a job has this choice, as far as it shows.
    fn shows(&self, choice: Choice, job: &JobDetail) -> bool {
        let millis = |time: Duration| Some(time.as_millis() as u64);
        match choice {
            After => job.depends_on == [self.after],
            Attempts => job.max_attempts == 3,
            Choice::Backoff => job.backoff.is_some(),
            Concurrency => {
                job.concurrency.as_ref().is_some_and(|it| it.max == Some(AT_ONCE as u32))
            }
            Debounce => job.unique_debounce && job.unique_key == self.key(),
            // It shows in when the job runs.
            Delay => true,
            Idempotency => job.idempotency_key == self.key(),
            Priority => job.priority == 7,
            Rate => job.rate.as_ref().is_some_and(|it| it.limit == IN_A_SECOND),
            Share => job.concurrency.as_ref().is_some_and(|it| it.key == "tenant"),
            Tag => job.tags == ["tag"],
            Timeout => job.timeout_ms == millis(HOUR),
            Ttl => job.expires_at_ms == Some(job.created_at_ms + 3_600_000),
            Unique => job.unique_key == self.key() && job.unique_window_ms.is_none(),
            Window => job.unique_key == self.key() && job.unique_window_ms == millis(HOUR),
        }
    }

    /// What a push of the same must come to, if not to another job.
    fn again(&self, state: State) -> Option<Outcome> {
        let is_live = !matches!(state, State::Completed | State::Dead | State::Cancelled);
        match () {
            () if self.has(Idempotency) => Some(Outcome::Repeated),
            () if self.has(Window) => Some(Outcome::Throttled),
            () if self.has(Unique) && is_live => Some(Outcome::Duplicate),
            () => None,
        }
    }
}

/// What clients were told, and what is to be pushed next.
#[derive(Default)]
struct Told {
    pushed: BTreeMap<u64, Wish>,
    acked: HashSet<u64>,
    pairs: Vec<Pair>,
    next: usize,
}

impl Told {
    fn wishes(&mut self, rng: &mut StdRng) -> Vec<Wish> {
        let ids: Vec<u64> = self.pushed.keys().copied().collect();
        let mut wish = || {
            self.next += 1;
            let pair = self.pairs[self.next % self.pairs.len()];
            Wish { pair, number: self.next, after: ids[rng.random_range(0..ids.len())] }
        };
        (0..5).map(|_| wish()).collect()
    }

    fn has_all_pairs(&self) -> bool {
        let seen: HashSet<Pair> = self.pushed.values().map(|wish| wish.pair).collect();
        seen.len() == self.pairs.len()
    }
}

async fn produce(client: Client, told: Arc<Mutex<Told>>, mut rng: StdRng) {
    loop {
        let wishes = told.lock().wishes(&mut rng);
        let Ok(results) = client.push_batch(wishes.iter().map(Wish::job).collect()).await else {
            return;
        };
        let ids = results.into_iter().map(|pushed| pushed.expect("it is valid").id.0);
        told.lock().pushed.extend(ids.zip(wishes));
    }
}

async fn consume(client: Client, told: Arc<Mutex<Told>>, mut rng: StdRng) {
    loop {
        // What the dead leave is free again soon.
        let pull = PullOptions::new("q").count(4).lease(Duration::from_secs(1));
        let Ok(jobs) = client.pull(pull).await else { return };
        for job in jobs {
            assert!(!told.lock().acked.contains(&job.id.0), "job {} came back", job.id);
            let failure = Failure::new("NO", "by chance").retry_in(Duration::from_millis(10));
            let settled = match rng.random_range(0..10) {
                0 => client.fail(&job, failure).await,
                1 => client.release(&job).await,
                2 => client.snooze(&job, Duration::from_millis(20)).await,
                // It is left to the kill.
                3 => continue,
                _ => match client.ack(&job).await {
                    Ok(()) => {
                        told.lock().acked.insert(job.id.0);
                        Ok(())
                    }
                    refused => refused,
                },
            };
            if settled.is_err() {
                return;
            }
        }
    }
}

async fn assert_slots_are_kept(client: &Client) {
    for used in client.keys("q").await.expect("they can be listed") {
        if let KeyUse { key, limit: Some(key_use::Limit::Concurrency(slots)), .. } = used {
            assert!(key != "few" || slots.holders.len() <= AT_ONCE, "{slots:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_option_with_each_other_one_survives_kills_on_an_embedded_store() {
    each_pair_survives_kills(Server::with()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_option_with_each_other_one_survives_kills_on_postgres() {
    let postgres = Postgres::start();
    each_pair_survives_kills(Server::with().env("DATABASE_URL", &postgres.dsn())).await;
}

async fn each_pair_survives_kills(server: ServerBuilder) {
    let seed: u64 = rand::random();
    #[expect(clippy::print_stderr, reason = "what a failed test needs to be understood")]
    {
        eprintln!("seed {seed}");
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut server = server.env("BATONQ_RECONNECT_GRACE", "100ms").start();
    is_ready(&server).await;
    let mut told = Told { pairs: pairs(), ..Told::default() };
    told.pairs.shuffle(&mut rng);
    let first = Wish { pair: [Priority, Tag], number: 0, after: 0 };
    let id = server.client().await.push(first.job()).await.expect("it answers").id.0;
    told.pushed.insert(id, first);
    let told = Arc::new(Mutex::new(told));
    let mut round = 0;
    while round < ROUNDS || !told.lock().has_all_pairs() {
        let mut work = tokio::task::JoinSet::new();
        let (one, two) = (server.client().await, server.client().await);
        assert_slots_are_kept(&one).await;
        work.spawn(produce(one, Arc::clone(&told), StdRng::from_rng(&mut rng)));
        work.spawn(consume(two, Arc::clone(&told), StdRng::from_rng(&mut rng)));
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..120))).await;
        server.kill();
        stop_all(work).await;
        server = server.restart();
        is_ready(&server).await;
        round += 1;
    }
    let told = std::mem::take(&mut *told.lock());
    let client = server.client().await;
    check_what_is_kept(&client, &told).await;
    finish(&client).await;
    check_what_came_of_it(&client, &told).await;
}

async fn check_what_is_kept(client: &Client, told: &Told) {
    for (id, wish) in &told.pushed {
        let job = client.job(*id).await;
        let job = job.unwrap_or_else(|error| panic!("job {id} is lost: {error}"));
        for choice in wish.pair {
            assert!(wish.shows(choice, &job), "{choice:?} is lost: {wish:?} {job:?}");
        }
        if let Some(expected) = wish.again(job.state()) {
            let again = client.push(wish.job()).await.expect("it answers");
            assert_eq!((again.id.0, again.outcome), (*id, expected), "{wish:?} {job:?}");
        }
    }
}

/// Works on all there is.
async fn finish(client: &Client) {
    eventually("all jobs have ended", async || {
        let wait = Duration::from_millis(100);
        let jobs =
            client.pull(PullOptions::new("q").count(50).wait(wait)).await.expect("it answers");
        assert_slots_are_kept(client).await;
        if !jobs.is_empty() {
            client.ack_batch(jobs).await.expect("it answers");
        }
        let queue = client.queue("q").await.expect("it answers");
        (queue.scheduled + queue.blocked + queue.ready + queue.leased == 0).then_some(())
    })
    .await;
    assert_eq!(client.keys("q").await.expect("it answers"), []);
}

async fn check_what_came_of_it(client: &Client, told: &Told) {
    let mut starts = Vec::new();
    for (id, wish) in &told.pushed {
        let timeline = client.timeline(*id).await.expect("it answers");
        let job = timeline.job.expect("it is there");
        let is_right = match job.reason.as_str() {
            "" => job.state() == State::Completed,
            "MAX_ATTEMPTS_EXCEEDED" => wish.has(Attempts) && job.attempt == 3,
            "POISON" => job.crashes == 5,
            "DEPENDENCY_FAILED" => wish.has(After),
            _ => false,
        };
        assert!(is_right, "{wish:?} {job:?}");
        assert!(job.state() == State::Completed || !told.acked.contains(id), "{job:?}");
        let began: Vec<i64> = timeline.attempts.iter().map(|it| it.started_at_ms).collect();
        let delay = began.first().map(|began| began - job.created_at_ms);
        assert!(!wish.has(Delay) || delay.is_none_or(|it| it >= 200), "{wish:?} {job:?}");
        starts.extend(began.into_iter().filter(|_| wish.has(Rate)));
    }
    // The burst, what a second lets in, and one for what comes late.
    let most = (IN_A_SECOND / 4 + IN_A_SECOND + 1) as usize;
    starts.sort_unstable();
    let too_many = starts.windows(most + 1).find(|starts| starts[most] - starts[0] < 1000);
    assert_eq!(too_many, None);
}

//! Each mutant is wrong in the way that its name says, and nothing else is.
//!
//! Every test does the same to a cluster as it should be and to one of the mutant, and sees the
//! difference at the front door or in the tables. That they are noticed under load by who does not
//! know where to look is another matter.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use batonq_client::{NewJob, Schedule};
use batonq_server::mutants::Mutant;
use batonq_tests::harness::cluster::{ack, pull, push};
use batonq_tests::harness::{Cluster, Http, Postgres, batonq, eventually};
use serde_json::{Value, json};
use tokio_postgres::Client as Session;

/// Long enough for whatever must happen, in milliseconds.
const LONG: u64 = 15_000;

/// Nodes in a schema of their own.
struct Ground {
    cluster: Cluster,
    schema: String,
}

impl Ground {
    async fn new(mutant: Option<Mutant>, count: usize) -> Self {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        let schema = format!("s{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
        let name = mutant.map_or("", Mutant::name);
        let settings = [("BATONQ_SCHEMA", schema.as_str()), ("BATONQ_MUTANT", name)];
        let cluster = Cluster::on(Postgres::shared(), count, &settings).await;
        Self { cluster, schema }
    }

    fn http(&self) -> Http {
        self.cluster.http(0)
    }

    /// A session that sees the tables.
    async fn session(&self) -> Session {
        let session = self.cluster.postgres.client().await;
        let sql = format!("SET search_path = {}", self.schema);
        session.batch_execute(&sql).await.expect("the schema is there");
        session
    }

    async fn count(&self, sql: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {sql}");
        self.session().await.query_one(&sql, &[]).await.expect("a number").get(0)
    }

    /// How many sessions wait for a row of a table.
    async fn waiting(&self, table: &str) -> i64 {
        let table = format!("'{}.{table}'", self.schema);
        let locks = format!("pg_locks WHERE locktype = 'tuple' AND relation = {table}::regclass");
        self.count(&locks).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let reply = self.http().post(path, body).await;
        assert!(reply.status < 300, "{path}: {}", reply.text);
        reply.json()
    }

    async fn state(&self, job: u64) -> String {
        let job = self.http().get(&format!("/v1/jobs/{job}")).await.json();
        job["state"].as_str().unwrap_or("unknown").to_owned()
    }

    /// The only job of a queue, pulled.
    async fn pull_one(&self, queue: &str) -> Value {
        let mut jobs = pull(&self.http(), queue, 1, LONG).await;
        jobs.pop().expect("a job is ready")
    }

    async fn release(&self, job: &Value) {
        let path = format!("/v1/jobs/{}/release", job["id"]);
        self.post(&path, json!({"lease": job["lease"]})).await;
    }

    /// It failed, and may go round again at once.
    async fn fail(&self, job: &Value) {
        let path = format!("/v1/jobs/{}/fail", job["id"]);
        let error = json!({"code": "NO", "message": "no"});
        let body = json!({"lease": job["lease"], "error": error, "retry_in_ms": 0});
        self.post(&path, body).await;
    }
}

async fn execute(session: &Session, sql: &str) {
    session.batch_execute(sql).await.expect("the statements are good");
}

/// Clusters of one node.
async fn right_and_wrong(mutant: Mutant) -> [Ground; 2] {
    right_and_wrong_of(mutant, 1).await
}

async fn right_and_wrong_of(mutant: Mutant, count: usize) -> [Ground; 2] {
    [Ground::new(None, count).await, Ground::new(Some(mutant), count).await]
}

/// A job's first lease has ended and its second one lives: whether an ack of the first is accepted,
/// what has become of the job, and whether an ack of the second is accepted after it.
async fn ack_twice(ground: &Ground) -> (bool, String, bool) {
    let http = ground.http();
    let id = push(&http, "q", json!(1)).await;
    let first = ground.pull_one("q").await;
    ground.release(&first).await;
    let second = ground.pull_one("q").await;
    assert_eq!(second["delivery"], 2);
    let is_accepted = ack(&http, &first).await < 300;
    (is_accepted, ground.state(id).await, ack(&http, &second).await < 300)
}

#[tokio::test]
async fn skip_delivery_check_lets_an_earlier_lease_ack() {
    let [right, wrong] = right_and_wrong(Mutant::SkipDeliveryCheck).await;
    assert_eq!(ack_twice(&right).await, (false, "leased".into(), true));
    assert_eq!(ack_twice(&wrong).await, (true, "completed".into(), true));
}

#[tokio::test]
async fn accept_lost_lease_says_yes_to_both_leases() {
    let [right, wrong] = right_and_wrong(Mutant::AcceptLostLease).await;
    assert_eq!(ack_twice(&right).await, (false, "leased".into(), true));
    assert_eq!(ack_twice(&wrong).await, (true, "leased".into(), true));
}

/// Whether a leader that is deposed by an election that it does not know of writes after it.
async fn a_deposed_leader_writes(ground: &Ground) -> bool {
    let session = ground.session().await;
    let row = session.query_one("SELECT token::text FROM leader", &[]).await;
    let row = row.expect("there is one");
    let token: String = row.get(0);
    let elect = "BEGIN; UPDATE leader SET token = gen_random_uuid(), epoch = epoch + 1";
    execute(&session, elect).await;
    let id = ground.post("/v1/queues/q/jobs", json!({"payload": 1, "delay_ms": 1})).await["id"]
        .as_u64()
        .expect("an id");
    eventually("a duty waits for the election, and the job is due", async || {
        let is_due = format!("scheduled WHERE job_id = {id} AND run_at + 100 < now_ms()");
        (ground.waiting("leader").await > 0 && ground.count(&is_due).await > 0).then_some(())
    })
    .await;
    let before = ground.count("audit").await;
    execute(&session, "COMMIT").await;
    ground.pull_one("q").await;
    let later = format!("(SELECT token FROM audit ORDER BY id OFFSET {before}) a");
    ground.count(&format!("{later} WHERE token::text = '{token}'")).await > 0
}

#[tokio::test]
async fn skip_fence_writes_after_another_election() {
    let [right, wrong] = right_and_wrong(Mutant::SkipFence).await;
    assert!(!a_deposed_leader_writes(&right).await);
    assert!(a_deposed_leader_writes(&wrong).await);
}

/// Whether a duty is done while an election is in the middle of its write.
async fn a_duty_passes_an_election(ground: &Ground) -> bool {
    let session = ground.session().await;
    execute(&session, "BEGIN; UPDATE leader SET epoch = epoch + 1").await;
    let pushed = ground.post("/v1/queues/q/jobs", json!({"payload": 1, "delay_ms": 1})).await;
    let passed = eventually("the duty is done, or waits", async || {
        if ground.state(pushed["id"].as_u64().expect("an id")).await == "ready" {
            return Some(true);
        }
        (ground.waiting("leader").await > 0).then_some(false)
    })
    .await;
    execute(&session, "ROLLBACK").await;
    passed
}

#[tokio::test]
async fn drop_for_share_does_not_make_elections_and_duties_wait_for_each_other() {
    let [right, wrong] = right_and_wrong(Mutant::DropForShare).await;
    assert!(!a_duty_passes_an_election(&right).await);
    assert!(a_duty_passes_an_election(&wrong).await);
}

#[tokio::test]
async fn early_recovery_robs_a_worker_that_has_an_hour_left() {
    let [right, wrong] = right_and_wrong(Mutant::EarlyRecovery).await;
    for (ground, wait_ms, count) in [(right, 700, 0), (wrong, LONG, 1)] {
        push(&ground.http(), "q", json!(1)).await;
        let body = json!({"lease_ms": 3_500_000});
        let first = ground.post("/v1/queues/q/pull", body).await["jobs"][0].clone();
        assert_eq!(first["delivery"], 1);
        assert_eq!(pull(&ground.http(), "q", 1, wait_ms).await.len(), count);
    }
}

#[tokio::test]
async fn reply_before_commit_says_yes_to_what_is_rolled_back() {
    let [right, wrong] = right_and_wrong(Mutant::ReplyBeforeCommit).await;
    for (ground, status) in [(&right, 503), (&wrong, 201)] {
        let session = ground.session().await;
        let fail_at_commit = "
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE 'no room'; END $$;
            CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON job DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION fail()";
        execute(&session, fail_at_commit).await;
        let reply = ground.http().post("/v1/queues/q/jobs", json!({"payload": 1})).await;
        assert_eq!(reply.status, status, "{}", reply.text);
        execute(&session, "DROP FUNCTION fail() CASCADE").await;
        assert_eq!(ground.count("job").await, 0);
    }
}

/// What a claim that was cut off in the middle leaves behind: how many jobs are found after it.
async fn found_behind_the_cursor(ground: &Ground, wait_ms: u64) -> usize {
    let http = ground.http();
    push(&http, "q", json!(0)).await;
    assert!(ack(&http, &ground.pull_one("q").await).await < 300, "the queue is known now");
    let passed_over = push(&http, "q", json!(1)).await;
    let other = push(&http, "q", json!(2)).await;
    let claim = ground.session().await;
    let lock = format!("BEGIN; SELECT FROM ready WHERE job_id = {passed_over} FOR UPDATE");
    execute(&claim, &lock).await;
    let jobs = pull(&http, "q", 2, 0).await;
    assert_eq!((jobs.len(), &jobs[0]["id"]), (1, &json!(other)));
    execute(&claim, "ROLLBACK").await;
    let found = pull(&http, "q", 1, wait_ms).await.len();
    if found == 0 {
        assert_eq!(ground.state(passed_over).await, "ready");
    }
    found
}

#[tokio::test]
async fn cursor_without_full_look_leaves_behind_what_nobody_has_told() {
    let [right, wrong] = right_and_wrong(Mutant::CursorWithoutFullLook).await;
    assert_eq!(found_behind_the_cursor(&right, LONG).await, 1);
    assert_eq!(found_behind_the_cursor(&wrong, 2_500).await, 0);
}

/// How many jobs there are more than slots.
async fn jobs_beyond_slots(ground: &Ground) -> i64 {
    ground.count("job").await - ground.count("cron_fire").await
}

/// So many nodes fire the same slot at the same moment.
async fn fire_at_once(ground: &Ground, firing: i64) {
    let client = ground.cluster.nodes[0].client().await;
    let schedule = Schedule::new("often", "@every 1s", NewJob::new("q", "{}"));
    client.put_schedule(schedule).await.expect("it is good");
    eventually("the schedule is known to all", async || {
        (ground.count("job").await >= 2 * firing).then_some(())
    })
    .await;
    // All who fire get as far as this lock, for the same slot.
    let session = ground.session().await;
    execute(&session, "BEGIN; SELECT FROM cron FOR UPDATE").await;
    eventually("all who fire wait", async || {
        (ground.waiting("cron").await >= firing).then_some(())
    })
    .await;
    execute(&session, "COMMIT").await;
    client.pause_schedule("often").await.expect("it is there");
}

#[tokio::test]
async fn follower_fires_cron_makes_two_jobs_of_a_slot() {
    let [right, wrong] = right_and_wrong_of(Mutant::FollowerFiresCron, 2).await;
    fire_at_once(&right, 1).await;
    assert_eq!(jobs_beyond_slots(&right).await, 0);
    fire_at_once(&wrong, 2).await;
    eventually("a slot with two jobs", async || {
        (jobs_beyond_slots(&wrong).await > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn push_twice_stores_a_job_that_nobody_knows_of() {
    let [right, wrong] = right_and_wrong(Mutant::PushTwice).await;
    for (ground, count) in [(right, 1), (wrong, 2)] {
        push(&ground.http(), "q", json!(1)).await;
        assert_eq!(pull(&ground.http(), "q", 10, LONG).await.len(), count);
    }
}

#[tokio::test]
async fn ignore_idempotency_key_makes_two_jobs_of_one_push() {
    let [right, wrong] = right_and_wrong(Mutant::IgnoreIdempotencyKey).await;
    for (ground, is_same) in [(right, true), (wrong, false)] {
        let body = json!({"payload": 1, "idempotency_key": "k"});
        let first = ground.post("/v1/queues/q/jobs", body.clone()).await;
        let second = ground.post("/v1/queues/q/jobs", body).await;
        assert_eq!(first["id"] == second["id"], is_same, "{first} {second}");
    }
}

#[tokio::test]
async fn due_too_early_does_not_wait_for_half_an_hour() {
    let [right, wrong] = right_and_wrong(Mutant::DueTooEarly).await;
    for (ground, state) in [(right, "scheduled"), (wrong, "ready")] {
        let path = "/v1/queues/late/jobs";
        let late = ground.post(path, json!({"payload": 1, "delay_ms": 1_800_000})).await;
        ground.post("/v1/queues/soon/jobs", json!({"payload": 1, "delay_ms": 50})).await;
        ground.pull_one("soon").await;
        assert_eq!(ground.state(late["id"].as_u64().unwrap()).await, state);
    }
}

#[tokio::test]
async fn ignore_limits_leases_two_jobs_of_a_key_that_may_have_one() {
    let [right, wrong] = right_and_wrong(Mutant::IgnoreLimits).await;
    for (ground, count) in [(right, 0), (wrong, 1)] {
        for number in 0..2 {
            let body = json!({"payload": number, "concurrency": {"key": "k", "max": 1}});
            ground.post("/v1/queues/q/jobs", body).await;
        }
        ground.pull_one("q").await;
        assert_eq!(pull(&ground.http(), "q", 1, 0).await.len(), count);
    }
}

#[tokio::test]
async fn uncounted_ending_begins_the_same_attempt_again() {
    let [right, wrong] = right_and_wrong(Mutant::UncountedEnding).await;
    for (ground, attempt) in [(right, 2), (wrong, 1)] {
        push(&ground.http(), "q", json!(1)).await;
        ground.fail(&ground.pull_one("q").await).await;
        let again = ground.pull_one("q").await;
        assert_eq!((&again["delivery"], &again["attempt"]), (&json!(2), &json!(attempt)));
    }
}

#[tokio::test]
async fn same_delivery_gives_the_same_token_twice() {
    let [right, wrong] = right_and_wrong(Mutant::SameDelivery).await;
    for (ground, delivery) in [(right, 3), (wrong, 1)] {
        push(&ground.http(), "q", json!(1)).await;
        let first = ground.pull_one("q").await;
        ground.release(&first).await;
        ground.release(&ground.pull_one("q").await).await;
        let last = ground.pull_one("q").await;
        assert_eq!(last["delivery"], delivery);
        assert_eq!(last["lease"] == first["lease"], delivery == 1);
    }
}

#[tokio::test]
async fn unlogged_ending_leaves_no_trace_of_a_failure() {
    let [right, wrong] = right_and_wrong(Mutant::UnloggedEnding).await;
    for (ground, count) in [(right, 1), (wrong, 0)] {
        let id = push(&ground.http(), "q", json!(1)).await;
        ground.fail(&ground.pull_one("q").await).await;
        assert_eq!(ground.pull_one("q").await["attempt"], 2);
        let timeline = ground.http().get(&format!("/v1/jobs/{id}/timeline")).await.json();
        let attempts = timeline["attempts"].as_array().unwrap();
        let failed = attempts.iter().filter(|attempt| attempt["ending"] == "failed").count();
        assert_eq!(failed, count, "{timeline}");
    }
}

#[tokio::test]
async fn ack_leaves_row_of_a_job_that_is_completed() {
    let [right, wrong] = right_and_wrong(Mutant::AckLeavesRow).await;
    for (ground, count) in [(right, 0), (wrong, 1)] {
        let id = push(&ground.http(), "q", json!(1)).await;
        assert!(ack(&ground.http(), &ground.pull_one("q").await).await < 300);
        assert_eq!(ground.count(&format!("finished WHERE id = {id}")).await, 1);
        assert_eq!(ground.count(&format!("job WHERE id = {id}")).await, count);
    }
}

#[tokio::test]
async fn a_mutant_says_what_it_is() {
    let [right, wrong] = right_and_wrong(Mutant::SkipFence).await;
    let version = async |ground: &Ground| {
        let health = ground.http().get("/health").await.json();
        let nodes = ground.cluster.nodes_seen_by(0).await;
        assert_eq!(health["version"], nodes["nodes"][0]["version"]);
        health["version"].as_str().expect("a text").to_owned()
    };
    let plain = env!("CARGO_PKG_VERSION");
    assert_eq!(version(&right).await, plain);
    assert_eq!(version(&wrong).await, format!("{plain}+mutant.skip-fence"));
    let log = wrong.cluster.nodes[0].log();
    let warning = log.lines().find(|line| line.contains("WRONG ON PURPOSE")).unwrap();
    assert!(warning.contains("WARN") && warning.contains("skip-fence"), "{warning}");
    assert!(!right.cluster.nodes[0].log().contains("WRONG ON PURPOSE"));
}

#[test]
fn a_mutant_that_there_is_not_stops_the_start_and_a_build_with_mutants_says_so() {
    let mut serve = batonq();
    serve.arg("serve").env("DATABASE_URL", "postgres://h/d").env("BATONQ_MUTANT", "skip-all");
    let out = serve.output().expect("the program starts");
    let told = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && told.contains("skip-fence, drop-for-share"), "{told}");
    let out = batonq().arg("--version").output().expect("the program starts");
    assert!(String::from_utf8_lossy(&out.stdout).trim_end().ends_with("with mutants"));
}

/// The features that cargo turns on, for what it builds with these arguments.
fn features(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut tree = Command::new(cargo);
    tree.args(["tree", "--locked", "--edges", "features,normal,build"]);
    let out = tree.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let out = out.expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// `cargo build --release` builds the default members; the image, the package batonq.
#[test]
fn what_is_released_has_no_mutants() {
    let has_mutants = |tree: &str| tree.contains("batonq-server feature \"mutants\"");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    for arguments in [&["--manifest-path", root][..], &["-p", "batonq"], &["-p", "batonq-verify"]] {
        let tree = features(arguments);
        assert!(tree.contains("batonq"), "{tree}");
        assert!(!has_mutants(&tree), "{arguments:?}: {tree}");
    }
    assert!(has_mutants(&features(&["-p", "batonq-tests"])), "else this would see none anyway");
}

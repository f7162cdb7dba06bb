//! Jobs that are pushed together on Postgres: how long they are one row.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use batonq_server::clock::ManualClock;
use batonq_server::job::{
    Depends, FailureCode, JobId, NewJob, OnFailure, Options, Payload, QueueName, State, When,
    WorkerName,
};
use batonq_server::store::{
    Cancelled, Claim, Claimed, Duty, Hold, LeasedJob, Retention, Retry, SessionId, Settled,
    Settlement, Store, Verdict,
};
use batonq_tests::consistency;
use batonq_tests::harness::Cluster;
use batonq_tests::stores::{Maker, Schema, Shared};
use bytes::Bytes;

const ACKED: Verdict = Verdict::Ack { result: None };

const SECOND: Duration = Duration::from_secs(1);

async fn node() -> (Schema, Arc<dyn Store>) {
    let (home, [store, _]) = two_nodes().await;
    (home, store)
}

async fn two_nodes() -> (Schema, [Arc<dyn Store>; 2]) {
    let (home, _, nodes) = two_nodes_on_a_clock().await;
    (home, nodes)
}

async fn two_nodes_on_a_clock() -> (Schema, Arc<ManualClock>, [Arc<dyn Store>; 2]) {
    let (home, clock) = (Shared::home(), ManualClock::new());
    let one = Shared::open(&home, &clock, Retention::default()).await;
    let other = Shared::open(&home, &clock, Retention::default()).await;
    (home, clock, [one, other])
}

async fn push(store: &Arc<dyn Store>, count: usize) -> Vec<JobId> {
    push_for(store, count, When::Now).await
}

async fn push_for(store: &Arc<dyn Store>, count: usize, when: When) -> Vec<JobId> {
    let payload = Payload::new(Bytes::from_static(b"{}")).unwrap();
    let job = NewJob { when, ..NewJob::new(QueueName::parse("q").unwrap(), payload) };
    let pushed = store.push(vec![job; count]).await.unwrap();
    pushed.into_iter().filter_map(|pushed| pushed.id()).collect()
}

/// A claim of so many jobs that is content with fewer.
fn claim(count: usize, enough: usize) -> Claim {
    Claim {
        queue: QueueName::parse("q").unwrap(),
        count,
        enough,
        bytes_max: usize::MAX,
        worker: WorkerName::parse("w").unwrap(),
        hold: Hold::Session(SessionId(1)),
    }
}

async fn claimed(store: &Arc<dyn Store>, count: usize) -> Vec<LeasedJob> {
    store.claim(vec![claim(count, count)]).await.unwrap().jobs.remove(0)
}

/// How many jobs each claim got.
fn shares(claimed: &Claimed) -> Vec<usize> {
    claimed.jobs.iter().map(Vec::len).collect()
}

async fn client(home: &Schema) -> tokio_postgres::Client {
    let client = home.server.client().await;
    client.batch_execute(&format!("SET search_path = {}", home.name)).await.unwrap();
    client
}

/// Live jobs that have rows, live jobs in runs, completed ones that have rows, completed ones in runs.
async fn rows(home: &Schema) -> [i64; 4] {
    let client = client(home).await;
    let sql = "SELECT
            (SELECT count(*) FROM job),
            (SELECT coalesce(sum(count), 0)::bigint FROM run WHERE finished_at IS NULL),
            (SELECT count(*) FROM finished WHERE state = 'completed'),
            (SELECT coalesce(sum(count), 0)::bigint FROM run WHERE finished_at IS NOT NULL)";
    let row = client.query_one(sql, &[]).await.unwrap();
    [0, 1, 2, 3].map(|column| row.get(column))
}

/// Rows of jobs that wait for a time, and of those that stand in line.
async fn waiting_rows(home: &Schema) -> [i64; 2] {
    let sql = "SELECT (SELECT count(*) FROM scheduled), (SELECT count(*) FROM ready)";
    let row = client(home).await.query_one(sql, &[]).await.unwrap();
    [row.get(0), row.get(1)]
}

/// All that is due becomes ready. The answer: how many that are.
async fn make_ready(home: &Schema, store: &Arc<dyn Store>) -> usize {
    let mut count = 0;
    loop {
        match store.run_duty(&Shared::term(home), Duty::Due).await.unwrap().effects.len() {
            0 => return count,
            more => count += more,
        }
    }
}

/// One in twenty is given back, the others are acked.
fn is_given_back(place: &usize) -> bool {
    place % 20 == 7
}

/// Every other job that is acked has a result.
fn result(place: usize) -> Option<Bytes> {
    place.is_multiple_of(2).then(|| Bytes::from(place.to_string()))
}

/// Ends leases, by their places.
async fn settle(store: &Arc<dyn Store>, held: &[LeasedJob], places: impl Iterator<Item = usize>) {
    let settlement = |place: usize| {
        let verdict = match is_given_back(&place) {
            true => Verdict::Release,
            false => Verdict::Ack { result: result(place) },
        };
        Settlement { lease: held[place].lease, verdict }
    };
    let settled = store.settle(places.map(settlement).collect()).await.unwrap().settled;
    assert!(settled.iter().all(|settled| matches!(settled, Settled::Done(_))), "{settled:?}");
}

#[tokio::test]
async fn claims_that_are_content_with_less_do_not_divide_them() {
    let (_home, store) = node().await;
    let ids = push(&store, 600).await;
    // They stand in line as 250, 250 and 100.
    let first = store.claim(vec![claim(300, 150)]).await.unwrap();
    assert_eq!((shares(&first), first.content.as_slice()), (vec![250], [0].as_slice()));
    let others = store.claim(vec![claim(200, 100), claim(300, 150)]).await.unwrap();
    assert_eq!((shares(&others), others.content.is_empty()), (vec![200, 150], true));
    let all = first.jobs.iter().chain(&others.jobs).flatten();
    assert_eq!(all.map(|job| job.lease.job).collect::<Vec<_>>(), ids, "the order of the line");
}

#[tokio::test]
async fn who_wants_all_gets_all_that_are_there() {
    let (_home, store) = node().await;
    push(&store, 600).await;
    let claimed = store.claim(vec![claim(10, 10), claim(300, 300), claim(400, 1)]).await.unwrap();
    assert_eq!((shares(&claimed), claimed.content.is_empty()), (vec![10, 300, 290], true));
}

#[tokio::test]
async fn who_is_content_does_not_keep_others_from_what_is_left() {
    let (_home, store) = node().await;
    push(&store, 500).await;
    let claimed =
        store.claim(vec![claim(300, 150), claim(300, 150), claim(300, 150)]).await.unwrap();
    assert_eq!(shares(&claimed), [250, 250, 0]);
    assert_eq!(shares(&store.claim(vec![claim(50, 25)]).await.unwrap()), [0], "none is left");
}

#[tokio::test]
async fn of_what_is_acked_in_pieces_only_the_others_have_rows() {
    let (home, store) = node().await;
    push(&store, 600).await;
    assert_eq!(rows(&home).await, [0, 600, 0, 0]);
    let held = store.claim(vec![claim(600, 600)]).await.unwrap().jobs.remove(0);
    assert_eq!(rows(&home).await, [0, 600, 0, 0], "a claim leaves them as they are");
    settle(&store, &held, (0..600).filter(|place| !is_given_back(place))).await;
    assert_eq!(rows(&home).await, [30, 0, 0, 570]);
    settle(&store, &held, (0..600).filter(is_given_back)).await;
    for place in [0, 6, 8, 10, 249, 250, 598, 599] {
        let job = store.job(held[place].lease.job).await.unwrap().unwrap();
        assert_eq!(job.result, result(place), "{place}");
    }
    let again = store.claim(vec![claim(99, 99)]).await.unwrap().jobs.remove(0);
    let expected: Vec<JobId> =
        (0..600).filter(is_given_back).map(|place| held[place].lease.job).collect();
    assert_eq!(again.iter().map(|job| job.lease.job).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn where_some_are_given_back_first_the_others_are_acked_as_they_are() {
    let (home, store) = node().await;
    push(&store, 500).await;
    let held = store.claim(vec![claim(500, 500)]).await.unwrap().jobs.remove(0);
    settle(&store, &held, (0..500).filter(is_given_back)).await;
    assert_eq!(rows(&home).await, [25, 475, 0, 0]);
    settle(&store, &held, (0..500).filter(|place| !is_given_back(place))).await;
    assert_eq!(rows(&home).await, [25, 0, 0, 475]);
}

#[tokio::test]
async fn where_completed_jobs_are_not_kept_nothing_is_left_of_a_piece() {
    let home = Shared::home();
    let none = Retention { completed: Duration::ZERO, ..Retention::default() };
    let store = Shared::open(&home, &ManualClock::new(), none).await;
    push(&store, 500).await;
    let held = store.claim(vec![claim(500, 500)]).await.unwrap().jobs.remove(0);
    settle(&store, &held, (0..500).filter(|place| !is_given_back(place))).await;
    assert_eq!(rows(&home).await, [25, 0, 0, 0]);
}

/// The ack waits for what is told of its job, and then deletes what was there when it began.
#[tokio::test(flavor = "multi_thread")]
async fn progress_that_is_told_while_its_job_is_forgotten_is_forgotten_in_the_end() {
    for count in [1, 500] {
        let home = Shared::home();
        let none = Retention { completed: Duration::ZERO, ..Retention::default() };
        let store = Shared::open(&home, &ManualClock::new(), none).await;
        push(&store, count).await;
        let held = claimed(&store, count).await;
        let telling = client(&home).await;
        let job = held[0].lease.job.0;
        let sql = format!(
            "BEGIN;
             SELECT id FROM job WHERE id = {job} FOR SHARE;
             SELECT id FROM run WHERE id = {job} FOR SHARE;
             INSERT INTO progress (job_id, delivery, percent, message) VALUES ({job}, 1, 50, '')"
        );
        telling.batch_execute(&sql).await.unwrap();
        let (settled, ()) = tokio::join!(settle_as(&store, &held, ACKED), async {
            home.server.somebody_waits().await;
            telling.batch_execute("COMMIT").await.unwrap();
        });
        assert!(settled.iter().all(|settled| matches!(settled, Settled::Done(_))), "{settled:?}");
        let told = async || {
            let sql = "SELECT count(*) FROM progress";
            client(&home).await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
        };
        assert_eq!(told().await, 1, "it does not come between");
        store.run_duty(&Shared::term(&home), Duty::Retention).await.unwrap();
        assert_eq!(told().await, 0);
    }
}

#[tokio::test]
async fn a_subscription_gets_as_many_as_it_has_credit_for_though_it_is_content_with_less() {
    let cluster = Cluster::of(1).await;
    let client = cluster.nodes[0].client().await;
    client.push_batch(vec![batonq_client::NewJob::new("q", "{}"); 600]).await.unwrap();
    let mut subscription = client.subscribe("q", 300).await.unwrap();
    let mut held = Vec::new();
    while held.len() < 300 {
        held.extend(subscription.next_batch().await);
    }
    assert_eq!(held.len(), 300);
    assert_eq!(client.queue("q").await.unwrap().ready, 300);
}

#[tokio::test]
async fn what_another_node_has_taken_out_is_not_acked_with_the_others() {
    let (home, [one, other]) = two_nodes().await;
    let ids = push(&one, 100).await;
    let first = one.claim(vec![claim(50, 50)]).await.unwrap().jobs.remove(0);
    let verdict = Verdict::Snooze(Duration::from_secs(1));
    other.settle(vec![Settlement { lease: first[27].lease, verdict }]).await.unwrap();
    let mut held = first.clone();
    held.extend(one.claim(vec![claim(50, 50)]).await.unwrap().jobs.remove(0));
    settle(&one, &held, (0..100).filter(|place| *place != 27)).await;
    for (place, id) in ids.iter().enumerate() {
        let job = one.job(*id).await.unwrap().unwrap();
        let expected = match is_given_back(&place) {
            true if place == 27 => (State::Scheduled, None),
            true => (State::Ready, None),
            false => (State::Completed, result(place)),
        };
        assert_eq!((job.state, job.result), expected, "{place}");
    }
    assert_eq!(rows(&home).await[0..2], [5, 0]);
}

#[tokio::test]
async fn an_ack_is_of_the_jobs_that_are_there_whatever_is_remembered_of_their_run() {
    for acked in [0..100, 40..100] {
        let (home, store) = node().await;
        push(&store, 100).await;
        let held = store.claim(vec![claim(100, 100)]).await.unwrap().jobs.remove(0);
        let swap = "UPDATE run SET ids[100] = ids[100] + 900, last = last + 900";
        client(&home).await.batch_execute(swap).await.unwrap();
        let ack = |place: usize| {
            let verdict = Verdict::Ack { result: result(place) };
            Settlement { lease: held[place].lease, verdict }
        };
        let settled = store.settle(acked.clone().map(ack).collect()).await.unwrap().settled;
        let is_done: Vec<bool> =
            settled.iter().map(|settled| matches!(settled, Settled::Done(_))).collect();
        let expected: Vec<bool> = acked.clone().map(|place| place != 99).collect();
        assert_eq!(is_done, expected);
        for place in [acked.start, 98] {
            let job = store.job(held[place].lease.job).await.unwrap().unwrap();
            assert_eq!(job.result, result(place));
        }
    }
}

#[tokio::test]
async fn where_some_have_rows_all_are_given_out_in_order() {
    let (home, store) = node().await;
    let ids = push(&store, 100).await;
    let take_out = format!("SELECT take_out(ARRAY[{}, {}])", ids[50], ids[60]);
    client(&home).await.batch_execute(&take_out).await.unwrap();
    assert_eq!(rows(&home).await, [2, 98, 0, 0]);
    let mut given = Vec::new();
    for count in [45, 10, 99] {
        given.extend(store.claim(vec![claim(count, count)]).await.unwrap().jobs.remove(0));
    }
    assert_eq!(given.iter().map(|job| job.lease.job).collect::<Vec<_>>(), ids);
}

#[tokio::test]
async fn where_many_get_few_of_them_each_has_a_row() {
    let (home, store) = node().await;
    push(&store, 250).await;
    let claimed = store.claim(vec![claim(5, 5); 40]).await.unwrap();
    assert_eq!(shares(&claimed), [5; 40]);
    assert_eq!(rows(&home).await, [250, 0, 0, 0]);
}

#[tokio::test]
async fn what_is_left_of_a_block_is_no_small_piece() {
    let (home, store) = node().await;
    push(&store, 500).await;
    for share in [240, 240, 20] {
        assert_eq!(shares(&store.claim(vec![claim(240, 240)]).await.unwrap()), [share]);
        assert_eq!(rows(&home).await, [0, 500, 0, 0]);
    }
}

#[tokio::test]
async fn those_that_wait_for_one_time_are_one_row_and_become_ready_as_one() {
    let (home, clock) = (Shared::home(), ManualClock::new());
    let store = Shared::open(&home, &clock, Retention::default()).await;
    push_for(&store, 600, When::After(SECOND)).await;
    assert_eq!((rows(&home).await, waiting_rows(&home).await), ([0, 600, 0, 0], [3, 0]));
    Shared::pass(&home, &clock, SECOND);
    assert_eq!(make_ready(&home, &store).await, 600);
    assert_eq!((rows(&home).await, waiting_rows(&home).await), ([0, 600, 0, 0], [0, 3]));
    let held = store.claim(vec![claim(600, 600)]).await.unwrap().jobs.remove(0);
    let ack =
        |held: &LeasedJob| Settlement { lease: held.lease, verdict: Verdict::Ack { result: None } };
    store.settle(held.iter().map(ack).collect()).await.unwrap();
    assert_eq!((rows(&home).await, waiting_rows(&home).await), ([0, 0, 0, 600], [0, 0]));
}

#[tokio::test]
async fn who_wants_one_that_waits_has_rows_made_of_all_that_wait_with_it() {
    let (home, store) = node().await;
    let ids = push_for(&store, 600, When::After(SECOND)).await;
    store.cancel(ids[300], SECOND).await.unwrap();
    assert_eq!((rows(&home).await, waiting_rows(&home).await), ([249, 350, 0, 0], [251, 0]));
}

/// Jobs are made ready while others are cancelled, promoted and claimed, at two nodes: each of them goes
/// one way.
#[tokio::test(flavor = "multi_thread")]
async fn while_their_time_comes_each_goes_one_way() {
    let (home, clock, [one, other]) = two_nodes_on_a_clock().await;
    for round in 0..20 {
        let mut ids = push_for(&one, 100, When::After(SECOND)).await;
        ids.extend(push_for(&other, 100, When::After(SECOND)).await);
        Shared::pass(&home, &clock, SECOND);
        let (cancelled, promoted) = (ids[round], ids[199 - round]);
        let (_, cancel, promote, early) = tokio::join!(
            make_ready(&home, &one),
            other.cancel(cancelled, SECOND),
            other.promote(promoted),
            claimed(&one, 30),
        );
        promote.unwrap();
        make_ready(&home, &one).await;
        let mut given = early;
        // Each knows of what it has made ready itself.
        for store in [&one, &other] {
            given.extend(claimed(store, 999).await);
        }
        let is_over = matches!(cancel.unwrap(), Cancelled::Done(_));
        let mut expected: Vec<JobId> =
            ids.into_iter().filter(|id| !is_over || *id != cancelled).collect();
        let mut told: Vec<JobId> = given.iter().map(|job| job.lease.job).collect();
        expected.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, expected, "{round}");
        let broken = consistency::of_postgres(&home.server.client().await, &home.name).await;
        assert_eq!(broken, [""; 0], "{round}");
        let settled = settle_as(&one, &given, ACKED).await;
        assert!(settled.iter().all(|settled| matches!(settled, Settled::Done(_))), "{settled:?}");
    }
}

/// Fails with another attempt in a second.
fn failing() -> Verdict {
    let code = FailureCode::parse("NO").unwrap();
    Verdict::Fail { code, message: String::new(), retry: Retry::After(SECOND), chance: 0.0 }
}

async fn settle_as(store: &Arc<dyn Store>, held: &[LeasedJob], verdict: Verdict) -> Vec<Settled> {
    let settlement = |held: &LeasedJob| Settlement { lease: held.lease, verdict: verdict.clone() };
    store.settle(held.iter().map(settlement).collect()).await.unwrap().settled
}

#[tokio::test]
async fn those_that_fail_together_are_one_row_again_and_leave_nothing_behind() {
    for kept in [Duration::ZERO, 60 * SECOND] {
        let (home, clock) = (Shared::home(), ManualClock::new());
        let retention = Retention { completed: kept, ..Retention::default() };
        let store = Shared::open(&home, &clock, retention).await;
        push(&store, 250).await;
        let held = claimed(&store, 250).await;
        settle_as(&store, &held[..100], failing()).await;
        assert_eq!((rows(&home).await, waiting_rows(&home).await), ([0, 250, 0, 0], [1, 0]));
        Shared::pass(&home, &clock, SECOND);
        assert_eq!(make_ready(&home, &store).await, 100);
        let again = claimed(&store, 100).await;
        settle_as(&store, &again[..50], ACKED).await;
        settle_as(&store, &again[50..], ACKED).await;
        settle_as(&store, &held[100..], ACKED).await;
        let is_kept = kept > Duration::ZERO;
        assert_eq!(rows(&home).await, [0, 0, 0, if is_kept { 250 } else { 0 }]);
        Shared::pass(&home, &clock, 61 * SECOND);
        store.run_duty(&Shared::term(&home), Duty::Retention).await.unwrap();
        let sql = "SELECT (SELECT count(*) FROM run) + (SELECT count(*) FROM attempt_log)
            + (SELECT count(*) FROM job_note)";
        let left: i64 = client(&home).await.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(left, 0);
    }
}

/// Jobs fail together while others want some of them, at two nodes.
#[tokio::test(flavor = "multi_thread")]
async fn while_they_fail_together_each_goes_one_way() {
    let (home, clock, [one, other]) = two_nodes_on_a_clock().await;
    for round in 0..40 {
        // Those of small pushes have rows, and those of large ones have not.
        let count = if round % 2 == 0 { 100 } else { 30 };
        let ids = push(&one, count).await;
        let held = claimed(&one, count).await;
        let depends = Depends { on: vec![ids[7]], on_failure: OnFailure::Fail };
        let options = Options { depends, ..Options::default() };
        let payload = Payload::new(Bytes::from_static(b"{}")).unwrap();
        let waits = NewJob {
            options: options.into(),
            ..NewJob::new(QueueName::parse("q").unwrap(), payload)
        };
        let last = [held[count - 1].clone()];
        let (first, cancel, second, pushed, acked) = tokio::join!(
            settle_as(&one, &held[..count - 1], failing()),
            other.cancel(ids[3], 10 * SECOND),
            settle_as(&other, &held[20..count - 1], failing()),
            other.push(vec![waits]),
            settle_as(&other, &last, ACKED),
        );
        let is_done = |settled: &Settled| matches!(settled, Settled::Done(_));
        assert!(acked.iter().all(is_done), "{round}: {acked:?}");
        for (place, settled) in first.iter().enumerate() {
            let again = place.checked_sub(20).is_some_and(|place| is_done(&second[place]));
            assert_ne!(is_done(settled), again, "{round}: {place} ends once");
        }
        let waits = pushed.unwrap()[0].id().unwrap();
        assert_eq!(other.job(waits).await.unwrap().unwrap().state, State::Blocked, "{round}");
        let broken = consistency::of_postgres(&home.server.client().await, &home.name).await;
        assert_eq!(broken, [""; 0], "{round}");
        Shared::pass(&home, &clock, SECOND);
        make_ready(&home, &one).await;
        let again = claimed(&one, 999).await;
        let is_gone = match cancel.unwrap() {
            Cancelled::Done(_) => true,
            Cancelled::Requested { .. } => {
                one.job(ids[3]).await.unwrap().unwrap().state == State::Cancelled
            }
            other => panic!("{other:?}"),
        };
        let expected = ids[..count - 1].iter().filter(|id| !is_gone || **id != ids[3]);
        let told: Vec<JobId> = again.iter().map(|job| job.lease.job).collect();
        assert_eq!(told, expected.copied().collect::<Vec<_>>(), "{round}");
        settle_as(&one, &again, ACKED).await;
        settle_as(&one, &claimed(&one, 9).await, ACKED).await;
    }
}

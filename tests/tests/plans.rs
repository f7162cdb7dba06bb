//! Every hot statement keeps to its indexes, whatever is in the tables and whatever the planner
//! believes of them.

#![allow(clippy::unwrap_used, reason = "everything here is a test, which fails by panicking")]

use std::collections::BTreeSet;

use batonq_server::store::postgres::{Dsn, connect, hot_statements, migrate};
use batonq_tests::harness::Postgres;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Tables that grow with the jobs, or may have thousands of rows. `lease` has a row for each claim that
/// is being worked on, and behind them those that a snapshot keeps.
const LARGE: [&str; 21] = [
    "job",
    "lease",
    "queue",
    "ready",
    "scheduled",
    "finished",
    "run",
    "attempt_log",
    "unique_key",
    "ttl",
    "deadline",
    "dependency",
    "slot",
    "turn",
    "cancel",
    "event",
    "job_note",
    "custom_id",
    "job_log",
    "progress",
    "kv",
];

async fn plan(client: &Client, sql: &str) -> Vec<String> {
    let parameters: BTreeSet<u32> = sql
        .split('$')
        .skip(1)
        .filter_map(|rest| {
            let digits = rest.find(|letter: char| !letter.is_ascii_digit());
            rest[..digits.unwrap_or(rest.len())].parse().ok()
        })
        .collect();
    let nulls = vec!["NULL"; parameters.len()].join(", ");
    let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    client.batch_execute("DEALLOCATE ALL").await.unwrap();
    client.batch_execute(&format!("PREPARE hot AS {sql}")).await.unwrap();
    let explained =
        client.simple_query(&format!("EXPLAIN (COSTS off) EXECUTE hot{arguments}")).await;
    let lines = explained.unwrap().into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
        _ => None,
    });
    lines.collect()
}

/// What is wrong with a plan.
fn faults(plan: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for (place, line) in plan.iter().enumerate() {
        if ["Hash Join", "Merge Join", "Bitmap"].iter().any(|node| line.contains(node)) {
            faults.push(line.clone());
        }
        // Each job would be compared with each.
        if place > 0 && plan[place - 1].contains("Materialize") && line.contains(" on job") {
            faults.push(plan[place - 1].clone());
        }
        let scans = |table: &&&str| {
            let rest = line.split(" on ").nth(1).unwrap_or_default();
            line.contains("Scan") && rest.split_whitespace().next() == Some(**table)
        };
        if LARGE.iter().find(scans).is_none() {
            continue;
        }
        if line.contains("Seq Scan") {
            faults.push(line.clone());
        }
        // The lines up to the next node say what is looked for.
        let details = plan[place + 1..].iter().take_while(|line| !line.contains("->"));
        let is_bounded = details
            .into_iter()
            .any(|line| line.contains("Index Cond") || line.contains("TID Cond"));
        let is_limited = plan[..place].iter().rev().take(3).any(|line| line.contains("Limit"));
        if !is_bounded && !is_limited {
            faults.push(format!("unbounded: {line}"));
        }
    }
    faults
}

async fn check(client: &Client, when: &str) {
    let (_, statements) = hot_statements();
    for (name, sql) in statements {
        let plan = plan(client, sql).await;
        let faults = faults(&plan);
        assert!(faults.is_empty(), "{name}, {when}: {faults:#?}\n{}", plan.join("\n"));
    }
}

#[tokio::test]
async fn hot_statements_use_their_indexes_on_empty_small_and_large_tables() {
    let postgres = Postgres::start();
    let dsn = Dsn::parse(&postgres.dsn(), None).unwrap();
    let mut client = connect(&dsn, "test").await.unwrap();
    migrate::up(&mut client, "batonq").await.unwrap();
    let (settings, _) = hot_statements();
    client.batch_execute(&format!("SET search_path = batonq, pg_temp; {settings}")).await.unwrap();
    client.batch_execute("SET statement_timeout = '60s'").await.unwrap();
    check(&client, "empty").await;
    client.batch_execute("ANALYZE").await.unwrap();
    check(&client, "known to be empty").await;
    for (count, when) in [(10, "small"), (100_000, "large")] {
        client.batch_execute(&fill(count)).await.unwrap();
        // First with the statistics of what was there before.
        check(&client, when).await;
        client.batch_execute("ANALYZE").await.unwrap();
        check(&client, &format!("{when}, analysed")).await;
    }
    client.batch_execute("DELETE FROM ready; DELETE FROM job; VACUUM ready, job").await.ok();
    check(&client, "emptied, statistics of large ones").await;
}

fn fill(count: u32) -> String {
    format!(
        "INSERT INTO job (id, queue_id, priority, max_attempts, place, created_at, attempts,
             delivery, crashes, payload)
         SELECT nextval('number'), 1, 0, 25, currval('number'), 0, 0, 1, 0, '1'
         FROM generate_series(1, {count});
         INSERT INTO ready (queue_id, place, job_id, priority, delivery, bytes, ready_at)
         SELECT 1, place, id, 0, 1, 1, 0 FROM job ON CONFLICT DO NOTHING;
         INSERT INTO finished (id, queue_id, state, priority, max_attempts, created_at,
             finished_at, attempts, deliveries, crashes, payload)
         SELECT nextval('number'), 1, 'completed', 0, 25, 0, 0, 0, 1, 0, '1'
         FROM generate_series(1, {count});
         INSERT INTO run (id, bucket, queue_id, finished_at, started_at, first, last, count,
             node, worker, jobs)
         SELECT min(id), id >> 10, 1, 1, 0, min(id), max(id), count(*), '', '',
             array_agg((id, 0, 0, 25, NULL, NULL, NULL, NULL, NULL, '1', NULL)::packed)
         FROM (SELECT nextval('number') AS id FROM generate_series(1, {count})) n
         GROUP BY id >> 10;
         INSERT INTO run (id, bucket, queue_id, first, last, count, place, priority, created_at,
             max_attempts, ids, payloads)
         SELECT min(id), id >> 10, 1, min(id), max(id), count(*), min(id), 0, 0, 25, array_agg(id),
             array_agg('1'::bytea)
         FROM (SELECT nextval('number') AS id FROM generate_series(1, {count})) n
         GROUP BY id >> 10;
         INSERT INTO unique_key (queue_id, key, job_id)
         SELECT 1, 'k' || id, id FROM job ON CONFLICT DO NOTHING;
         INSERT INTO custom_id SELECT 'k' || id, id FROM job ON CONFLICT DO NOTHING;
         INSERT INTO dependency SELECT id, id - 1 FROM job ON CONFLICT DO NOTHING;
         INSERT INTO slot SELECT id, 1, 1, 'k' FROM job ON CONFLICT DO NOTHING;
         INSERT INTO turn SELECT 1, 'k' || id, id FROM job ON CONFLICT DO NOTHING;
         INSERT INTO job_note (job_id, at, kind, delivery, who, detail)
         SELECT id, 0, 'due', 1, '', '' FROM job;
         INSERT INTO job_log (job_id, at, level, message) SELECT id, 0, 'info', '' FROM job;
         INSERT INTO progress SELECT id, 1, 50, '' FROM job ON CONFLICT DO NOTHING;
         INSERT INTO kv SELECT 'k' || id, '1', nullif(id % 2, 0) FROM job ON CONFLICT DO NOTHING;
         INSERT INTO lease
         SELECT id, 'n', 1, '', nullif(id % 2, 0), 0, 0, ARRAY[id], ARRAY[1] FROM job
         ON CONFLICT DO NOTHING;
         INSERT INTO cancel SELECT id, 1, 0, 0 FROM job ON CONFLICT DO NOTHING;
         INSERT INTO ttl SELECT 1, id FROM job ON CONFLICT DO NOTHING;
         INSERT INTO deadline SELECT 1, id, 1 FROM job ON CONFLICT DO NOTHING;
         INSERT INTO scheduled SELECT 1, id, 1 FROM finished ON CONFLICT DO NOTHING"
    )
}

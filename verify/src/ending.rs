//! What is there when all is over: the final facts of a run, as records.
//!
//! They are read from the nodes' Postgres if there is a URL of it, in few statements; else each job
//! is asked for through the nodes, which do not tell what leaders did.

use std::collections::HashMap;

use batonq_client::{Client, JobFilter, JobId};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::database::{self, DatabaseClock};
use crate::history::{Duty, End, JobEnd, LeaseEnd, Record, Rule, Slot, State};
use crate::load::{Error, Finish, Load, QueueKind, Run, SLOT_MS, key_of};

/// The number of the run's schedule.
const SCHEDULE: u16 = 1;
/// Records handed over at once.
const PART: usize = 1000;
/// Jobs in one page of a list, and the latest slots that are asked for.
const PAGE: u32 = 1000;
/// Jobs asked for at once.
const AT_ONCE: usize = 64;

const QUEUES: &str = "SELECT id, name FROM queue WHERE name = ANY($1)";

/// Whether nothing is left to do.
const IS_DRAINED: &str = "
    SELECT NOT EXISTS (SELECT 1 FROM ready WHERE queue_id = ANY($1))
    AND NOT EXISTS (SELECT 1 FROM scheduled WHERE queue_id = ANY($1))
    AND NOT EXISTS (SELECT 1 FROM live_job WHERE queue_id = ANY($1))";

/// All jobs, whether they have ended or not.
const JOBS: &str = "
    SELECT id, queue_id, state, deliveries, created_at, finished_at, payload
    FROM finished
    WHERE queue_id = ANY($1)
    UNION ALL
    SELECT id, queue_id, state, deliveries, created_at, finished_at, payload
    FROM completed_job
    WHERE queue_id = ANY($1)
    UNION ALL
    SELECT
        id, queue_id, state, delivery - (state <> 'leased')::integer, created_at, 0::bigint, payload
    FROM (
        SELECT
            j.*,
            CASE
                WHEN j.is_blocked THEN 'blocked'
                WHEN j.run_at IS NOT NULL THEN 'scheduled'
                WHEN EXISTS (
                    SELECT 1 FROM ready r WHERE r.queue_id = j.queue_id AND r.job_id = j.id
                    UNION ALL
                    SELECT 1 FROM ready r WHERE r.block = j.place AND j.id = ANY(r.job_ids)
                ) THEN 'ready'
                ELSE 'leased'
            END AS state
        FROM live_job j
        WHERE j.queue_id = ANY($1)
    ) l
    ORDER BY id";

/// The leases of those that were delivered more than once, or are not completed.
const LEASES: &str = "
    SELECT job_id, delivery, attempt, started_at, ended_at, ending
    FROM (
        SELECT job_id, delivery, attempt, started_at, ended_at, ending
        FROM attempt_log
        WHERE job_id IN (
            SELECT id FROM finished WHERE queue_id = ANY($1)
            UNION ALL
            SELECT id FROM completed_job WHERE queue_id = ANY($1)
            UNION ALL
            SELECT id FROM live_job WHERE queue_id = ANY($1)
        )
        UNION ALL
        SELECT
            id, deliveries, attempts + 1, coalesce(started_at, 0), finished_at, 'completed'
        FROM finished
        WHERE queue_id = ANY($1) AND state = 'completed' AND deliveries > 1
        UNION ALL
        SELECT
            id, deliveries, attempts + 1, coalesce(started_at, 0), finished_at, 'completed'
        FROM completed_job
        WHERE queue_id = ANY($1) AND deliveries > 1
        UNION ALL
        SELECT u.job_id, u.delivery, j.attempts + 1, l.started_at, 0, ''
        FROM lease l
        CROSS JOIN LATERAL unnest(l.job_ids, l.deliveries) AS u (job_id, delivery)
        JOIN live_job j ON j.id = u.job_id AND j.delivery = u.delivery
        WHERE j.queue_id = ANY($1)
    ) a
    ORDER BY job_id, delivery";

const SLOTS: &str = "
    SELECT slot, fired_at, outcome, coalesce(job_id, 0) AS job_id
    FROM cron_fire
    WHERE name = $1
    ORDER BY slot";

/// What leaders did since the run began, in the order of the commits.
const DUTIES: &str = "
    SELECT at, epoch, uuid_send(token) AS token, node, duty, count
    FROM audit
    WHERE at >= $1
    ORDER BY id";

/// Whether nothing is left to do in the queues of a run.
///
/// # Errors
///
/// If nobody says.
pub(crate) async fn is_drained(run: &Run, client: &Client) -> Result<bool, Error> {
    if run.targets.database.is_some() {
        let database = database::connect(&run.targets).await?;
        let numbers = queue_numbers(run, &database).await?;
        let ids: Vec<i64> = numbers.into_keys().collect();
        return Ok(database.query_one(IS_DRAINED, &[&ids]).await?.get(0));
    }
    for name in run.queues() {
        let queue = client.queue(name).await.map_err(|error| Error::asked("queue", &error))?;
        if queue.ready + queue.leased + queue.scheduled + queue.blocked > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Records what is there, after [`Load::finish`].
///
/// # Errors
///
/// If it can not be read. Part of it is recorded then.
pub async fn gather(load: &Load, finish: Finish) -> Result<(), Error> {
    let (run, admin) = (load.run(), load.admin());
    if let Some(window) = &run.schedule {
        let (from_ms, to_ms) = (window.from_ms, *window.to_ms.lock());
        let (schedule, queue) = (SCHEDULE, QueueKind::Cron.number());
        let rule =
            Rule::Schedule { schedule, queue, every_ms: SLOT_MS.unsigned_abs(), from_ms, to_ms };
        run.recorder.record(Record::Rule(rule));
    }
    match run.targets.database {
        Some(_) => gather_from_database(run, &load.schedule_name()).await?,
        None => gather_from_nodes(run, admin, &load.schedule_name()).await?,
    }
    let clock_queue = load.clock_queue();
    let clock = DatabaseClock::read(&run.targets, &run.recorder, (admin, &clock_queue)).await?;
    let clock = run.clock.and(clock);
    run.recorder.record(Record::End(End {
        healed_ns: finish.healed_ns,
        served_ns: finish.served_ns,
        drained_ns: finish.drained_ns,
        leaders: leaders(run, admin).await?,
        database_offset_ms: clock.offset_ms,
        offset_error_ms: clock.error_ms,
    }));
    Ok(())
}

/// How many nodes say that they lead.
async fn leaders(run: &Run, client: &Client) -> Result<u32, Error> {
    let mut count = 0;
    for node in &run.targets.nodes {
        let Some(http) = &node.http else {
            // What the database says of all of them, for they can not be asked.
            let nodes = client.nodes().await.map_err(|error| Error::asked("nodes", &error))?;
            let leaders = nodes.iter().filter(|node| node.is_leader).count();
            return Ok(u32::try_from(leaders).unwrap_or(u32::MAX));
        };
        let health = run.health(http).await;
        count += u32::from(health.is_some_and(|health| health["is_leader"] == true));
    }
    Ok(count)
}

/// The numbers of the run's queues by their ids in the database.
async fn queue_numbers(
    run: &Run,
    database: &tokio_postgres::Client,
) -> Result<HashMap<i64, u16>, Error> {
    let rows = database.query(QUEUES, &[&run.queues()]).await?;
    let number = |row: &Row| {
        let place = run.queues().iter().position(|name| *name == row.get::<_, &str>("name"))?;
        Some((row.get("id"), u16::try_from(place).ok()?))
    };
    Ok(rows.iter().filter_map(number).collect())
}

async fn gather_from_database(run: &Run, schedule: &str) -> Result<(), Error> {
    let database = database::connect(&run.targets).await?;
    let numbers = queue_numbers(run, &database).await?;
    let ids: Vec<i64> = numbers.keys().copied().collect();
    let job = |row: &Row| read_job(row, &numbers).map(Record::Job);
    record_rows(run, &database, (JOBS, &[&ids]), job).await?;
    record_rows(run, &database, (LEASES, &[&ids]), |row| Ok(Record::Lease(read_lease(row))))
        .await?;
    record_rows(run, &database, (SLOTS, &[&schedule]), |row| Ok(Record::Slot(read_slot(row))))
        .await?;
    let since_ms = run.clock.earliest_ms(0);
    record_rows(run, &database, (DUTIES, &[&since_ms]), |row| Ok(Record::Duty(read_duty(row))))
        .await
}

/// Records each row of an answer as it comes.
async fn record_rows(
    run: &Run,
    database: &tokio_postgres::Client,
    (sql, parameters): (&str, &[&(dyn ToSql + Sync)]),
    read: impl Fn(&Row) -> Result<Record, Error>,
) -> Result<(), Error> {
    let parameters = parameters.iter().copied();
    let rows = database.query_raw(sql, parameters).await?.map_err(Error::from);
    let records = rows.and_then(|row| std::future::ready(read(&row)));
    let mut parts = std::pin::pin!(records.try_chunks(PART).map_err(|error| error.1));
    while let Some(part) = parts.try_next().await? {
        run.recorder.record_all(part);
    }
    Ok(())
}

fn unsigned(row: &Row, name: &str) -> u64 {
    row.get::<_, i64>(name).unsigned_abs()
}

fn count(row: &Row, name: &str) -> u32 {
    u32::try_from(row.get::<_, i32>(name)).unwrap_or(0)
}

fn read_job(row: &Row, numbers: &HashMap<i64, u16>) -> Result<JobEnd, Error> {
    let state: &str = row.get("state");
    let known = parse_state(state).ok_or_else(|| Error::Unexpected(format!("state {state}")))?;
    Ok(JobEnd {
        job: unsigned(row, "id"),
        key: key_of(row.get("payload")),
        queue: numbers.get(&row.get("queue_id")).copied().unwrap_or(u16::MAX),
        state: known,
        deliveries: count(row, "deliveries"),
        created_ms: row.get("created_at"),
        finished_ms: row.get("finished_at"),
    })
}

fn read_lease(row: &Row) -> LeaseEnd {
    LeaseEnd {
        job: unsigned(row, "job_id"),
        delivery: count(row, "delivery"),
        attempt: count(row, "attempt"),
        begins_ms: row.get("started_at"),
        ended_ms: row.get("ended_at"),
        ending: row.get("ending"),
    }
}

fn read_slot(row: &Row) -> Slot {
    let made = makes_job(row.get("outcome"));
    let (slot_ms, fired_ms) = (row.get("slot"), row.get("fired_at"));
    let job = if made { unsigned(row, "job_id") } else { 0 };
    Slot { schedule: SCHEDULE, slot_ms, fired_ms, job }
}

fn read_duty(row: &Row) -> Duty {
    let token: [u8; 16] = row.get::<_, &[u8]>("token").try_into().unwrap_or_default();
    Duty {
        at_ms: row.get("at"),
        epoch: unsigned(row, "epoch"),
        token: u128::from_be_bytes(token),
        node: row.get("node"),
        name: row.get("duty"),
        count: count(row, "count"),
    }
}

/// Of other slots, the job that is named kept them from making one.
fn makes_job(outcome: &str) -> bool {
    matches!(outcome, "fired" | "manual")
}

fn parse_state(name: &str) -> Option<State> {
    Some(match name {
        "blocked" => State::Blocked,
        "scheduled" => State::Scheduled,
        "ready" => State::Ready,
        "leased" => State::Leased,
        "completed" => State::Completed,
        "dead" => State::Dead,
        "cancelled" => State::Cancelled,
        _ => return None,
    })
}

async fn gather_from_nodes(run: &Run, client: &Client, schedule: &str) -> Result<(), Error> {
    let mut leases = Vec::new();
    for (number, name) in (0..).zip(run.queues()) {
        let ids = job_ids(client, name).await?;
        let ends = stream::iter(ids).map(|id| job_end(client, number, id)).buffered(AT_ONCE);
        let mut ends = std::pin::pin!(ends);
        while let Some((job, of_job)) = ends.try_next().await? {
            run.recorder.record(Record::Job(job));
            leases.extend(of_job);
        }
    }
    leases.sort_by_key(|lease: &LeaseEnd| (lease.job, lease.delivery));
    run.recorder.record_all(leases.into_iter().map(Record::Lease).collect());
    if run.schedule.is_some() {
        let fires = client.fires(schedule, PAGE).await;
        let fires = fires.map_err(|error| Error::asked("fires", &error))?;
        let slot = |fire: batonq_client::Fire| Slot {
            schedule: SCHEDULE,
            slot_ms: fire.slot_ms,
            fired_ms: fire.fired_at_ms,
            job: if makes_job(&fire.outcome) { fire.job } else { 0 },
        };
        run.recorder.record_all(fires.into_iter().rev().map(slot).map(Record::Slot).collect());
    }
    Ok(())
}

/// All jobs of a queue, oldest first.
async fn job_ids(client: &Client, queue: &str) -> Result<Vec<JobId>, Error> {
    let mut all = Vec::new();
    let mut cursor = 0;
    loop {
        let filter = JobFilter {
            queue: queue.to_owned(),
            limit: PAGE,
            cursor,
            oldest_first: true,
            ..JobFilter::default()
        };
        let page = client.jobs(filter).await.map_err(|error| Error::asked("jobs", &error))?;
        all.extend(page.jobs.iter().map(|job| JobId(job.id)));
        cursor = page.cursor;
        if cursor == 0 {
            return Ok(all);
        }
    }
}

/// A job, and its leases if they are of interest.
async fn job_end(client: &Client, queue: u16, id: JobId) -> Result<(JobEnd, Vec<LeaseEnd>), Error> {
    let job = client.job(id).await.map_err(|error| Error::asked("job", &error))?;
    let name = job.state().as_str_name().trim_start_matches("STATE_").to_lowercase();
    let state = parse_state(&name).ok_or_else(|| Error::Unexpected(format!("state {name}")))?;
    let end = JobEnd {
        job: job.id,
        key: key_of(&job.payload),
        queue,
        state,
        deliveries: job.delivery,
        created_ms: job.created_at_ms,
        finished_ms: job.finished_at_ms.unwrap_or(0),
    };
    if state == State::Completed && end.deliveries == 1 {
        return Ok((end, Vec::new()));
    }
    let timeline = client.timeline(id).await.map_err(|error| Error::asked("timeline", &error))?;
    let lease = |attempt: batonq_client::Attempt| LeaseEnd {
        job: end.job,
        delivery: attempt.delivery,
        attempt: attempt.attempt,
        begins_ms: attempt.started_at_ms,
        ended_ms: attempt.ended_at_ms.unwrap_or(0),
        ending: attempt.ending,
    };
    Ok((end, timeline.attempts.into_iter().map(lease).collect()))
}

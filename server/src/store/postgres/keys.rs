//! Keys that few jobs have: who takes one, keeps others from being stored with it.
//!
//! One table with a unique index says who has what. A push takes all keys of its jobs first, in one
//! order, for a job that has no number yet; those that no job gets it gives back.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::QueueId;
use super::custom_ids::{NAME, NO_QUEUE};
use super::lane::{Call, Failure, Tx};
use super::row::{get, job_id};
use crate::job::{JobId, NewJob, UniqueHold, UniqueKey};
use crate::limits;
use crate::mutants::{self, Mutant};
use crate::store::columns::{sql_id, sql_kind, sql_millis};
use crate::store::{KeyKind, Same};

/// Of two nodes that insert the same key, one waits for the other's commit. A key whose time is
/// over is free.
const TAKE_KEYS: &str = "
    INSERT INTO unique_key (queue_id, kind, key, job_id, expires_at)
    SELECT queue_id, kind, key, 0, now_ms() + hold_ms
    FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::bigint[])
        AS u (queue_id, kind, key, hold_ms)
    ON CONFLICT (queue_id, kind, key) DO UPDATE
    SET job_id = 0, expires_at = excluded.expires_at
    WHERE unique_key.expires_at <= now_ms()
    RETURNING queue_id, kind, key";

const GIVE_KEYS: &str = "
    UPDATE unique_key
    SET job_id = u.job_id
    FROM (
        SELECT k.tid, g.job_id
        FROM unnest($1::bigint[], $2::smallint[], $3::text[], $4::bigint[])
            AS g (queue_id, kind, key, job_id)
        CROSS JOIN LATERAL (
            SELECT ctid AS tid FROM unique_key
            WHERE queue_id = g.queue_id AND kind = g.kind AND key = g.key
            OFFSET 0
        ) k
    ) u
    WHERE unique_key.ctid = u.tid";

const HOLDERS: &str = "
    SELECT u.queue_id, u.kind, u.key, k.job_id
    FROM unnest($1::bigint[], $2::smallint[], $3::text[]) AS u (queue_id, kind, key)
    CROSS JOIN LATERAL (
        SELECT job_id FROM unique_key
        WHERE queue_id = u.queue_id AND kind = u.kind AND key = u.key
        OFFSET 0
    ) k";

/// Of a job that is there already. The answer: who has the key now.
const TAKE_FOR: &str = "
    INSERT INTO unique_key (queue_id, kind, key, job_id)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (queue_id, kind, key) DO UPDATE
    SET job_id = unique_key.job_id
    RETURNING job_id";

/// A key may be given back between the look at who has it and the next try to take it.
const KEY_TRIES: usize = 10;

/// A key by queue, kind and name.
pub(super) type Key = (QueueId, i16, String);

/// What a job comes to for its keys.
pub(super) enum Chance {
    /// It can have all of them.
    Insert,
    /// Job i of the same call has one of them.
    Earlier(usize, Same),
    /// Another job has one of them.
    Taken(JobId, Same),
}

/// A key that a job wants, and how long it is held.
pub(super) struct Wanted {
    pub(super) key: Key,
    hold_ms: Option<i64>,
}

/// See [`super::hot_statements`].
pub(super) const HOT: &[super::Named] = &[
    ("keys::TAKE_KEYS", TAKE_KEYS),
    ("keys::GIVE_KEYS", GIVE_KEYS),
    ("keys::HOLDERS", HOLDERS),
    ("keys::TAKE_FOR", TAKE_FOR),
];

impl Chance {
    /// The job outside of the call that has one of the keys.
    pub(super) fn holder(&self) -> Option<JobId> {
        match self {
            Self::Taken(id, _) => Some(*id),
            Self::Insert | Self::Earlier(..) => None,
        }
    }
}

/// The keys that a job wants, in the order in which they are looked at.
pub(super) fn keys(job: &NewJob, queue: QueueId) -> Vec<Wanted> {
    let wanted = |queue, kind, key: &UniqueKey, hold: Option<Duration>| Wanted {
        key: (queue, sql_kind(kind), key.as_str().to_owned()),
        hold_ms: hold.map(sql_millis),
    };
    let push = job.options.idempotency.as_ref();
    let push = push.filter(|_| !mutants::is(Mutant::IgnoreIdempotencyKey));
    let day = Some(limits::IDEMPOTENCY_WINDOW);
    let push = push.map(|key| wanted(queue, KeyKind::Push, key, day));
    let custom_id = job.options.custom_id.as_ref();
    let custom_id = custom_id.map(|key| wanted(NO_QUEUE, KeyKind::CustomId, key, None));
    let unique = job.unique.as_ref().map(|key| {
        let hold = match job.options.hold {
            UniqueHold::WindowMs(window) => Some(window),
            UniqueHold::Live | UniqueHold::Debounce => None,
        };
        wanted(queue, KeyKind::of(job.options.hold), key, hold)
    });
    [push, custom_id, unique].into_iter().flatten().collect()
}

/// Takes the keys that can be had. The answer: who has the others.
pub(super) async fn take_all(
    tx: &mut Tx<'_>,
    jobs: &[Vec<Wanted>],
) -> Result<BTreeMap<Key, JobId>, Failure> {
    let mut wanted: BTreeMap<Key, Option<i64>> = BTreeMap::new();
    for Wanted { key, hold_ms } in jobs.iter().flatten() {
        wanted.entry(key.clone()).or_insert(*hold_ms);
    }
    let mut others = BTreeMap::new();
    for _ in 0..KEY_TRIES {
        if wanted.is_empty() {
            return Ok(others);
        }
        take_keys(tx, &mut wanted).await?;
        let held = holders(tx, wanted.keys()).await?;
        wanted.retain(|key, _| !held.contains_key(key));
        others.extend(held);
    }
    Err(Failure::Conflict("a key changes hands too often".into()))
}

/// What the jobs come to, in their order, if others have these keys and all else can be had. A job
/// that can not have one of its keys takes none.
pub(super) fn chances(jobs: &[Vec<Wanted>], others: &BTreeMap<Key, JobId>) -> Vec<Chance> {
    let mut owners: HashMap<&Key, usize> = HashMap::new();
    let mut chances: Vec<Chance> = Vec::with_capacity(jobs.len());
    for (place, wanted) in jobs.iter().enumerate() {
        let met = wanted.iter().find_map(|Wanted { key, .. }| {
            let of = same(key.1);
            let earlier = owners.get(key).map(|earlier| Chance::Earlier(*earlier, of));
            earlier.or_else(|| others.get(key).map(|id| Chance::Taken(*id, of)))
        });
        if met.is_none() {
            owners.extend(wanted.iter().map(|Wanted { key, .. }| (key, place)));
        }
        chances.push(met.unwrap_or(Chance::Insert));
    }
    chances
}

/// Takes a key. Else: who has it.
pub(super) async fn take_key(tx: &mut Tx<'_>, wanted: Wanted) -> Result<Option<JobId>, Failure> {
    let mut all = BTreeMap::from([(wanted.key, wanted.hold_ms)]);
    for _ in 0..KEY_TRIES {
        take_keys(tx, &mut all).await?;
        let Some(key) = all.keys().next() else { return Ok(None) };
        if let Some(holder) = holders(tx, [key].into_iter()).await?.into_values().next() {
            return Ok(Some(holder));
        }
    }
    Err(Failure::Conflict("a key changes hands too often".into()))
}

/// Takes keys in one order, so that two calls that want the same do not wait for each other in a
/// ring. What is left in `wanted` somebody else has.
async fn take_keys(
    tx: &mut Tx<'_>,
    wanted: &mut BTreeMap<Key, Option<i64>>,
) -> Result<(), Failure> {
    let (queues, kinds, keys) = columns(wanted.keys());
    let holds: Vec<Option<i64>> = wanted.values().copied().collect();
    for row in tx.query(TAKE_KEYS, &[&queues, &kinds, &keys, &holds]).await? {
        wanted.remove(&(get(&row, "queue_id"), get(&row, "kind"), get(&row, "key")));
    }
    Ok(())
}

async fn holders<'a>(
    tx: &mut Tx<'_>,
    keys: impl Iterator<Item = &'a Key>,
) -> Result<BTreeMap<Key, JobId>, Failure> {
    let (queues, kinds, names) = columns(keys);
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = tx.query(HOLDERS, &[&queues, &kinds, &names]).await?;
    let holder = |row: &Row| {
        ((get(row, "queue_id"), get(row, "kind"), get(row, "key")), job_id(row, "job_id"))
    };
    Ok(rows.iter().map(holder).collect())
}

/// Takes a key for a job that is there already, as long as that lives. Else: who has it.
pub(super) async fn take_for(
    tx: &mut Tx<'_>,
    job: JobId,
    (queue, kind, name): (QueueId, KeyKind, &str),
) -> Result<Option<JobId>, Failure> {
    let rows = tx.query(TAKE_FOR, &[&queue, &sql_kind(kind), &name, &sql_id(job)]).await?;
    let holder = job_id(&rows[0], "job_id");
    Ok((holder != job).then_some(holder))
}

/// Gives taken keys to jobs, which are found by their custom ids from now on.
pub(super) async fn give_keys(tx: &mut Tx<'_>, keys: &[(&Key, JobId)]) -> Result<(), Failure> {
    if keys.is_empty() {
        return Ok(());
    }
    let (queues, kinds, names) = columns(keys.iter().map(|(key, _)| *key));
    let jobs: Vec<i64> = keys.iter().map(|(_, job)| sql_id(*job)).collect();
    let is_custom_id = |(key, _): &&(&Key, JobId)| key.1 == sql_kind(KeyKind::CustomId);
    let custom_ids = keys.iter().filter(is_custom_id);
    let (custom_ids, named): (Vec<&str>, Vec<i64>) =
        custom_ids.map(|(key, job)| (key.2.as_str(), sql_id(*job))).unzip();
    let give: [&(dyn ToSql + Sync); 4] = [&queues, &kinds, &names, &jobs];
    let name: [&(dyn ToSql + Sync); 2] = [&custom_ids, &named];
    let mut calls: Vec<Call<'_>> = vec![(GIVE_KEYS, &give)];
    if !named.is_empty() {
        calls.push((NAME, &name));
    }
    tx.all(&calls).await.map(drop)
}

/// Gives back taken keys that no job got.
pub(super) async fn give_back(tx: &mut Tx<'_>, keys: &[&Key]) -> Result<(), Failure> {
    if keys.is_empty() {
        return Ok(());
    }
    let (queues, kinds, names) = columns(keys.iter().copied());
    let sql = "DELETE FROM unique_key
               WHERE (queue_id, kind, key) IN (
                   SELECT * FROM unnest($1::bigint[], $2::smallint[], $3::text[])
               ) AND job_id = 0";
    tx.query(sql, &[&queues, &kinds, &names]).await.map(drop)
}

/// Keys as columns.
type KeyColumns<'a> = (Vec<QueueId>, Vec<i16>, Vec<&'a str>);

fn columns<'a>(keys: impl Iterator<Item = &'a Key>) -> KeyColumns<'a> {
    let mut columns = KeyColumns::default();
    for (queue, kind, name) in keys {
        columns.0.push(*queue);
        columns.1.push(*kind);
        columns.2.push(name);
    }
    columns
}

/// What two jobs have in common that want the same key of this kind.
pub(super) fn same(kind: i16) -> Same {
    match kind {
        kind if kind == sql_kind(KeyKind::Push) => Same::Push,
        kind if kind == sql_kind(KeyKind::Window) => Same::Window,
        kind if kind == sql_kind(KeyKind::CustomId) => Same::CustomId,
        _ => Same::Unique,
    }
}

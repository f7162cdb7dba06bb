//! Ending leases.

use bytes::Bytes;
use rusqlite::params;

use super::leases::{Held, LeaseRow};
use super::row;
use super::tables::{QueueId, Tables};
use crate::job::{self, Charges, Ending, JobId, Lease, Next, Reason, Rules, State, Timestamp};
use crate::store::columns::sql_id;
use crate::store::{
    CRASHES_MAX, Destination, Detail, EVEN_CHANCE, Effect, EventKind, Partial, Progress, Settled,
    SettledAll, Settlement, Verdict, ending_of, verdict_of,
};

/// Of one job, or of several with ids that follow one another.
const INSERT_FINISHED: &str = "
    INSERT INTO finished (
        id, queue_id, state, reason, priority, created_at, finished_at, max_attempts, attempts,
        deliveries, crashes, expires_at, timeout_ms, replay_of, replayed_as, content_type,
        backoff, unique_key, tags, options, payload, result
    )
    SELECT
        id, queue_id, ?3, ?4, priority, created_at, ?5, max_attempts, coalesce(?6, attempts),
        coalesce(?7, delivery), coalesce(?8, crashes), expires_at, timeout_ms, replay_of,
        replayed_as, content_type, backoff, unique_key, tags, options, payload, ?9
    FROM job
    WHERE id BETWEEN ?1 AND ?2";

const INSERT_ATTEMPT: &str = "
    INSERT INTO attempt_log (
        job_id, delivery, attempt, node, worker, started_at, ended_at, ending, code, message
    )
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";

/// The part of a job's row that decides how it goes on.
struct Standing {
    charges: Charges,
    rules: Rules,
}

/// How a lease ended, and what is to be said of it.
struct End<'a> {
    ending: Ending,
    code: &'a str,
    message: &'a str,
    chance: f64,
}

impl Tables {
    pub(super) fn settle(&mut self, settlements: Vec<Settlement>) -> rusqlite::Result<SettledAll> {
        let mut all = SettledAll::default();
        while all.settled.len() < settlements.len() {
            let left = &settlements[all.settled.len()..];
            self.settle_first(left, &mut all.settled)?;
        }
        self.release_dependents(&mut all.more)?;
        Ok(all)
    }

    /// Ends the first lease, and those after it that can be ended with it.
    fn settle_first(
        &mut self,
        settlements: &[Settlement],
        settled: &mut Vec<Settled>,
    ) -> rusqlite::Result<()> {
        let Settlement { lease, verdict } = &settlements[0];
        let lease = *lease;
        let Some(held) = self.leases.find(lease).cloned() else {
            settled.push(self.settled_before(lease, verdict)?);
            return Ok(());
        };
        let end = match verdict {
            Verdict::Ack { result } => {
                let run = self.plain_run(settlements, &held);
                self.complete(run, &held, result.as_ref())?;
                let done = |one: &Settlement| {
                    let to = Destination::Finished(State::Completed);
                    Settled::Done(self.effect(held.queue, one.lease.job, to))
                };
                settled.extend(run.iter().map(done));
                return Ok(());
            }
            Verdict::Fail { code, message, chance, .. } => {
                let ending = ending_of(verdict);
                End { ending, code: code.as_str(), message, chance: *chance }
            }
            Verdict::Release | Verdict::Snooze(_) => {
                End { ending: ending_of(verdict), code: "", message: "", chance: 0.0 }
            }
        };
        settled.push(Settled::Done(self.end_badly(lease, held, &end)?));
        Ok(())
    }

    /// The first one, and those after it that are acks too and can be written together with it:
    /// of the same claim, of the jobs that follow, with nothing to write beside their rows.
    fn plain_run<'a>(&self, settlements: &'a [Settlement], first: &Held) -> &'a [Settlement] {
        let is_plain = |one: &Settlement, held: &Held| {
            let is_bare = matches!(one.verdict, Verdict::Ack { result: None });
            is_bare && held.plain && !held.is_tagged
        };
        if !is_plain(&settlements[0], first) {
            return &settlements[..1];
        }
        let mut next = settlements[0].lease.job;
        let is_next = |one: &&Settlement| {
            next.0 += 1;
            let held = self.leases.find(one.lease).filter(|held| held.row == first.row);
            one.lease.job == next && held.is_some_and(|held| is_plain(one, held))
        };
        let more = settlements[1..].iter().take_while(is_next).count();
        &settlements[..1 + more]
    }

    /// Takes a lease away for a reason that its worker has not given.
    pub(super) fn take_away(&mut self, lease: Lease, ending: Ending) -> rusqlite::Result<Effect> {
        let held = self.leases.held(lease.job).expect("the caller has just found it there");
        let (code, message) = verdict_of(ending);
        self.end_badly(lease, held, &End { ending, code, message, chance: EVEN_CHANCE })
    }

    /// Whether a lease that is not held any more ended just so.
    fn settled_before(&self, lease: Lease, verdict: &Verdict) -> rusqlite::Result<Settled> {
        let id = sql_id(lease.job);
        let sql = "SELECT state, deliveries FROM finished WHERE id = ?1";
        let finished = self.one(sql, [id], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let finished: Option<(String, u32)> = finished;
        let sql = "SELECT ending FROM attempt_log WHERE job_id = ?1 AND delivery = ?2";
        let logged: Option<String> =
            self.one(sql, params![id, lease.delivery], |row| row.get(0))?;
        let ending = match (&finished, logged) {
            (_, Some(ending)) => Some(ending),
            (Some((state, delivery)), None) if *delivery == lease.delivery => {
                (state == State::Completed.name()).then(|| Ending::Completed.name().to_owned())
            }
            _ => None,
        };
        if ending.as_deref() == Some(ending_of(verdict).name()) {
            return Ok(Settled::Repeated);
        }
        let sql = "SELECT 1 FROM job WHERE id = ?1";
        let is_known = finished.is_some() || self.one(sql, [id], |_| Ok(()))?.is_some();
        Ok(if is_known { Settled::LeaseLost } else { Settled::Unknown })
    }

    /// Jobs of one claim are done: one, or a run of plain ones.
    fn complete(
        &mut self,
        run: &[Settlement],
        held: &Held,
        result: Option<&Bytes>,
    ) -> rusqlite::Result<()> {
        let job = run[0].lease.job;
        let (first, last) = (sql_id(job), sql_id(job) + run.len() as i64 - 1);
        let is_kept = self.is_kept(job, held)?;
        let by = self.leases.row(held.row);
        if is_kept {
            self.execute(
                INSERT_FINISHED,
                params![
                    first,
                    last,
                    State::Completed.name(),
                    None::<&str>,
                    self.now.0,
                    None::<u32>,
                    None::<u32>,
                    None::<u32>,
                    result.map(|result| &result[..]),
                ],
            )?;
            self.keep(held.queue, first, last, Some(by))?;
        } else {
            self.forget_stories(first, last)?;
        }
        if !held.plain {
            self.end_attempt(first, by.started_at)?;
            self.release_key(held.queue, first)?;
            self.release_custom_id(first)?;
            self.ended.push((job, State::Completed));
            if !is_kept {
                self.forget_custom_ids(first, first)?;
            }
        }
        if !is_kept && held.is_tagged {
            self.forget_tags(first)?;
        }
        self.execute("DELETE FROM job WHERE id BETWEEN ?1 AND ?2", [first, last])?;
        for Settlement { lease, .. } in run {
            let detail = Detail::of_end(lease.delivery, None);
            self.tell(EventKind::Completed, held.queue, Some(sql_id(lease.job)), &detail)?;
            self.drop_lease(lease.job)?;
        }
        let count = run.len() as u64;
        *self.count(held.queue, State::Leased) -= count;
        *self.count(held.queue, State::Completed) += if is_kept { count } else { 0 };
        Ok(())
    }

    /// Jobs that ended now, but not dead, are to be forgotten in their turn. Those that are completed
    /// were so by the holder of a lease.
    fn keep(
        &self,
        queue: QueueId,
        first: i64,
        last: i64,
        by: Option<&LeaseRow>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO kept (
                       queue_id, finished_at, first_id, last_id, node, worker, started_at
                   )
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let (node, worker) = by.map(|by| (&by.node, by.worker.as_str())).unzip();
        let started_at = by.map(|by| by.started_at.0);
        self.execute(sql, params![queue, self.now.0, first, last, node, worker, started_at])
    }

    /// Whether a job is kept once it is completed.
    fn is_kept(&self, job: JobId, held: &Held) -> rusqlite::Result<bool> {
        if self.retention.of(&self.details(held.queue).settings).keeps_completed() {
            return Ok(true);
        }
        let sql = "SELECT 1 FROM dependency WHERE needs_id = ?1 LIMIT 1";
        // Nobody waits for a plain job.
        Ok(!held.plain && self.one(sql, [sql_id(job)], |_| Ok(()))?.is_some())
    }

    /// Ends a lease without completing its job.
    fn end_badly(&mut self, lease: Lease, held: Held, end: &End<'_>) -> rusqlite::Result<Effect> {
        let id = sql_id(lease.job);
        let standing = self.standing(id)?;
        let by = self.leases.row(held.row).clone();
        self.execute(
            INSERT_ATTEMPT,
            params![
                id,
                lease.delivery,
                standing.charges.attempts + 1,
                by.node,
                by.worker.as_str(),
                by.started_at.0,
                self.now.0,
                end.ending.name(),
                end.code,
                end.message,
            ],
        )?;
        let detail = Detail::of_failure(lease.delivery, end.code, end.message);
        self.tell(EventKind::of_ending(end.ending), held.queue, Some(id), &detail)?;
        self.end_attempt(id, by.started_at)?;
        self.drop_lease(lease.job)?;
        *self.count(held.queue, State::Leased) -= 1;
        let (next, charges) =
            job::after(end.ending, standing.charges, &standing.rules, self.now, end.chance);
        let to = self.go_on(lease, held.queue, next, charges, &standing)?;
        Ok(self.effect(held.queue, lease.job, to))
    }

    fn go_on(
        &mut self,
        lease: Lease,
        queue: QueueId,
        next: Next,
        charges: Charges,
        standing: &Standing,
    ) -> rusqlite::Result<Destination> {
        let id = sql_id(lease.job);
        let run_at = match next {
            Next::Completed => unreachable!("no ending but completion leads there"),
            Next::Dead(reason) => {
                self.bury(queue, id, lease.delivery, reason, Some(charges))?;
                return Ok(Destination::Finished(State::Dead));
            }
            Next::Cancelled => {
                let end = (State::Cancelled, None);
                self.finish(queue, id, lease.delivery, end, Some(charges))?;
                return Ok(Destination::Finished(State::Cancelled));
            }
            Next::Ready => None,
            Next::Scheduled(at) => Some(at),
        };
        self.execute(
            "UPDATE job SET attempts = ?2, crashes = ?3, delivery = delivery + 1, run_at = ?4
             WHERE id = ?1",
            params![id, charges.attempts, charges.crashes, run_at.map(|at| at.0)],
        )?;
        if let Some(expires_at) = standing.rules.expires_at {
            self.insert_ttl(id, expires_at)?;
        }
        match run_at {
            Some(at) => {
                self.insert_scheduled(queue, id, at)?;
                Ok(Destination::Scheduled(at))
            }
            None => {
                self.insert_ready(queue, id)?;
                Ok(Destination::Ready)
            }
        }
    }

    fn standing(&self, id: i64) -> rusqlite::Result<Standing> {
        let sql = "SELECT attempts, crashes, max_attempts, backoff, expires_at,
                       EXISTS (SELECT 1 FROM cancel WHERE job_id = ?1)
                   FROM job WHERE id = ?1";
        self.conn.prepare_cached(sql)?.query_row([id], |row| {
            Ok(Standing {
                charges: Charges { attempts: row.get(0)?, crashes: row.get(1)? },
                rules: Rules {
                    max_attempts: row.get(2)?,
                    crashes_max: CRASHES_MAX,
                    backoff: row::backoff(row, 3)?.unwrap_or_default(),
                    expires_at: row::time(row, 4)?,
                    is_cancelled: row.get(5)?,
                },
            })
        })
    }

    /// Clears away what an attempt may have left beside its lease.
    fn end_attempt(&self, id: i64, started_at: Timestamp) -> rusqlite::Result<()> {
        let sql = "DELETE FROM deadline
                   WHERE at = ?2 + (SELECT timeout_ms FROM job WHERE id = ?1) AND job_id = ?1";
        self.execute(sql, params![id, started_at.0])?;
        self.execute("DELETE FROM cancel WHERE job_id = ?1", [id])?;
        self.execute("DELETE FROM progress WHERE job_id = ?1", [id])
    }

    /// Gives back the keys of its queue that a job has as long as it lives.
    pub(super) fn release_key(&self, queue: QueueId, id: i64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM unique_key
                   WHERE queue_id = ?1 AND kind IN (0, 2) AND job_id = ?2
                   AND key = (SELECT unique_key FROM job WHERE id = ?2)";
        self.execute(sql, params![queue, id])
    }

    pub(super) fn delete_ttl(&self, id: i64, expires_at: Timestamp) -> rusqlite::Result<()> {
        let sql = "DELETE FROM ttl WHERE expires_at = ?1 AND job_id = ?2";
        self.execute(sql, params![expires_at.0, id])
    }

    /// A waiting job, no longer counted or in line, ends.
    pub(super) fn finish_waiting(
        &mut self,
        queue: QueueId,
        id: i64,
        delivery: u32,
        state: State,
        reason: Option<Reason>,
    ) -> rusqlite::Result<Effect> {
        let sql = "DELETE FROM ttl
                   WHERE expires_at = (SELECT expires_at FROM job WHERE id = ?1) AND job_id = ?1";
        self.execute(sql, [id])?;
        self.finish(queue, id, delivery - 1, (state, reason), None)?;
        Ok(self.effect(queue, JobId(id.cast_unsigned()), Destination::Finished(state)))
    }

    pub(super) fn bury_waiting(
        &mut self,
        queue: QueueId,
        id: i64,
        delivery: u32,
        reason: Reason,
    ) -> rusqlite::Result<Effect> {
        self.finish_waiting(queue, id, delivery, State::Dead, Some(reason))
    }

    fn bury(
        &mut self,
        queue: QueueId,
        id: i64,
        deliveries: u32,
        reason: Reason,
        charges: Option<Charges>,
    ) -> rusqlite::Result<()> {
        self.finish(queue, id, deliveries, (State::Dead, Some(reason)), charges)
    }

    pub(super) fn finish(
        &mut self,
        queue: QueueId,
        id: i64,
        deliveries: u32,
        (state, reason): (State, Option<Reason>),
        charges: Option<Charges>,
    ) -> rusqlite::Result<()> {
        self.execute(
            INSERT_FINISHED,
            params![
                id,
                id,
                state.name(),
                reason.map(Reason::name),
                self.now.0,
                charges.map(|charges| charges.attempts),
                deliveries,
                charges.map(|charges| charges.crashes),
                None::<&[u8]>,
            ],
        )?;
        if state != State::Dead {
            self.keep(queue, id, id, None)?;
        }
        self.release_key(queue, id)?;
        self.release_custom_id(id)?;
        self.execute("DELETE FROM dependency WHERE job_id = ?1", [id])?;
        self.execute("DELETE FROM job WHERE id = ?1", [id])?;
        *self.count(queue, state) += 1;
        self.ended.push((JobId(id.cast_unsigned()), state));
        let detail = Detail::of_end(deliveries, reason);
        self.tell(EventKind::of_end(state), queue, Some(id), &detail)
    }

    pub(super) fn effect(&self, queue: QueueId, job: JobId, to: Destination) -> Effect {
        Effect { job, queue: self.details(queue).name.clone(), to }
    }

    pub(super) fn progress(&mut self, lease: Lease, progress: Progress) -> rusqlite::Result<bool> {
        if self.leases.find(lease).is_none() {
            return Ok(false);
        }
        self.leases.set_not_plain(lease.job);
        self.execute(
            "INSERT OR REPLACE INTO progress (job_id, percent, message) VALUES (?1, ?2, ?3)",
            params![sql_id(lease.job), progress.percent, progress.message],
        )?;
        let queue = self.queue_of(sql_id(lease.job))?;
        let detail = Detail::of_progress(&progress);
        self.tell(EventKind::Progress, queue, Some(sql_id(lease.job)), &detail)?;
        Ok(true)
    }

    pub(super) fn partial(&mut self, lease: Lease, partial: &Partial) -> rusqlite::Result<bool> {
        if self.leases.find(lease).is_none() {
            return Ok(false);
        }
        let queue = self.queue_of(sql_id(lease.job))?;
        let detail = Detail::of_partial(partial);
        self.tell(EventKind::Partial, queue, Some(sql_id(lease.job)), &detail)?;
        Ok(true)
    }
}

//! What clients of flashQ change of single jobs.
//!
//! Whoever knows the number of a job may change it, on any connection of any node. An active job
//! belongs to its worker: it can be cancelled, put off or set aside, which ends the worker's lease,
//! but its data and its priority stay as they are.

use std::time::Duration;

use batonq_protocol::ErrorCode;
use tokio::time::Instant;

use super::{Answer, Client, Fields, Refused, fields, leases};
use crate::error::Error;
use crate::job::{FailureCode, JobId, State};
use crate::limits;
use crate::store::{Edit, Partial, Retry, Settled, Settlement, Verdict};

/// How long the end of a lease is waited for that is taken away: the leader does that, at once
/// unless it is gone.
const FORCED_WITHIN: Duration = Duration::from_secs(3);

pub(super) async fn cancel(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let broker = &client.door.broker;
    let refused = || {
        Refused(
            format!("Job {id} cannot be cancelled (already completed/failed)"),
            ErrorCode::WrongState,
        )
    };
    let cancelled = broker.cancel(id, Duration::ZERO).await;
    if explained(cancelled, refused)?.is_some() {
        let job = broker.wait_job(id, FORCED_WITHIN).await;
        // Its worker may have been faster.
        if job.is_ok_and(|job| matches!(job.state, State::Completed | State::Dead)) {
            return Err(refused());
        }
    }
    Ok(Fields::new())
}

/// Waits until the leases of these jobs have ended, which are about to be taken away; for as long
/// as that should take.
pub(super) async fn forced(client: &Client<'_>, ids: &[JobId]) {
    let deadline = Instant::now() + FORCED_WITHIN;
    for id in ids {
        let left = deadline.saturating_duration_since(Instant::now());
        // It is over when it is gone, too; and what can not be told takes no longer.
        client.door.broker.wait_job(*id, left).await.ok();
    }
}

pub(super) async fn updatejob(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let payload = Some(fields::payload(fields::value(&fields, "data")?)?);
    edit(&client, id, Edit { payload, ..Edit::default() }, "be updated").await
}

pub(super) async fn changepriority(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    fields::value(&fields, "priority")?;
    let priority = Some(fields::priority(&fields)?);
    edit(&client, id, Edit { priority, ..Edit::default() }, "change priority").await
}

async fn edit(client: &Client<'_>, id: JobId, edit: Edit, what: &str) -> Answer {
    let refused = || {
        Refused(format!("Job {id} cannot {what}: only a job that waits can"), ErrorCode::WrongState)
    };
    explained(client.door.broker.edit(id, edit).await, refused)?;
    Ok(Fields::new())
}

pub(super) async fn promote(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let refused = || Refused(format!("Job {id} is not delayed"), ErrorCode::WrongState);
    explained(client.door.broker.promote(id).await, refused)?;
    Ok(Fields::new())
}

pub(super) async fn movetodelayed(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let delay = Duration::from_millis(fields::number(&fields, "delay")?);
    if delay > limits::DELAY_MAX {
        return Err(Refused::invalid("delay is more than ten years"));
    }
    match settle(&client, id, Verdict::Snooze(delay)).await? {
        true => Ok(Fields::new()),
        false => Err(Refused(format!("Job {id} not in processing"), ErrorCode::WrongState)),
    }
}

pub(super) async fn discard(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    match client.door.broker.discard(id).await {
        Err(Error::WrongState(_)) => {}
        discarded => return discarded.map(|_| Fields::new()).map_err(Into::into),
    }
    let verdict = Verdict::Fail {
        code: FailureCode::parse("DISCARDED")?,
        message: "it was discarded".into(),
        retry: Retry::Reject,
        chance: 0.0,
    };
    match settle(&client, id, verdict).await? {
        true => Ok(Fields::new()),
        false => Err(Refused(
            format!("Job {id} not found or already in DLQ/completed"),
            ErrorCode::WrongState,
        )),
    }
}

pub(super) async fn log(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let message = fields::text(&fields, "message")?.to_owned();
    let level = fields::opt_text(&fields, "level")?.unwrap_or("info").to_owned();
    client.door.broker.log(id, level, message).await?;
    Ok(Fields::new())
}

/// A part of a result, for those who listen. A worker learns by it whether its job is still active.
pub(super) async fn partial(client: Client<'_>, fields: Fields) -> Answer {
    let id = fields::job_id(&fields)?;
    let index = fields::opt_number(&fields, "index")?.map(u32::try_from).transpose();
    let index = index.map_err(|_| Refused::invalid("index: more than 32 bits"))?;
    let partial = Partial { index, data: fields::json(fields::value(&fields, "data")?) };
    let broker = &client.door.broker;
    let mut lease = leases::lease_of(&client, id).await?;
    // What this node remembers may be out of date; what the store says is not.
    for _ in 0..2 {
        let Some(held) = lease else { break };
        match broker.partial(held, partial.clone()).await {
            Err(Error::LeaseLost) => client.leases.forget(held),
            done => return done.map(|()| Fields::new()).map_err(Into::into),
        }
        let known = broker.leases_of(vec![id]).await?.into_iter().next().flatten();
        lease = known.filter(|known| *known != held);
    }
    Err(Refused(format!("Job {id} not found in processing"), ErrorCode::LeaseLost))
}

/// Ends the lease of a job, whoever has it. False: nobody has.
async fn settle(client: &Client<'_>, id: JobId, verdict: Verdict) -> Result<bool, Refused> {
    let broker = &client.door.broker;
    let mut lease = leases::lease_of(client, id).await?;
    // What this node remembers may be out of date; what the store says is not.
    for _ in 0..2 {
        let Some(held) = lease else { return Ok(false) };
        let settlement = Settlement { lease: held, verdict: verdict.clone() };
        let settled = broker.settle(vec![settlement]).await?;
        client.leases.forget(held);
        // A lease that has ended so before is not the one that is meant.
        if let [Settled::Done(_)] = settled[..] {
            return Ok(true);
        }
        let known = broker.leases_of(vec![id]).await?.into_iter().next().flatten();
        lease = known.filter(|known| *known != held);
    }
    Ok(false)
}

/// What is said if the state of a job does not allow what was asked for.
fn explained<T>(done: Result<T, Error>, refused: impl Fn() -> Refused) -> Result<T, Refused> {
    done.map_err(|error| match error {
        Error::WrongState(_) => refused(),
        error => error.into(),
    })
}

//! Ending leases, or keeping them.

use std::time::Duration;

use super::{Answered, Call, ok};
use crate::door::{check_batch, each};
use crate::error::Error;
use crate::http::model::lease::{
    AckBody, AcksBody, DONE, DoneBody, ExtendBody, ExtendedBody, FailBody, FailsBody, ProgressBody,
    ReleaseBody, ReleasesBody, SettleResult, SettledBody,
};
use crate::http::model::lease_in;
use crate::job::{JobId, Lease, check_lease, cut};
use crate::limits;
use crate::store::{Extension, Progress, Refused, Settled, Settlement, Verdict};

impl Call {
    /// The lease of a token, which must be for `job` if the request names one.
    fn lease(&self, token: &str, job: Option<JobId>) -> Result<Lease, Error> {
        let lease = lease_in(&self.door.broker, token)?;
        match job {
            Some(job) if job != lease.job => {
                Err(Error::invalid("lease", format!("is a lease of job {}", lease.job)))
            }
            _ => Ok(lease),
        }
    }

    /// Has it noted that this client came too late for these of the leases.
    fn note_refused<'a>(
        &self,
        leases: &[(Lease, &'static str)],
        settled: impl Iterator<Item = &'a Settled>,
    ) {
        let lost =
            leases.iter().zip(settled).filter(|(_, settled)| **settled == Settled::LeaseLost);
        let refused =
            lost.map(|((lease, what), _)| Refused { lease: *lease, who: self.who.clone(), what });
        self.door.broker.note_refused(refused.collect());
    }

    async fn settle(&self, token: &str, verdict: Verdict) -> Answered<DoneBody> {
        let job = self.job()?;
        let lease = self.lease(token, Some(job))?;
        let word = verdict.word();
        let settled = self.door.broker.settle(vec![Settlement { lease, verdict }]).await?;
        self.note_refused(&[(lease, word)], settled.iter());
        match settled.into_iter().next() {
            Some(Settled::Done(_) | Settled::Repeated) => ok(DONE),
            Some(Settled::LeaseLost) => Err(Error::LeaseLost),
            Some(Settled::Unknown) => Err(Error::NotFound(format!("there is no job {job}"))),
            None => Err(Error::Internal("an answer is missing".into())),
        }
    }

    async fn settle_batch(
        &self,
        field: &'static str,
        items: Vec<(Option<u64>, String, Result<Verdict, Error>)>,
    ) -> Answered<SettledBody> {
        check_batch(field, items.len())?;
        let settlement = |(id, token, verdict): (Option<u64>, String, Result<Verdict, Error>)| {
            let lease = self.lease(&token, id.map(JobId))?;
            Ok(Settlement { lease, verdict: verdict? })
        };
        let items: Vec<Result<Settlement, Error>> = items.into_iter().map(settlement).collect();
        let id =
            |item: &Result<Settlement, Error>| item.as_ref().map_or(0, |item| item.lease.job.0);
        let ids: Vec<u64> = items.iter().map(id).collect();
        let good = items.iter().filter_map(|item| item.as_ref().ok());
        let leases: Vec<_> = good.map(|item| (item.lease, item.verdict.word())).collect();
        let settled = each(items, |items| self.door.broker.settle(items)).await?;
        self.note_refused(&leases, settled.iter().filter_map(|settled| settled.as_ref().ok()));
        let results = ids.into_iter().zip(&settled);
        ok(SettledBody { results: results.map(|(id, one)| SettleResult::new(id, one)).collect() })
    }
}

pub(in crate::http) async fn ack(call: Call, ack: AckBody) -> Answered<DoneBody> {
    let token = ack.lease.clone();
    call.settle(&token, ack.verdict()?).await
}

pub(in crate::http) async fn fail(call: Call, fail: FailBody) -> Answered<DoneBody> {
    let token = fail.lease.clone();
    call.settle(&token, fail.verdict()?).await
}

pub(in crate::http) async fn release(call: Call, release: ReleaseBody) -> Answered<DoneBody> {
    call.settle(&release.lease, release.verdict()?).await
}

pub(in crate::http) async fn ack_batch(call: Call, batch: AcksBody) -> Answered<SettledBody> {
    let items = batch.acks.into_iter();
    let items = items.map(|ack| (ack.id, ack.lease.clone(), ack.verdict())).collect();
    call.settle_batch("acks", items).await
}

pub(in crate::http) async fn fail_batch(call: Call, batch: FailsBody) -> Answered<SettledBody> {
    let items = batch.fails.into_iter();
    let items = items.map(|fail| (fail.id, fail.lease.clone(), fail.verdict())).collect();
    call.settle_batch("fails", items).await
}

pub(in crate::http) async fn release_batch(
    call: Call,
    batch: ReleasesBody,
) -> Answered<SettledBody> {
    let items = batch.releases.into_iter();
    let items = items.map(|release| {
        let verdict = release.verdict();
        (release.id, release.lease, verdict)
    });
    let items = items.collect();
    call.settle_batch("releases", items).await
}

pub(in crate::http) async fn extend(call: Call, extend: ExtendBody) -> Answered<ExtendedBody> {
    let hold = check_lease(Duration::from_millis(extend.lease_ms))?;
    let lease = call.lease(&extend.lease, Some(call.job()?))?;
    let extended = call.door.broker.extend(vec![Extension { lease, hold }]).await?;
    let extended = extended.into_iter().next().flatten().ok_or(Error::LeaseLost)?;
    ok(extended.into())
}

pub(in crate::http) async fn progress(call: Call, progress: ProgressBody) -> Answered<DoneBody> {
    let lease = call.lease(&progress.lease, Some(call.job()?))?;
    let percent = u8::try_from(progress.percent).ok().filter(|percent| *percent <= 100);
    let percent = percent.ok_or_else(|| Error::invalid("percent", "must be from 0 to 100"))?;
    let message = cut(&progress.message, limits::ERROR_MESSAGE_BYTES_MAX);
    call.door.broker.progress(lease, Progress { percent, message }).await?;
    ok(DONE)
}

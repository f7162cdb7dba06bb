//! One request: its operation, its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use batonq_protocol::Message;
use batonq_protocol::messages as wire;
use bytes::Bytes;

use super::convert;
use crate::access::{Operation, Principal};
use crate::broker::{Broker, Pull};
use crate::cluster::Leave;
use crate::door::{Door, check_batch, each, json_in};
use crate::error::Error;
use crate::job::{
    JobId, Lease, QueueName, ScheduleName, WorkerName, check_grace, check_lease, check_wait, cut,
};
use crate::limits;
use crate::store::{Extension, Hold, Pausing, Progress, SessionId};

/// What an answer needs to know of its connection.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) door: Door,
    pub(super) broker: Broker,
    pub(super) principal: Principal,
    pub(super) worker: WorkerName,
    /// Who asks, in words.
    pub(super) who: String,
    pub(super) session: SessionId,
}

/// What goes back, and which leases it settled.
pub(super) struct Answer {
    pub(super) message: Message,
    pub(super) settled: Vec<Lease>,
}

impl From<Message> for Answer {
    fn from(message: Message) -> Self {
        Self { message, settled: Vec::new() }
    }
}

/// What a message asks for. `None`: it is no request, or one that the connection serves itself.
///
/// There is no wildcard: a new message does not compile until someone has decided.
pub(super) fn operation(message: &Message) -> Option<Operation> {
    Some(match message {
        Message::Push(_) | Message::PushFlow(_) => Operation::Push,
        Message::Pull(_) | Message::Subscribe(_) => Operation::Pull,
        Message::Ack(_)
        | Message::Fail(_)
        | Message::Release(_)
        | Message::Extend(_)
        | Message::Progress(_) => Operation::Settle,
        Message::AddCredit(_) | Message::Unsubscribe(_) => Operation::Pull,
        Message::GetJob(_) => Operation::GetJob,
        Message::WaitJob(_) => Operation::WaitJob,
        Message::ListJobs(_) => Operation::ListJobs,
        Message::GetTimeline(_) => Operation::GetTimeline,
        Message::Explain(_) => Operation::ExplainJob,
        Message::ListQueues(_) => Operation::ListQueues,
        Message::GetStats(_) => Operation::GetStats,
        Message::ListWorkers(_) => Operation::ListWorkers,
        Message::PauseQueue(_) => Operation::PauseQueue,
        Message::ResumeQueue(_) => Operation::ResumeQueue,
        Message::RetryJob(_) => Operation::RetryJob,
        Message::ReplayJob(_) => Operation::ReplayJob,
        Message::ReplayDead(_) => Operation::ReplayDead,
        Message::CancelJob(_) => Operation::CancelJob,
        Message::PromoteJob(_) => Operation::PromoteJob,
        Message::EditJob(_) => Operation::EditJob,
        Message::DeleteJob(_) => Operation::DeleteJob,
        Message::BulkJobs(_) => Operation::Bulk,
        Message::SetSettings(_) => Operation::SetSettings,
        Message::ListKeys(_) => Operation::ListKeys,
        Message::ListDecisions(_) => Operation::ListDecisions,
        Message::ListSchedules(_) | Message::ListFires(_) => Operation::ListSchedules,
        Message::PutSchedule(_)
        | Message::DeleteSchedule(_)
        | Message::PauseSchedule(_)
        | Message::ResumeSchedule(_)
        | Message::RunSchedule(_) => Operation::ChangeSchedule,
        Message::ListNodes(_) => Operation::GetCluster,
        Message::DrainNode(_) => Operation::DrainNode,
        Message::Ping(_) | Message::Pong(_) => Operation::Greet,
        Message::Hello(_)
        | Message::Welcome(_)
        | Message::Error(_)
        | Message::Done(_)
        | Message::Pushed(_)
        | Message::Pulled(_)
        | Message::Delivery(_)
        | Message::LeasesLost(_)
        | Message::GoAway(_)
        | Message::Settled(_)
        | Message::Job(_)
        | Message::JobPage(_)
        | Message::Timeline(_)
        | Message::Explanation(_)
        | Message::Queues(_)
        | Message::Stats(_)
        | Message::Workers(_)
        | Message::Nodes(_)
        | Message::Keys(_)
        | Message::Decisions(_)
        | Message::BulkDone(_)
        | Message::Schedules(_)
        | Message::Fires(_)
        | Message::CancelStatus(_)
        | Message::CancelRequested(_)
        | Message::Replayed(_) => return None,
    })
}

fn answered(answer: Result<Answer, Error>) -> Answer {
    answer.unwrap_or_else(|error| convert::error_message(&error).into())
}

impl Asker {
    /// Serves a request; what goes wrong is its answer.
    ///
    /// A pull does not carry the weight of everything else about: it is a future of its own. Pushes and
    /// ends of leases are not served here: see [`super::together`].
    pub(super) fn answer(
        self: Arc<Self>,
        message: Message,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        match message {
            Message::Pull(pull) => {
                Box::pin(async move { answered(self.pull(pull).await.map(Answer::from)) })
            }
            message => {
                Box::pin(async move { answered(self.serve(message).await.map(Answer::from)) })
            }
        }
    }

    async fn serve(&self, message: Message) -> Result<Message, Error> {
        match message {
            Message::PushFlow(flow) => self.push_flow(flow).await,
            Message::Extend(extend) => self.extend(extend).await,
            Message::Progress(progress) => self.progress(progress).await,
            message => self.serve_people(message).await,
        }
    }

    async fn push_flow(&self, flow: wire::PushFlow) -> Result<Message, Error> {
        check_batch("jobs", flow.jobs.len())?;
        let jobs = convert::new_jobs(flow.jobs).collect::<Result<_, _>>()?;
        let pushed = self.broker.push_flow(jobs).await?;
        let results = pushed.into_iter().map(|one| convert::push_result(Ok(one))).collect();
        Ok(Message::Pushed(wire::Pushed { results }))
    }

    async fn pull(&self, pull: wire::Pull) -> Result<Message, Error> {
        let count = pull.count.max(1) as usize;
        if count > limits::BATCH_MAX {
            return Err(Error::invalid("count", format!("more than {}", limits::BATCH_MAX)));
        }
        let hold = match pull.lease_ms {
            0 => Hold::Session(self.session),
            lease => Hold::Time(check_lease(Duration::from_millis(lease))?),
        };
        let wish = Pull {
            queue: QueueName::parse(&pull.queue)?,
            count,
            wait: check_wait("wait_ms", Duration::from_millis(pull.wait_ms))?,
            worker: self.worker.clone(),
            hold,
        };
        let jobs = self.broker.pull(wish).await?.into_iter();
        let jobs = jobs.map(|job| convert::leased_job(&self.broker, job, &pull.queue)).collect();
        Ok(Message::Pulled(wire::Pulled { jobs }))
    }

    async fn extend(&self, extend: wire::Extend) -> Result<Message, Error> {
        check_batch("items", extend.items.len())?;
        let extension = |item: wire::ExtendItem| {
            let hold = check_lease(Duration::from_millis(item.lease_ms))?;
            Ok(Extension { lease: self.broker.open_lease(&item.lease)?, hold })
        };
        let items = extend.items.into_iter().map(extension).collect();
        let extended = each(items, |items| self.broker.extend(items)).await?;
        let results = extended.into_iter().map(convert::extend_result).collect();
        Ok(Message::Settled(wire::Settled { results }))
    }

    async fn progress(&self, progress: wire::Progress) -> Result<Message, Error> {
        let lease = self.broker.open_lease(&progress.lease)?;
        let percent = u8::try_from(progress.percent).ok().filter(|percent| *percent <= 100);
        let percent = percent.ok_or_else(|| Error::invalid("percent", "must be from 0 to 100"))?;
        let message = cut(&progress.message, limits::ERROR_MESSAGE_BYTES_MAX);
        let status = match self.broker.progress(lease, Progress { percent, message }).await {
            Ok(()) => wire::SettleStatus::Ok,
            Err(Error::LeaseLost) => wire::SettleStatus::LeaseLost,
            Err(error) => return Err(error),
        };
        let result = wire::SettleResult { status: status.into(), ..Default::default() };
        Ok(Message::Settled(wire::Settled { results: vec![result] }))
    }

    async fn serve_people(&self, message: Message) -> Result<Message, Error> {
        let broker = &self.broker;
        Ok(match message {
            Message::GetJob(get) => {
                Message::Job(Box::new(convert::job(broker.job(JobId(get.id)).await?)))
            }
            Message::WaitJob(wait) => {
                let time = check_wait("wait_ms", Duration::from_millis(wait.wait_ms))?;
                Message::Job(Box::new(convert::job(broker.wait_job(JobId(wait.id), time).await?)))
            }
            Message::ListJobs(list) => {
                let page = broker.jobs(convert::job_filter(broker, *list)?).await?;
                Message::JobPage(convert::job_page(page))
            }
            Message::GetTimeline(get) => Message::Timeline(Box::new(convert::timeline(
                broker.timeline(JobId(get.id)).await?,
            ))),
            Message::Explain(explain) => {
                let explanation = self.door.explain(JobId(explain.id)).await?;
                Message::Explanation(Box::new(convert::explanation(explanation)))
            }
            message => self.list(message).await?,
        })
    }

    async fn list(&self, message: Message) -> Result<Message, Error> {
        let broker = &self.broker;
        Ok(match message {
            Message::ListQueues(list) => {
                let queues = match convert::queue_filter(&list.queue)? {
                    Some(name) => vec![broker.queue(name).await?],
                    None => broker.queues().await?,
                };
                let after = queues.into_iter().filter(|queue| queue.name.as_str() > &*list.after);
                let queues = after.take(limits::PAGE_MAX).map(convert::queue).collect();
                Message::Queues(wire::Queues { queues })
            }
            Message::ListKeys(list) => {
                let keys = broker.key_uses(QueueName::parse(&list.queue)?).await?;
                let keys = keys.into_iter().map(convert::key_use).collect();
                Message::Keys(wire::Keys { keys })
            }
            Message::ListDecisions(list) => {
                let limit = convert::page_limit(list.limit, limits::PAGE_DEFAULT)?;
                let queue = convert::queue_filter(&list.queue)?;
                let decisions = broker.decisions(queue, limit).await?.into_iter();
                let decisions = decisions.map(convert::decision).collect();
                Message::Decisions(wire::Decisions { decisions })
            }
            Message::ListSchedules(list) => {
                let limit = convert::page_limit(list.limit, limits::PAGE_DEFAULT)?;
                let schedules = match convert::schedule_name(&list.name)? {
                    Some(name) => vec![broker.schedule(name).await?],
                    None => broker.schedules(convert::schedule_name(&list.after)?, limit).await?,
                };
                let schedules = schedules.into_iter().map(convert::schedule_out).collect();
                Message::Schedules(wire::Schedules { schedules })
            }
            Message::ListFires(list) => {
                let limit = convert::page_limit(list.limit, limits::PAGE_DEFAULT)?;
                let fires = broker.fires(ScheduleName::parse(&list.name)?, limit).await?;
                let fires = fires.into_iter().map(convert::fire_out).collect();
                Message::Fires(wire::Fires { fires })
            }
            Message::ListWorkers(_) => {
                let workers = broker.workers().into_iter().map(convert::worker).collect();
                Message::Workers(wire::Workers { workers })
            }
            Message::ListNodes(_) => {
                let nodes = self.door.nodes().await?.into_iter().map(convert::node).collect();
                Message::Nodes(wire::Nodes { nodes })
            }
            Message::GetStats(_) => {
                let metrics = broker.metrics();
                let uptime = broker.health().uptime;
                let minute = metrics.last_minute();
                let stats = convert::stats(&minute, metrics.connections(), uptime);
                Message::Stats(Box::new(stats))
            }
            message => self.change(message).await?,
        })
    }

    async fn change(&self, message: Message) -> Result<Message, Error> {
        let broker = &self.broker;
        let done = Message::Done(wire::Done {});
        match message {
            Message::PauseQueue(pause) => {
                let (queue, who) = (QueueName::parse(&pause.queue)?, self.who.clone());
                broker.set_paused(queue, Pausing::Pause, who).await?;
            }
            Message::ResumeQueue(resume) => {
                let (queue, who) = (QueueName::parse(&resume.queue)?, self.who.clone());
                broker.set_paused(queue, Pausing::Resume, who).await?;
            }
            Message::RetryJob(retry) => drop(broker.retry(JobId(retry.id)).await?),
            Message::CancelJob(cancel) => {
                let grace = check_grace(cancel.grace_ms)?;
                let force_at = broker.cancel(JobId(cancel.id), grace).await?;
                return Ok(Message::CancelStatus(convert::cancel_status(force_at)));
            }
            Message::EditJob(edit) => {
                let (id, edit) = convert::edit(*edit)?;
                broker.edit(id, edit).await?;
            }
            Message::SetSettings(set) => {
                let settings = json_in("settings", set.settings.as_bytes())?;
                broker.set_settings(QueueName::parse(&set.queue)?, settings).await?;
            }
            Message::PromoteJob(promote) => drop(broker.promote(JobId(promote.id)).await?),
            Message::PutSchedule(put) => {
                let (name, spec) = convert::schedule_in(put.schedule.unwrap_or_default())?;
                broker.put_schedule(name, spec).await?;
            }
            Message::DeleteSchedule(delete) => {
                broker.delete_schedule(ScheduleName::parse(&delete.name)?).await?;
            }
            Message::PauseSchedule(pause) => {
                let name = ScheduleName::parse(&pause.name)?;
                broker.pause_schedule(name, Pausing::Pause).await?;
            }
            Message::ResumeSchedule(resume) => {
                let name = ScheduleName::parse(&resume.name)?;
                broker.pause_schedule(name, Pausing::Resume).await?;
            }
            Message::RunSchedule(run) => {
                let pushed = broker.run_schedule(ScheduleName::parse(&run.name)?).await;
                let results = vec![convert::push_result(Ok(pushed?))];
                return Ok(Message::Pushed(wire::Pushed { results }));
            }
            Message::DrainNode(drain) => {
                let leave = if drain.stay { Leave::Stay } else { Leave::Exit };
                self.door.drain(&drain.id, leave).await?;
            }
            Message::ReplayJob(replay) => {
                let (_, edit) = convert::edit(replay.edit.unwrap_or_default())?;
                let copy = broker.replay(JobId(replay.id), edit).await?;
                return Ok(Message::Replayed(wire::Replayed { ids: vec![copy.job.0] }));
            }
            Message::ReplayDead(replay) => {
                let ids = broker.bulk(convert::replay_dead(replay)).await?.ids;
                return Ok(Message::Replayed(wire::Replayed { ids }));
            }
            Message::DeleteJob(delete) => broker.delete(JobId(delete.id)).await?,
            Message::BulkJobs(bulk) => {
                let request = json_in("request", bulk.request.as_bytes())?;
                return Ok(Message::BulkDone(convert::bulk_done(broker.bulk(request).await?)));
            }
            _ => return Err(Error::invalid("message", "is not a request")),
        }
        Ok(done)
    }

    /// The tokens of leases.
    pub(super) fn tokens(&self, leases: Vec<Lease>) -> Vec<Bytes> {
        leases.into_iter().map(|lease| convert::token(&self.broker, lease)).collect()
    }
}

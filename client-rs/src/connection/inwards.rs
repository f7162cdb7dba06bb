//! What a node says: answers, deliveries, and what nobody asked for.

use std::sync::Arc;

use batonq_protocol::messages::{Delivery, Envelope, Pong, Pull, Pulled, Settled};
use batonq_protocol::{ErrorCode, Message};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::Decoder;

use super::{About, Connection, Lost, Pending};
use crate::error::Error;
use crate::fate::Fate;
use crate::job::{Job, leases};
use crate::request::Answer;
use crate::session::{Control, Settlement};
use crate::subscription::Origin;

impl Connection {
    pub(super) fn read_frames(&mut self) -> Result<(), Lost> {
        while let Some(envelope) = self.codec.decode(&mut self.inbound)? {
            self.receive(envelope)?;
        }
        Ok(())
    }

    fn receive(&mut self, Envelope { request_id, message }: Envelope) -> Result<(), Lost> {
        // A newer node may say what this client does not know.
        let Some(message) = message else { return Ok(()) };
        match message {
            Message::Ping(_) => {
                let pong = Envelope { request_id, message: Some(Message::Pong(Pong {})) };
                self.outbound.put(&pong).map_err(|error| Lost(error.to_string()))?;
            }
            Message::Delivery(delivery) => self.deliver(delivery),
            Message::LeasesLost(lost) => self.session.lose(&lost.leases),
            Message::CancelRequested(asked) => self.session.cancel(&asked.leases),
            Message::GoAway(go_away) => {
                tracing::info!(reason = go_away.reason, "the node goes away");
                self.going_away = true;
            }
            Message::Error(error) if request_id == 0 => {
                return Err(Lost(Error::from(error).to_string()));
            }
            answer => self.answered(request_id, answer),
        }
        Ok(())
    }

    fn deliver(&mut self, delivery: Delivery) {
        let wire = delivery.subscription;
        let found = self.subscriptions.get(&wire).copied();
        let found = found.and_then(|key| Some((key, self.session.deliver(key)?)));
        let Some((key, (queue, deliver))) = found else {
            let leases = delivery.jobs.into_iter().map(|job| job.lease).collect();
            return self.release(leases);
        };
        let jobs = self.session.hold(delivery.jobs, &queue, Some(Origin { key, wire }));
        if let Err(mpsc::error::SendError(Ok(jobs))) = deliver.send(Ok(jobs)) {
            self.release(leases(jobs));
        }
    }

    fn answered(&mut self, id: u64, answer: Message) {
        let Some(Pending { about, reply, .. }) = self.pending.remove(&id) else {
            tracing::debug!(id, "an answer to nothing");
            return;
        };
        let answer = match (about, answer) {
            (About::Unsubscribe { key, done }, answer) => {
                return self.unsubscribed(key, done, answer);
            }
            (About::Renew { key }, answer) => return self.renewed(key, id, answer),
            (About::Settle(leases, _), Message::Error(error)) if reply.is_none() => {
                return self.not_released(leases, error.into());
            }
            (About::Subscribe(feed), Message::Error(error)) => {
                self.session.unsubscribed(feed.key(), None);
                Err(error.into())
            }
            (_, Message::Error(error)) => Err(error.into()),
            (About::Subscribe(feed), Message::Done(_)) => {
                self.session.subscribed(feed.key(), id);
                Ok(Answer::Subscribed(feed))
            }
            (About::Pull(pull), Message::Pulled(pulled)) => {
                Ok(Answer::Jobs(self.pulled(pull, pulled)))
            }
            (About::Settle(leases, settlement), Message::Settled(settled)) => {
                self.settled(&leases, &settled, settlement);
                Ok(Answer::Plain(Box::new(Message::Settled(settled))))
            }
            (_, answer) => Ok(Answer::Plain(Box::new(answer))),
        };
        let Some(reply) = reply else { return };
        if let Err(Ok(Answer::Jobs(jobs))) = reply.send(answer) {
            self.release(leases(jobs));
        }
    }

    fn pulled(&self, pull: Pull, pulled: Pulled) -> Vec<Job> {
        let queue = Arc::from(pull.queue);
        if pull.lease_ms == 0 {
            return self.session.hold(pulled.jobs, &queue, None);
        }
        // These leases end by themselves, whatever becomes of the session.
        let job = |job| Job::new(job, Arc::clone(&queue), Fate::default());
        pulled.jobs.into_iter().map(job).collect()
    }

    fn settled(&self, leases: &[Bytes], settled: &Settled, settlement: Settlement) {
        self.session.settled(leases.iter().zip(&settled.results), settlement);
    }

    fn unsubscribed(&mut self, key: u64, done: Option<oneshot::Sender<()>>, answer: Message) {
        if let Message::Error(error) = answer
            && Error::from(error).is_retryable()
        {
            return self.again(Control::Unsubscribe { key, done });
        }
        self.session.unsubscribed(key, None);
        // Who does not wait any more need not be told.
        done.map(|done| done.send(()).ok());
    }

    fn not_released(&mut self, leases: Vec<Bytes>, error: Error) {
        if error.is_retryable() {
            return self.again(Control::Release(leases));
        }
        tracing::warn!(%error, count = leases.len(), "jobs not given back");
    }

    fn renewed(&mut self, key: u64, wire: u64, answer: Message) {
        let error = match answer {
            Message::Done(_) => return self.session.subscribed(key, wire),
            Message::Error(error) => Error::from(error),
            other => Error::unexpected(&other),
        };
        if !error.is_retryable() && error.code() != Some(ErrorCode::Internal) {
            return self.session.unsubscribed(key, Some(error));
        }
        tracing::debug!(%error, "not subscribed yet");
        self.session.not_subscribed(key, wire);
        self.again(Control::Renew);
    }
}

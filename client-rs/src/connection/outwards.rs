//! What a connection asks: for its clients, and on its own.

use batonq_protocol::messages::{Release, Unsubscribe};
use batonq_protocol::{Envelope, Message};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{About, Connection, Pending};
use crate::request::Request;
use crate::session::{Control, Renewal, Settlement};

/// The most leases in one frame that gives jobs back.
const RELEASE_MAX: usize = 500;

impl Connection {
    pub(super) fn ask(&mut self, Request { mut envelope, reply }: Request) {
        if !reply.claim() {
            return;
        }
        let id = self.session.next_request_id();
        envelope.request_id = id;
        match self.outbound.put(&envelope) {
            Ok(begins) => {
                let about = self.about(&mut envelope);
                self.pending.insert(id, Pending { about, begins, reply: Some(reply) });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// What must be known of a request that was sent, taken out of it.
    fn about(&mut self, Envelope { request_id: id, message }: &mut Envelope) -> About {
        match message {
            Some(Message::Subscribe(subscribe)) => {
                let feed = self.session.subscribe(std::mem::take(subscribe), *id);
                self.subscriptions.insert(*id, feed.key());
                About::Subscribe(feed)
            }
            Some(other) => About::of(other),
            None => About::Anything,
        }
    }

    /// Sends what the connection asks on its own.
    pub(super) fn tell(&mut self, id: u64, message: Message, about: About) {
        match self.outbound.put(&Envelope { request_id: id, message: Some(message) }) {
            Ok(begins) => {
                self.pending.insert(id, Pending { about, begins, reply: None });
            }
            Err(error) => tracing::warn!(%error, "not sent"),
        }
    }

    /// Gives jobs back that nobody here will work on.
    pub(super) fn release(&mut self, leases: Vec<Bytes>) {
        self.session.lose(&leases);
        for leases in leases.chunks(RELEASE_MAX) {
            let id = self.session.next_request_id();
            let message = Message::Release(Release { leases: leases.to_vec(), delay_ms: 0 });
            self.tell(id, message, About::Settle(leases.to_vec(), Settlement::EndsLease));
        }
    }

    pub(super) fn obey(&mut self, control: Control) {
        match control {
            Control::Release(leases) => self.release(leases),
            Control::Renew => self.renew(),
            Control::Unsubscribe { key, done } => self.unsubscribe(key, done),
        }
    }

    fn unsubscribe(&mut self, key: u64, done: Option<oneshot::Sender<()>>) {
        let Some(subscription) = self.session.wire(key) else {
            // Dropping `done` says that nothing will be delivered.
            self.session.unsubscribed(key, None);
            return;
        };
        let id = self.session.next_request_id();
        let message = Message::Unsubscribe(Unsubscribe { subscription });
        self.tell(id, message, About::Unsubscribe { key, done });
    }

    pub(super) fn renew(&mut self) {
        for Renewal { key, wire, message } in self.session.renewals() {
            let about = match message {
                Message::Subscribe(_) => {
                    self.subscriptions.insert(wire, key);
                    About::Renew { key }
                }
                _ => About::Anything,
            };
            self.tell(wire, message, about);
        }
    }
}

impl About {
    fn of(message: &mut Message) -> Self {
        use std::mem::take;
        match message {
            Message::Pull(pull) => Self::Pull(take(pull)),
            Message::Ack(ack) => {
                let leases = ack.items.iter_mut().map(|item| take(&mut item.lease)).collect();
                Self::Settle(leases, Settlement::EndsLease)
            }
            Message::Fail(fail) => {
                let leases = fail.items.iter_mut().map(|item| take(&mut item.lease)).collect();
                Self::Settle(leases, Settlement::EndsLease)
            }
            Message::Release(release) => {
                Self::Settle(take(&mut release.leases), Settlement::EndsLease)
            }
            Message::Extend(extend) => {
                let leases = extend.items.iter_mut().map(|item| take(&mut item.lease)).collect();
                Self::Settle(leases, Settlement::KeepsLease)
            }
            Message::Progress(progress) => {
                Self::Settle(vec![take(&mut progress.lease)], Settlement::KeepsLease)
            }
            _ => Self::Anything,
        }
    }
}

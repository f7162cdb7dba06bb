//! What a connection asks: for its clients, and on its own.

use batonq_protocol::Message;
use batonq_protocol::messages::{Release, Unsubscribe};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{About, Connection, Pending};
use crate::request::Request;
use crate::session::{Control, Renewal, Settlement};

/// The most leases in one frame that gives jobs back.
const RELEASE_MAX: usize = 500;

impl Connection {
    pub(super) fn ask(&mut self, Request { message, reply }: Request) {
        if !reply.claim() {
            return;
        }
        let id = self.session.next_request_id();
        match self.outbound.put(id, message) {
            Ok((begins, message)) => {
                let about = self.about(id, message);
                self.pending.insert(id, Pending { about, begins, reply: Some(reply) });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn about(&mut self, id: u64, message: Message) -> About {
        match message {
            Message::Subscribe(subscribe) => {
                let feed = self.session.subscribe(subscribe, id);
                self.subscriptions.insert(id, feed.key());
                About::Subscribe(feed)
            }
            other => About::of(other),
        }
    }

    /// Sends what the connection asks on its own.
    pub(super) fn tell(&mut self, id: u64, message: Message, about: About) {
        match self.outbound.put(id, message) {
            Ok((begins, _)) => {
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
    fn of(message: Message) -> Self {
        match message {
            Message::Pull(pull) => Self::Pull(pull),
            Message::Ack(ack) => {
                let leases = ack.items.into_iter().map(|item| item.lease).collect();
                Self::Settle(leases, Settlement::EndsLease)
            }
            Message::Fail(fail) => {
                let leases = fail.items.into_iter().map(|item| item.lease).collect();
                Self::Settle(leases, Settlement::EndsLease)
            }
            Message::Release(release) => Self::Settle(release.leases, Settlement::EndsLease),
            Message::Extend(extend) => {
                let leases = extend.items.into_iter().map(|item| item.lease).collect();
                Self::Settle(leases, Settlement::KeepsLease)
            }
            Message::Progress(progress) => {
                Self::Settle(vec![progress.lease], Settlement::KeepsLease)
            }
            _ => Self::Anything,
        }
    }
}

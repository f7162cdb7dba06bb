//! A call on its way to the connection, and its answer on the way back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use batonq_protocol::{Envelope, Message};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::error::Error;
use crate::job::{Job, leases};
use crate::session::Control;
use crate::subscription::Feed;

/// What to ask, and where the answer goes.
#[derive(Debug)]
pub(crate) struct Request {
    /// Its id is given to it when it is sent.
    pub(crate) envelope: Box<Envelope>,
    pub(crate) reply: Reply,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Plain(Box<Message>),
    Jobs(Vec<Job>),
    Subscribed(Feed),
}

impl Request {
    /// Messages are large: the box is what travels.
    pub(crate) fn new(
        message: Message,
        control: mpsc::UnboundedSender<Control>,
    ) -> (Self, Waiting) {
        let (sender, receiver) = oneshot::channel();
        let ticket = Ticket::default();
        let changes = changes(&message);
        let envelope = Box::new(Envelope { request_id: 0, message: Some(message) });
        let reply = Reply { sender, ticket: ticket.clone(), changes };
        (Self { envelope, reply }, Waiting { receiver, ticket, changes, control })
    }
}

/// Whether to ask twice may do something that to ask once does not.
fn changes(message: &Message) -> bool {
    !matches!(
        message,
        // Jobs and subscriptions whose answer is lost are given back.
        Message::Pull(_)
            | Message::Subscribe(_)
            | Message::Ping(_)
            | Message::GetJob(_)
            | Message::WaitJob(_)
            | Message::ListJobs(_)
            | Message::GetTimeline(_)
            | Message::Explain(_)
            | Message::ListQueues(_)
            | Message::GetStats(_)
            | Message::ListWorkers(_)
            | Message::ListNodes(_)
            | Message::ListKeys(_)
            | Message::ListDecisions(_)
            | Message::ListSchedules(_)
            | Message::ListFires(_)
    )
}

/// Lets either the connection send a request or its caller give it up, never both.
#[derive(Debug, Clone, Default)]
struct Ticket(Arc<AtomicBool>);

impl Ticket {
    /// True for the first who asks.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// The connection's end of a call.
#[derive(Debug)]
pub(crate) struct Reply {
    sender: oneshot::Sender<Result<Answer, Error>>,
    ticket: Ticket,
    changes: bool,
}

impl Reply {
    /// Whether the request may be sent: its caller still waits for it.
    pub(crate) fn claim(&self) -> bool {
        !self.sender.is_closed() && self.ticket.take()
    }

    /// Hands the answer over, or back if nobody waits for it.
    pub(crate) fn send(self, answer: Result<Answer, Error>) -> Result<(), Result<Answer, Error>> {
        self.sender.send(answer)
    }

    /// There will be no answer to a request that was sent at least in part.
    pub(crate) fn outcome(&self, detail: &str) -> Error {
        if self.changes {
            return Error::OutcomeUnknown { detail: detail.to_owned() };
        }
        Error::Disconnected
    }
}

/// The caller's end of a call.
#[derive(Debug)]
pub(crate) struct Waiting {
    receiver: oneshot::Receiver<Result<Answer, Error>>,
    ticket: Ticket,
    changes: bool,
    control: mpsc::UnboundedSender<Control>,
}

impl Waiting {
    /// The answer, or what is known without it at `deadline`. `None`: the connection task ended.
    pub(crate) async fn answer(mut self, deadline: Instant) -> Option<Result<Answer, Error>> {
        match timeout_at(deadline, &mut self.receiver).await {
            Ok(answer) => answer.ok(),
            Err(_) => Some(Err(self.give_up())),
        }
    }

    fn give_up(&self) -> Error {
        let never_sent = self.ticket.take();
        if never_sent || !self.changes {
            return Error::Timeout;
        }
        Error::OutcomeUnknown { detail: "no answer in time".to_owned() }
    }
}

impl Drop for Waiting {
    /// An answer that nobody will see must not keep jobs.
    fn drop(&mut self) {
        self.receiver.close();
        if let Ok(Ok(Answer::Jobs(jobs))) = self.receiver.try_recv() {
            // Without a connection task there is nothing to give back to.
            self.control.send(Control::Release(leases(jobs))).ok();
        }
    }
}

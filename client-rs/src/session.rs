//! What outlives a connection: the leases held and the subscriptions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use batonq_protocol::messages::{
    LeasedJob, Limits, SettleResult, SettleStatus, Subscribe, Welcome,
};
use batonq_protocol::{Message, messages};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::fate::Fate;
use crate::job::Job;
use crate::subscription::{Deliver, Feed, Origin};

/// What a client tells its connection without waiting for an answer.
#[derive(Debug)]
pub(crate) enum Control {
    /// Give these jobs back unharmed.
    Release(Vec<Bytes>),
    /// End a subscription; `done` is sent once nothing more is delivered.
    Unsubscribe { key: u64, done: Option<oneshot::Sender<()>> },
    /// A subscription may take more jobs: see [`Session::renewals`].
    Renew,
}

/// One client's side of a session. Locked once per frame, never per job.
#[derive(Debug)]
pub(crate) struct Session {
    state: Mutex<State>,
    request_ids: AtomicU64,
    pub(crate) control: mpsc::UnboundedSender<Control>,
}

#[derive(Debug, Default)]
struct State {
    id: u64,
    node: NodeInfo,
    leases: HashMap<Bytes, Held>,
    subscriptions: HashMap<u64, Subscribed>,
}

/// The node that a client is connected to, and what it allows.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The node's name.
    pub node_id: String,
    /// The version of its program.
    pub server_version: String,
    /// The protocol version that is spoken.
    pub protocol_version: u32,
    /// The session that holds this client's leases.
    pub session: u64,
    /// What one frame, batch, payload, wait may be.
    pub limits: Limits,
}

#[derive(Debug)]
struct Held {
    fate: Fate,
    /// None: it was pulled.
    origin: Option<Origin>,
}

#[derive(Debug)]
struct Subscribed {
    queue: Arc<str>,
    credit: u32,
    wire: Wire,
    /// Jobs of an earlier connection that were settled on this one: the node does not count them.
    owed: u32,
    deliver: Deliver,
}

/// How far a subscription is set up on the present connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Absent,
    Asked(u64),
    Live(u64),
}

impl Wire {
    fn id(self) -> Option<u64> {
        match self {
            Self::Absent => None,
            Self::Asked(id) | Self::Live(id) => Some(id),
        }
    }
}

/// A question that sets up a subscription again, or returns credit to it.
#[derive(Debug, PartialEq)]
pub(crate) struct Renewal {
    pub(crate) key: u64,
    pub(crate) wire: u64,
    pub(crate) message: Message,
}

impl Session {
    pub(crate) fn new(control: mpsc::UnboundedSender<Control>) -> Self {
        Self { state: Mutex::default(), request_ids: AtomicU64::new(1), control }
    }

    /// The number to name in `Hello`; 0 before the first connection.
    pub(crate) fn id(&self) -> u64 {
        self.state.lock().id
    }

    pub(crate) fn node(&self) -> NodeInfo {
        self.state.lock().node.clone()
    }

    /// Unique among all connections, so that it can tell subscriptions of one from another's.
    pub(crate) fn next_request_id(&self) -> u64 {
        self.request_ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Begins a connection: drops the leases that the node does not list, and returns those it
    /// lists that nobody here holds.
    pub(crate) fn welcome(&self, welcome: &Welcome) -> Vec<Bytes> {
        let state = &mut *self.state.lock();
        state.id = welcome.session;
        state.node = NodeInfo::from(welcome);
        let listed = if welcome.resumed { welcome.leases.as_slice() } else { &[] };
        let mut kept = HashMap::with_capacity(listed.len());
        let mut unknown = Vec::new();
        for lease in listed {
            match state.leases.remove_entry(lease) {
                Some((lease, held)) => drop(kept.insert(lease, held)),
                None => unknown.push(lease.clone()),
            }
        }
        let lost = std::mem::replace(&mut state.leases, kept);
        for held in lost.values() {
            held.fate.lose();
        }
        for subscription in state.subscriptions.values_mut() {
            subscription.wire = Wire::Absent;
            subscription.owed = 0;
        }
        unknown
    }

    /// Notes the leases of jobs that arrived by a subscription, or by a pull.
    pub(crate) fn hold(
        &self,
        jobs: Vec<LeasedJob>,
        queue: &Arc<str>,
        origin: Option<Origin>,
    ) -> Vec<Job> {
        let leases = &mut self.state.lock().leases;
        leases.reserve(jobs.len());
        let hold = |job: LeasedJob| {
            let fate = Fate::default();
            leases.insert(job.lease.clone(), Held { fate: fate.clone(), origin });
            Job::new(job, Arc::clone(queue), fate)
        };
        jobs.into_iter().map(hold).collect()
    }

    /// Notes leases again that were given up for lost, and are not.
    pub(crate) fn hold_again<'a>(&self, leases: impl Iterator<Item = &'a Bytes>) {
        let held = || Held { fate: Fate::default(), origin: None };
        self.state.lock().leases.extend(leases.map(|lease| (lease.clone(), held())));
    }

    /// Forgets the leases that the node's answer ended.
    pub(crate) fn settled<'a>(
        &self,
        settled: impl Iterator<Item = (&'a Bytes, &'a SettleResult)>,
        settlement: Settlement,
    ) {
        let state = &mut *self.state.lock();
        for (lease, result) in settled {
            if result.error.is_some() {
                continue;
            }
            let was_held = result.status() == SettleStatus::Ok;
            if was_held && settlement == Settlement::KeepsLease {
                continue;
            }
            let Some(held) = state.forget(lease, &self.control) else { continue };
            if !was_held {
                held.fate.lose();
            }
        }
    }

    /// The node took these leases away.
    pub(crate) fn lose(&self, leases: &[Bytes]) {
        let state = &mut *self.state.lock();
        for lease in leases {
            if let Some(held) = state.forget(lease, &self.control) {
                held.fate.lose();
            }
        }
    }

    /// Somebody asks for the end of these jobs.
    pub(crate) fn cancel(&self, leases: &[Bytes]) {
        let state = self.state.lock();
        for lease in leases {
            if let Some(held) = state.leases.get(lease) {
                held.fate.cancel();
            }
        }
    }

    /// Loses all leases, and returns them in case the node can still be told.
    pub(crate) fn lose_all(&self) -> Vec<Bytes> {
        let leases = std::mem::take(&mut self.state.lock().leases);
        for held in leases.values() {
            held.fate.lose();
        }
        leases.into_keys().collect()
    }

    /// The client is over: no more jobs for anyone.
    pub(crate) fn end(&self, error: &Error) {
        let subscriptions = std::mem::take(&mut self.state.lock().subscriptions);
        for subscription in subscriptions.into_values() {
            // Who does not listen any more need not be told.
            subscription.deliver.send(Err(error.clone())).ok();
        }
        self.lose_all();
    }
}

/// Subscriptions.
impl Session {
    /// Notes a subscription that is being asked for with request id `wire`.
    pub(crate) fn subscribe(&self, subscribe: Subscribe, wire: u64) -> Feed {
        let Subscribe { queue, credit } = subscribe;
        let queue = queue.into();
        let (deliver, feed) = Feed::new(wire, self.control.clone());
        let subscribed = Subscribed { queue, credit, wire: Wire::Asked(wire), owed: 0, deliver };
        self.state.lock().subscriptions.insert(feed.key(), subscribed);
        feed
    }

    /// The node agreed to a `Subscribe`.
    pub(crate) fn subscribed(&self, key: u64, wire: u64) {
        let state = &mut *self.state.lock();
        let Some(subscription) = state.subscriptions.get_mut(&key) else { return };
        if subscription.wire == Wire::Asked(wire) {
            subscription.wire = Wire::Live(wire);
        }
        if subscription.owed > 0 {
            renew(&self.control);
        }
    }

    /// The node did not agree now, but may later.
    pub(crate) fn not_subscribed(&self, key: u64, wire: u64) {
        let state = &mut *self.state.lock();
        let Some(subscription) = state.subscriptions.get_mut(&key) else { return };
        if subscription.wire == Wire::Asked(wire) {
            subscription.wire = Wire::Absent;
        }
    }

    /// Ends a subscription, for `reason` if it was not the client's wish.
    pub(crate) fn unsubscribed(&self, key: u64, reason: Option<Error>) {
        let removed = self.state.lock().subscriptions.remove(&key);
        if let (Some(subscription), Some(error)) = (removed, reason) {
            // Who does not listen any more need not be told.
            subscription.deliver.send(Err(error)).ok();
        }
    }

    /// The request id by which the node knows a subscription.
    pub(crate) fn wire(&self, key: u64) -> Option<u64> {
        self.state.lock().subscriptions.get(&key)?.wire.id()
    }

    /// The queue of a subscription, and where its jobs go.
    pub(crate) fn deliver(&self, key: u64) -> Option<(Arc<str>, Deliver)> {
        let state = self.state.lock();
        let subscription = state.subscriptions.get(&key)?;
        Some((Arc::clone(&subscription.queue), subscription.deliver.clone()))
    }

    /// What must be asked so that each subscription may take as many jobs as it should.
    ///
    /// A new connection knows nothing of the jobs that came by an earlier one. So they are
    /// subtracted from the credit at first, and added again when they are settled.
    pub(crate) fn renewals(&self) -> Vec<Renewal> {
        let state = &mut *self.state.lock();
        let mut held = HashMap::<u64, u32>::new();
        for Origin { key, .. } in state.leases.values().filter_map(|held| held.origin) {
            *held.entry(key).or_default() += 1;
        }
        let mut renewals = Vec::new();
        for (&key, subscription) in &mut state.subscriptions {
            let id = self.request_ids.fetch_add(1, Ordering::Relaxed);
            let held = held.get(&key).copied().unwrap_or(0);
            renewals.extend(subscription.renewal(key, held, id));
        }
        renewals
    }
}

impl Subscribed {
    fn renewal(&mut self, key: u64, held: u32, id: u64) -> Option<Renewal> {
        match self.wire {
            Wire::Absent => {
                self.owed = 0;
                let credit = self.credit.saturating_sub(held);
                if credit == 0 {
                    return None;
                }
                self.wire = Wire::Asked(id);
                let subscribe = Subscribe { queue: self.queue.to_string(), credit };
                Some(Renewal { key, wire: id, message: Message::Subscribe(subscribe) })
            }
            Wire::Live(wire) if self.owed > 0 => {
                let credit = std::mem::take(&mut self.owed);
                let add = messages::AddCredit { subscription: wire, credit };
                Some(Renewal { key, wire: id, message: Message::AddCredit(add) })
            }
            Wire::Asked(_) | Wire::Live(_) => None,
        }
    }
}

impl State {
    /// Forgets a lease, and returns the credit that the node does not return by itself.
    fn forget(&mut self, lease: &Bytes, control: &mpsc::UnboundedSender<Control>) -> Option<Held> {
        let held = self.leases.remove(lease)?;
        if let Some(Origin { key, wire }) = held.origin
            && let Some(subscription) = self.subscriptions.get_mut(&key)
            && subscription.wire.id() != Some(wire)
        {
            subscription.owed += 1;
            if subscription.owed == 1 {
                renew(control);
            }
        }
        Some(held)
    }
}

fn renew(control: &mpsc::UnboundedSender<Control>) {
    // Without a connection task there is nothing to renew.
    control.send(Control::Renew).ok();
}

/// What a settling call means for a lease that the node still knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settlement {
    EndsLease,
    KeepsLease,
}

impl From<&Welcome> for NodeInfo {
    fn from(welcome: &Welcome) -> Self {
        Self {
            node_id: welcome.node_id.clone(),
            server_version: welcome.server_version.clone(),
            protocol_version: welcome.version,
            session: welcome.session,
            limits: welcome.limits.unwrap_or_default(),
        }
    }
}

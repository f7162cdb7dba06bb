//! The load of `verify`, without faults and with one: what it writes down is whole and true.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use batonq_server::store;
use batonq_tests::harness::{Cluster, SOON, Server};
use batonq_verify::ending;
use batonq_verify::history::{
    Call, End, How, JobEnd, LeaseEnd, Outcome, Record, Rule, State, What,
};
use batonq_verify::load::{self, Behaviour, Load, Profile, QueueKind, Target, Targets};
use batonq_verify::record::{Recorder, Recording};

/// What was recorded of a run.
struct History {
    records: Vec<Record>,
}

/// A second or two of work.
fn profile(jobs: u64) -> Profile {
    Profile {
        jobs,
        jobs_per_second: 1000,
        batch: 40,
        producers: 4,
        subscribers: 3,
        pullers: 4,
        crashers: 0,
        freezers: 0,
        cancel_every_ms: 0,
        pause_every_ms: 0,
        behaviour: Behaviour::GOOD,
        ..Profile::quick(7)
    }
}

fn target(node: &Server) -> Target {
    Target { tcp: node.tcp.to_string(), http: Some(node.http().address.to_string()) }
}

fn targets(nodes: &[Server]) -> Targets {
    Targets { nodes: nodes.iter().map(target).collect(), ..Targets::default() }
}

fn of_cluster(cluster: &Cluster) -> Targets {
    Targets { database: Some(cluster.postgres.dsn()), ..targets(&cluster.nodes) }
}

/// Runs a load to its end, with something happening in the middle.
async fn run(
    (targets, profile): (Targets, Profile),
    (recorder, mut recording): (Recorder, Recording),
    happens: impl AsyncFnOnce(&Load) -> u64,
) -> History {
    let mut load = Load::start(targets, profile, recorder).await.expect("it begins");
    let healed_ns = happens(&load).await;
    tokio::time::timeout(SOON, load.all_produced()).await.expect("all is pushed");
    let finish = load.finish(healed_ns, SOON).await;
    assert!(finish.served_ns > healed_ns, "{finish:?}");
    assert!(finish.drained_ns > healed_ns, "{finish:?}");
    ending::gather(&load, finish).await.expect("it is all there");
    load.clear().await.expect("it can be cleared");
    drop(load);
    let mut records = Vec::new();
    while let Some(more) = recording.next().await {
        records.extend(more);
    }
    History { records }
}

impl History {
    fn calls(&self) -> impl Iterator<Item = &Call> {
        self.records.iter().filter_map(|record| match record {
            Record::Call(call) => Some(call),
            _ => None,
        })
    }

    fn jobs(&self) -> impl Iterator<Item = &JobEnd> {
        self.records.iter().filter_map(|record| match record {
            Record::Job(job) => Some(job),
            _ => None,
        })
    }

    fn leases(&self) -> impl Iterator<Item = &LeaseEnd> {
        self.records.iter().filter_map(|record| match record {
            Record::Lease(lease) => Some(lease),
            _ => None,
        })
    }

    fn end(&self) -> End {
        let end = self.records.iter().find_map(|record| match record {
            Record::End(end) => Some(*end),
            _ => None,
        });
        end.expect("it has ended")
    }

    /// Calls that did not succeed, and how many of each.
    fn refused(&self) -> BTreeMap<String, usize> {
        let mut refused = BTreeMap::new();
        for call in self.calls().filter(|call| call.outcome != Outcome::Ok) {
            let what = format!("{:?}", call.what);
            let name = what.split([' ', '{']).next().unwrap_or_default();
            *refused.entry(format!("{name}: {:?}", call.outcome)).or_default() += 1;
        }
        refused
    }

    /// Jobs by key, as pushes were answered.
    fn pushed(&self) -> HashMap<u64, BTreeSet<u64>> {
        let mut pushed: HashMap<u64, BTreeSet<u64>> = HashMap::new();
        for call in self.calls().filter(|call| call.outcome == Outcome::Ok) {
            if let What::Push { key, job, .. } = call.what {
                pushed.entry(key).or_default().insert(job);
            }
        }
        pushed
    }

    /// Each key that was answered for is one job, which stands where the answer said; no other job
    /// is there.
    fn assert_pushes_and_jobs_agree(&self) {
        let pushed = self.pushed();
        let mut found: HashMap<u64, u64> = HashMap::new();
        for job in self.jobs().filter(|job| job.key != 0) {
            assert_eq!(found.insert(job.key, job.job), None, "twice: {job:?}");
        }
        for (key, jobs) in &pushed {
            assert_eq!(jobs.len(), 1, "key {key}: {jobs:?}");
            assert_eq!(found.get(key), jobs.first(), "key {key}");
        }
        let maybe: BTreeSet<u64> = self
            .calls()
            .filter(|call| call.outcome.is_unknown())
            .filter_map(
                |call| if let What::Push { key, .. } = call.what { Some(key) } else { None },
            )
            .collect();
        let phantom = found.keys().find(|key| !pushed.contains_key(key) && !maybe.contains(key));
        assert_eq!(phantom, None, "nobody pushed it");
    }

    /// What is read at the end says of each lease what the worker was told.
    fn assert_leases_began_when_workers_were_told(&self) -> usize {
        let told: HashMap<(u64, u32), i64> = self
            .calls()
            .filter_map(|call| match call.what {
                What::Lease { job, delivery, begins_ms, .. } => Some(((job, delivery), begins_ms)),
                _ => None,
            })
            .collect();
        let mut compared = 0;
        for lease in self.leases() {
            if let Some(begins_ms) = told.get(&(lease.job, lease.delivery)) {
                assert_eq!(lease.begins_ms, *begins_ms, "{lease:?}");
                compared += 1;
            }
        }
        compared
    }

    fn assert_each_second_was_fired_once(&self) {
        let window = self.records.iter().find_map(|record| match record {
            Record::Rule(Rule::Schedule { from_ms, to_ms, .. }) => Some((*from_ms, *to_ms)),
            _ => None,
        });
        let (from_ms, to_ms) = window.expect("there is a schedule");
        let slots: Vec<i64> = self
            .records
            .iter()
            .filter_map(|record| match record {
                Record::Slot(slot) if slot.job > 0 => Some(slot.slot_ms),
                _ => None,
            })
            .collect();
        let wanted: Vec<i64> = (from_ms..=to_ms).step_by(1000).collect();
        assert_eq!(from_ms % 1000 + to_ms % 1000, 0, "they are slots");
        assert!(slots.starts_with(&wanted), "{from_ms} to {to_ms}: {slots:?}");
    }
}

#[test]
fn a_lease_of_a_session_lasts_as_long_as_the_broker_says() {
    assert_eq!(load::SESSION_LEASE, store::SESSION_LEASE);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_an_embedded_node_all_that_is_asked_is_done_once() {
    let nodes = [Server::start()];
    let begun = Recorder::begin();
    let history = run((targets(&nodes), profile(2000)), begun, async |load| load.now_ns()).await;

    let refused = history.refused();
    let duplicates = "Push: Rejected(Duplicate)";
    assert!(refused.keys().all(|what| what == duplicates), "{refused:?}");
    history.assert_pushes_and_jobs_agree();
    let expired = history.jobs().filter(|job| job.state == State::Dead && job.deliveries == 0);
    assert!(expired.count() < 100, "only those with a short time to live");
    let done = history.jobs().filter(|job| job.state == State::Completed).count();
    assert!(done > 1900, "{done} completed");
    history.assert_each_second_was_fired_once();
    assert!(history.end().offset_error_ms < 1000);
    assert_eq!(history.end().leaders, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_two_nodes_workers_do_their_worst_and_nothing_is_lost() {
    let cluster = Cluster::of(2).await;
    let profile = Profile {
        behaviour: Behaviour::USUAL,
        crashers: 1,
        cancel_every_ms: 50,
        pause_every_ms: 1000,
        ..profile(4000)
    };
    let begun = Recorder::begin();
    let history = run((of_cluster(&cluster), profile), begun, async |load| load.now_ns()).await;

    history.assert_pushes_and_jobs_agree();
    history.assert_each_second_was_fired_once();
    assert!(history.assert_leases_began_when_workers_were_told() > 100);
    let left = history.jobs().filter(|job| job.finished_ms == 0);
    assert_eq!(left.count(), 0);
    let unknown = history.calls().filter(|call| call.outcome == Outcome::Unknown);
    // Those whose connections were cut waited for no answer.
    assert_eq!(unknown.count(), 0, "{:?}", history.refused());
    for how in [How::Ack, How::Fail, How::Reject, How::Release, How::Extend, How::Progress] {
        let is_it = |call: &&Call| matches!(call.what, What::Settle { how: it, .. } if it == how);
        assert!(history.calls().any(|call| is_it(&call)), "no {how:?}");
    }
    let duties = history.records.iter().filter(|record| matches!(record, Record::Duty(_))).count();
    assert!(duties > 0, "leaders note what they do");
    assert_eq!(history.end().leaders, 1);
    assert!(history.end().offset_error_ms <= 20, "{:?}", history.end());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_node_is_killed_the_others_are_asked_and_nothing_is_lost() {
    let mut cluster = Cluster::of(2).await;
    let leader = cluster.leader().await;
    let targets = of_cluster(&cluster);
    let begun = Recorder::begin();
    let history = run((targets, profile(3000)), begun, async |load| {
        while load.produced() < 1000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cluster.nodes[leader].kill();
        cluster.leader_among(&cluster.others(leader)).await;
        cluster.nodes[leader].resume();
        load.now_ns()
    })
    .await;

    history.assert_pushes_and_jobs_agree();
    history.assert_each_second_was_fired_once();
    let left = history.jobs().filter(|job| job.finished_ms == 0);
    assert_eq!(left.count(), 0);
    let later = history.end().healed_ns;
    let bare = QueueKind::Bare.number();
    let is_push = |call: &Call| matches!(call.what, What::Push { queue, .. } if queue == bare);
    let pushed = history.calls().filter(|call| is_push(call) && call.start_ns > later);
    assert!(pushed.count() > 0, "producers go on: {:?}", history.refused());
}

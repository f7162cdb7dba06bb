//! Nothing is found where nothing is wrong.

use batonq_verify::check::{Invariant, Standing, Verdict, check};
use batonq_verify::history::{Call, History, JobEnd, Outcome, Record, State, Waits, What};
use proptest::prelude::*;

mod made;

use made::Plan;

fn plans() -> impl Strategy<Value = Plan> {
    (any::<u64>(), 1_u64..300, 0.0..0.6_f64).prop_map(|(seed, jobs, trouble)| Plan {
        seed,
        jobs,
        trouble,
    })
}

/// What was found, in words.
fn found(verdict: &Verdict) -> Vec<String> {
    let findings = |judgement: &batonq_verify::check::Judgement| {
        let name = judgement.invariant.name();
        let sentence = move |finding: &batonq_verify::check::Finding| {
            format!("{name}: {}: {:#?}", finding.sentence, finding.records)
        };
        judgement.findings.iter().map(sentence).collect::<Vec<_>>()
    };
    verdict.violated().flat_map(findings).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_found_where_promises_were_kept(plan in plans()) {
        let verdict = check(&made::history(plan).into());
        prop_assert_eq!(found(&verdict), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_found_where_a_history_was_cut_off(
        plan in plans(),
        place in any::<prop::sample::Index>(),
    ) {
        let mut records = made::history(plan);
        records.truncate(place.index(records.len()));
        let verdict = check(&History { records, is_cut: true });
        prop_assert_eq!(found(&verdict), Vec::<String>::new());
    }
}

#[test]
fn everything_is_looked_at_where_there_is_something_of_everything() {
    let plan = Plan { seed: 1, jobs: 1000, trouble: 0.05 };
    let verdict = check(&made::history(plan).into());
    for judgement in &verdict.invariants {
        assert_eq!(judgement.standing, Standing::Held, "{:?}", judgement.invariant);
        assert!(judgement.checked > 0, "{:?}", judgement.invariant);
    }
}

#[test]
fn what_was_not_there_is_not_checked() {
    let verdict = check(&History::default());
    assert!(verdict.is_good());
    for judgement in &verdict.invariants {
        let is_so = matches!(judgement.standing, Standing::NotChecked(why) if !why.is_empty());
        assert!(is_so, "{:?}", judgement.invariant);
    }
    let names: Vec<String> = Invariant::ALL.into_iter().map(Invariant::name).collect();
    assert_eq!((names[0].as_str(), names[13].as_str()), ("I1", "I14"));
}

#[test]
fn who_has_waited_for_as_long_as_it_may_and_who_waits_for_others_may_die_undelivered() {
    let dead = |job: u64, waits: Waits| {
        let (key, queue, run_at_ms, repeated) = (job, 0, 0, false);
        let what = What::Push { key, queue, job, run_at_ms, waits, repeated };
        let outcome = Outcome::Ok;
        let call = Call { start_ns: 1, end_ns: 2, client: 1, node: 1, what, outcome };
        let (state, deliveries, created_ms, finished_ms) = (State::Dead, 0, 1000, 1100);
        let end = JobEnd { job, key, queue, state, deliveries, created_ms, finished_ms };
        [Record::Call(call), Record::Job(end)]
    };
    let end = made::history(Plan { seed: 1, jobs: 1, trouble: 0.0 }).pop().unwrap();
    let jobs = [dead(1, Waits::AtMostMs(100)), dead(2, Waits::ForJobs)];
    let records: Vec<Record> = jobs.into_iter().flatten().chain([end]).collect();
    assert_eq!(found(&check(&records.into())), Vec::<String>::new());
}

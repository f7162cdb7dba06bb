//! What is said of a history in numbers, and which of them are bounds.

use std::time::Duration;

use batonq_verify::check::{Quantiles, Verdict, check};
use batonq_verify::history::{End, Fault, History, LeaseEnd, Outcome, Record, What};

mod made;

/// A history in which all goes well, without faults.
fn calm(jobs: u64) -> Vec<Record> {
    let mut records = made::history(made::Plan { seed: 3, jobs, trouble: 0.0 });
    records.retain(|record| !matches!(record, Record::Fault(_)));
    records
}

fn judge(records: Vec<Record>) -> Verdict {
    check(&History::from(records))
}

/// The bounds that were exceeded.
fn exceeded(verdict: &Verdict) -> Vec<&str> {
    let bounds = verdict.bounds.iter().filter(|bound| !bound.is_kept());
    bounds.map(|bound| bound.name.as_str()).collect()
}

fn fault(kind: &str, start_ms: u64, led_again_ms: u64) -> Record {
    let start_ns = start_ms * 1_000_000;
    Record::Fault(Fault {
        start_ns,
        end_ns: start_ns + 1_000_000,
        kind: kind.to_owned(),
        node: 1,
        was_leader: led_again_ms != 0,
        led_again_ns: led_again_ms * 1_000_000,
    })
}

/// When the first lease of a pushed job began, on the clock of the calls and by the database's.
fn first_lease(records: &[Record]) -> (u64, u64, i64) {
    let of = |record: &Record| match record {
        Record::Call(call) => match call.what {
            What::Lease { key, begins_ms, .. } if key != 0 => {
                Some((key, call.end_ns / 1_000_000, begins_ms))
            }
            _ => None,
        },
        _ => None,
    };
    records.iter().find_map(of).expect("there is one")
}

/// Has the first job be due two seconds before it was leased. The answer: when it was leased.
fn make_late(records: &mut [Record]) -> u64 {
    let (first, leased_at_ms, begins_ms) = first_lease(records);
    for record in records {
        if let Record::Call(call) = record
            && let What::Push { key, run_at_ms, .. } = &mut call.what
        {
            *run_at_ms = if *key == first { begins_ms - 2000 } else { 0 };
        }
    }
    leased_at_ms
}

#[test]
fn a_calm_run_is_good_and_its_figures_are_those_of_its_calls() {
    let records = calm(500);
    let has_time = |record: &&Record| match record {
        Record::Call(call) => matches!(call.what, What::Push { run_at_ms: 1.., .. }),
        _ => false,
    };
    let with_time = records.iter().filter(has_time).count();
    let verdict = judge(records);
    assert!(verdict.is_good());
    let figures = &verdict.figures;
    let of_schedule = figures.jobs - 500;
    assert_eq!(figures.leases, figures.jobs);
    assert_eq!(figures.calls, 500 * 3 + of_schedule * 2);
    assert_eq!((figures.unknown, figures.recovered, figures.duplicates), (0, 0, 0));
    assert_eq!((figures.late_in_peace.count, figures.late_near_faults.count), (with_time, 0));
    assert!(figures.redelivered.is_empty());
}

#[test]
fn a_job_that_is_there_although_nobody_was_told_is_recovered() {
    let mut records = calm(10);
    let push = records.iter_mut().find_map(|record| match record {
        Record::Call(call) => match &mut call.what {
            What::Push { job, .. } => {
                *job = 0;
                Some(&mut call.outcome)
            }
            _ => None,
        },
        _ => None,
    });
    *push.expect("there is one") = Outcome::Unknown;
    let verdict = judge(records);
    assert!(verdict.is_good());
    assert_eq!((verdict.figures.unknown, verdict.figures.recovered), (1, 1));
}

#[test]
fn one_job_in_a_hundred_may_be_given_out_again_unasked() {
    for (count, ending, is_kept) in
        [(5, "crashed", true), (6, "node_lost", false), (6, "released", true), (6, "", false)]
    {
        let mut records = calm(500);
        // Those of a schedule are jobs, too.
        let jobs = judge(records.clone()).figures.jobs;
        assert!((500..600).contains(&jobs));
        for job in 1_000_000_001..=1_000_000_000 + count {
            for (delivery, ending) in [(1, ending), (2, "completed")] {
                let ending = ending.to_owned();
                let (begins_ms, ended_ms) = (delivery.into(), i64::from(delivery) + 1);
                let (attempt, delivery) = (1, delivery);
                records.push(Record::Lease(LeaseEnd {
                    job,
                    delivery,
                    attempt,
                    begins_ms,
                    ended_ms,
                    ending,
                }));
            }
        }
        let verdict = judge(records);
        let unasked = if ending == "released" { 0 } else { count };
        assert_eq!(verdict.figures.duplicates, unasked);
        assert_eq!(verdict.figures.redelivered[ending], count);
        assert_eq!(exceeded(&verdict).is_empty(), is_kept, "{count} {ending}");
    }
}

#[test]
fn another_node_leads_in_time() {
    for (kind, after_ms, is_kept) in [
        ("kill", 1000, true),
        ("kill", 1001, false),
        ("freeze", 3500, true),
        ("freeze", 3501, false),
        ("partition_in", 3501, false),
        ("restart_database", 60_000, true),
    ] {
        let mut records = calm(10);
        records.push(fault(kind, 1, 0));
        records.push(fault(kind, 10, 10 + after_ms));
        let verdict = judge(records);
        let lasted = Duration::from_millis(after_ms);
        let once = Quantiles { count: 1, p50: lasted, p99: lasted, max: lasted };
        assert_eq!(verdict.figures.failovers[kind], once);
        assert_eq!(verdict.figures.faults[kind], 2);
        assert_eq!(exceeded(&verdict).is_empty(), is_kept, "{kind} {after_ms}");
    }
}

#[test]
fn a_job_may_be_later_near_a_fault() {
    let mut records = calm(10);
    let leased_at_ms = make_late(&mut records);
    let verdict = judge(records.clone());
    assert_eq!(verdict.figures.late_in_peace.max, Duration::from_secs(2));
    assert_eq!(exceeded(&verdict), ["jobs late, p99"]);

    // The clock of the calls begins a second before the first push.
    for record in &mut records {
        let later_ns = 7_000_000_000;
        match record {
            Record::Call(call) => {
                call.start_ns += later_ns;
                call.end_ns += later_ns;
            }
            Record::End(End { healed_ns, served_ns, drained_ns, database_offset_ms, .. }) => {
                for ns in [healed_ns, served_ns, drained_ns] {
                    *ns += later_ns;
                }
                *database_offset_ms -= 7000;
            }
            _ => {}
        }
    }
    let due_at_ms = leased_at_ms + 7000 - 2000;
    for (fault_at_ms, is_near) in [
        (due_at_ms + 1500, false),
        (due_at_ms + 500, true),
        (due_at_ms - 3000, true),
        (due_at_ms - 4500, false),
    ] {
        let mut records = records.clone();
        records.push(fault("freeze", fault_at_ms, 0));
        assert_eq!(exceeded(&judge(records)).is_empty(), is_near, "{fault_at_ms}");
    }
}

//! What was written is read again, however the file ends.

use batonq_protocol::ErrorCode;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::history::{
    Call, Duty, End, Fault, How, JobEnd, LeaseEnd, Outcome, Rule, Slot, State, Waits, What,
};

fn outcomes() -> impl Strategy<Value = Outcome> {
    let rejected = (1..=15).prop_map(|code| Outcome::Rejected(ErrorCode::try_from(code).unwrap()));
    prop_oneof![Just(Outcome::Ok), rejected, Just(Outcome::Unknown), Just(Outcome::CutOff)]
}

fn hows() -> impl Strategy<Value = How> {
    use How::{Ack, Extend, Fail, Progress, Reject, Release};
    prop::sample::select(vec![Ack, Fail, Reject, Release, Extend, Progress])
}

fn whats() -> impl Strategy<Value = What> {
    type Times = (i64, i64, bool);
    let waits = prop_oneof![
        Just(Waits::ForWorkers),
        any::<u64>().prop_map(Waits::AtMostMs),
        Just(Waits::ForJobs)
    ];
    let push = |((key, queue, job, run_at_ms, repeated), waits)| What::Push {
        key,
        queue,
        job,
        run_at_ms,
        waits,
        repeated,
    };
    let lease = |(job, key, queue, delivery, attempt, times): (_, _, _, _, _, Times)| {
        let (begins_ms, until_ms, is_timed) = times;
        What::Lease { job, key, queue, delivery, attempt, begins_ms, until_ms, is_timed }
    };
    prop_oneof![
        (any::<(u64, u16, u64, i64, bool)>(), waits).prop_map(push),
        any::<(u64, u64, u16, u32, u32, Times)>().prop_map(lease),
        (any::<(u64, u32, i64)>(), hows()).prop_map(|((job, delivery, until_ms), how)| {
            What::Settle { job, delivery, how, until_ms }
        }),
        any::<(u64, u32)>().prop_map(|(job, delivery)| What::Lost { job, delivery }),
        any::<u64>().prop_map(|job| What::Cancel { job }),
        Just(What::Look),
    ]
}

fn calls() -> impl Strategy<Value = Record> {
    (any::<(u64, u64, u32, u8)>(), whats(), outcomes()).prop_map(
        |((start_ns, end_ns, client, node), what, outcome)| {
            Record::Call(Call { start_ns, end_ns, client, node, what, outcome })
        },
    )
}

fn states() -> impl Strategy<Value = State> {
    use State::{Blocked, Cancelled, Completed, Dead, Leased, Ready, Scheduled};
    let all = vec![Blocked, Scheduled, Ready, Leased, Completed, Dead, Cancelled];
    prop::sample::select(all)
}

fn ends() -> impl Strategy<Value = Record> {
    let job = |((job, key, queue, deliveries, created_ms, finished_ms), state)| {
        Record::Job(JobEnd { job, key, queue, state, deliveries, created_ms, finished_ms })
    };
    let lease = |((job, delivery, attempt, begins_ms, ended_ms), ending)| {
        Record::Lease(LeaseEnd { job, delivery, attempt, begins_ms, ended_ms, ending })
    };
    let end = |(healed_ns, served_ns, drained_ns, leaders, database_offset_ms, offset_error_ms)| {
        Record::End(End {
            healed_ns,
            served_ns,
            drained_ns,
            leaders,
            database_offset_ms,
            offset_error_ms,
        })
    };
    prop_oneof![
        (any::<(u64, u64, u16, u32, i64, i64)>(), states()).prop_map(job),
        (any::<(u64, u32, u32, i64, i64)>(), "[a-z_]{0,12}").prop_map(lease),
        any::<(u64, u64, u64, u32, i64, i64)>().prop_map(end),
    ]
}

fn others() -> impl Strategy<Value = Record> {
    let fault = |((start_ns, end_ns, node, was_leader, led_again_ns), kind)| {
        Record::Fault(Fault { start_ns, end_ns, kind, node, was_leader, led_again_ns })
    };
    let slot = |(schedule, slot_ms, fired_ms, job)| {
        Record::Slot(Slot { schedule, slot_ms, fired_ms, job })
    };
    let duty = |((at_ms, epoch, token, count), node, name)| {
        Record::Duty(Duty { at_ms, epoch, token, node, name, count })
    };
    let rate =
        |(queue, limit, per_ms, burst)| Record::Rule(Rule::Rate { queue, limit, per_ms, burst });
    let schedule = |(schedule, queue, every_ms, from_ms, to_ms)| {
        Record::Rule(Rule::Schedule { schedule, queue, every_ms, from_ms, to_ms })
    };
    prop_oneof![
        (any::<(u64, u64, u8, bool, u64)>(), ".{0,12}").prop_map(fault),
        any::<(u16, i64, i64, u64)>().prop_map(slot),
        (any::<(i64, u64, u128, u32)>(), ".{0,200}", "[a-z]{1,9}").prop_map(duty),
        any::<(u16, u32)>().prop_map(|(queue, max)| Record::Rule(Rule::Concurrency { queue, max })),
        any::<(u16, u32, u64, u32)>().prop_map(rate),
        any::<(u16, u16, u64, i64, i64)>().prop_map(schedule),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    vec(prop_oneof![4 => calls(), 1 => ends(), 1 => others()], 0..40)
}

fn written(records: &[Record]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes).unwrap();
    for record in records {
        writer.write(record).unwrap();
    }
    writer.flush().unwrap();
    drop(writer);
    bytes
}

/// Where records end.
fn ends_of(records: &[Record]) -> Vec<usize> {
    (0..=records.len()).map(|count| written(&records[..count]).len()).collect()
}

fn look() -> Record {
    let what = What::Look;
    Record::Call(Call { start_ns: 1, end_ns: 2, client: 3, node: 1, what, outcome: Outcome::Ok })
}

proptest! {
    #[test]
    fn what_was_written_is_read(records in records()) {
        let history = History::read(&written(&records)[..]).unwrap();
        prop_assert_eq!(history, History::from(records));
    }

    #[test]
    fn a_file_that_was_cut_off_is_read_up_to_its_last_whole_record(
        records in records(),
        place in any::<prop::sample::Index>(),
    ) {
        let bytes = written(&records);
        let head = MAGIC.len() + 1;
        let length = head + place.index(bytes.len() - head + 1);
        let ends = ends_of(&records);
        let whole = ends.iter().rposition(|end| *end <= length).unwrap();

        let history = History::read(&bytes[..length]).unwrap();

        prop_assert_eq!(&history.records[..], &records[..whole]);
        prop_assert_eq!(history.is_cut, ends[whole] != length);
    }

    #[test]
    fn garbage_never_panics(garbage in vec(any::<u8>(), 0..300)) {
        let mut bytes = written(&[look()]);
        let offset = bytes.len() as u64;
        bytes.extend(garbage);
        if let Err(error) = History::read(&bytes[..]) {
            prop_assert!(
                matches!(error, FileError::Garbage { offset: at, .. } if at >= offset),
                "{}", error
            );
        }
    }
}

#[test]
fn garbage_is_named_with_its_place() {
    let mut bytes = written(&[look(), look()]);
    let offset = bytes.len() as u64;
    for (garbage, reason) in [
        (&[0, 0][..], "length 0"),
        (&[0xff, 0xff], "length 65535"),
        (&[1, 0, 99], "Serde Deserialization Error"),
        (&[12, 0, 0, 1, 1, 1, 1, 5, 0, 0, 0, 0, 0, 0], "5 bytes too many"),
    ] {
        let length = bytes.len();
        bytes.extend(garbage);
        let error = History::read(&bytes[..]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no record at byte {offset}: ")), "{error}");
        assert!(error.ends_with(reason), "{error}");
        bytes.truncate(length);
    }
}

#[test]
fn other_files_are_no_histories() {
    for bytes in [&b""[..], b"batonq", b"SQLite format 3"] {
        assert!(matches!(History::read(bytes), Err(FileError::NotAHistory)));
    }
    for other in [VERSION - 1, VERSION + 1] {
        let head = [&MAGIC[..], &[other]].concat();
        let history = History::read(&head[..]);
        assert!(matches!(history, Err(FileError::OtherVersion { found }) if found == other));
    }
}

#[test]
fn a_record_that_is_too_long_is_refused_and_the_file_stays_good() {
    let name = "x".repeat(RECORD_BYTES_MAX);
    let duty = Duty { at_ms: 1, epoch: 1, token: 1, node: name.clone(), name, count: 1 };
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes).unwrap();
    assert!(matches!(writer.write(&Record::Duty(duty)), Err(FileError::TooLong)));
    writer.write(&look()).unwrap();
    writer.flush().unwrap();
    drop(writer);
    assert_eq!(History::read(&bytes[..]).unwrap().records, [look()]);
}

#[test]
fn a_call_takes_at_most_sixty_bytes() {
    let (day_ns, now_ms) = (86_400_000_000_000, 1_800_000_000_000);
    let (job, key, queue) = (10_000_000, 1 << 40, 9);
    let lease = What::Lease {
        job,
        key,
        queue,
        delivery: 3,
        attempt: 2,
        begins_ms: now_ms,
        until_ms: now_ms + 30_000,
        is_timed: true,
    };
    let (run_at_ms, waits) = (now_ms, Waits::AtMostMs(10_000));
    let push = What::Push { key, queue, job, run_at_ms, waits, repeated: false };
    let ack = What::Settle { job, delivery: 3, how: How::Ack, until_ms: 0 };
    for (what, bytes_max) in [(lease, 60), (push, 50), (ack, 35)] {
        let (start_ns, end_ns, outcome) = (day_ns, day_ns + 1, Outcome::Ok);
        let call = Record::Call(Call { start_ns, end_ns, client: 300, node: 3, what, outcome });
        let bytes = written(std::slice::from_ref(&call)).len() - written(&[]).len();
        assert!(bytes <= bytes_max, "{bytes} bytes for {call:?}");
    }
}

//! A record in words, for people who look at a proof.
//!
//! Times of calls are seconds since the start of the run, as in the picture; times of the database
//! are its milliseconds, as in the sentences of findings.

use crate::history::{
    Call, Duty, End, Fault, How, JobEnd, LeaseEnd, Outcome, Record, Rule, Slot, State, What,
};

/// One line.
pub(super) fn words(record: &Record) -> String {
    match record {
        Record::Call(call) => of_call(call),
        Record::Fault(fault) => of_fault(fault),
        Record::Job(end) => of_job(end),
        Record::Lease(end) => of_lease(end),
        Record::Slot(slot) => of_slot(slot),
        Record::Duty(duty) => of_duty(duty),
        Record::Rule(rule) => of_rule(rule),
        Record::End(end) => of_end(end),
    }
}

fn of_call(call: &Call) -> String {
    let node = match call.node {
        0 => String::new(),
        node => format!(" at n{node}"),
    };
    let (start, end) = (clock(call.start_ns), clock(call.end_ns));
    let (client, what, outcome) = (call.client, of_what(call.what), of_outcome(call));
    format!("{start} to {end}, client {client}{node}: {what}: {outcome}")
}

fn of_what(what: What) -> String {
    match what {
        What::Push { key, queue, run_at_ms, .. } => {
            let not_before = match run_at_ms {
                0 => String::new(),
                at_ms => format!(", not before {at_ms}"),
            };
            format!("push key {key} to queue {queue}{not_before}")
        }
        What::Lease {
            job, key, queue, delivery, attempt, begins_ms, until_ms, is_timed, ..
        } => {
            let renewed = if is_timed { "" } else { ", renewed while the session lives" };
            let job = job_of(job, key, queue);
            format!(
                "receive delivery {delivery} of {job}, attempt {attempt}, \
                 from {begins_ms} until {until_ms}{renewed}"
            )
        }
        What::Settle { job, delivery, how, until_ms } => {
            let until = match until_ms {
                0 => String::new(),
                until_ms => format!(" until {until_ms}"),
            };
            format!("{} delivery {delivery} of job {job}{until}", of_how(how))
        }
        What::Lost { job, delivery } => {
            format!("hear that delivery {delivery} of job {job} is lost")
        }
        What::Cancel { job } => format!("cancel job {job}"),
        What::Look => "look".to_owned(),
    }
}

fn of_outcome(call: &Call) -> String {
    match (call.outcome, call.what) {
        (Outcome::Ok, What::Push { job: 0, .. }) => "ok".to_owned(),
        (Outcome::Ok, What::Push { job, repeated: true, .. }) => format!("ok, job {job}, repeated"),
        (Outcome::Ok, What::Push { job, .. }) => format!("ok, job {job}"),
        (Outcome::Ok, _) => "ok".to_owned(),
        (Outcome::Rejected(code), _) => code.as_str_name().to_owned(),
        (Outcome::Unknown, _) => "no answer".to_owned(),
        (Outcome::CutOff, _) => "cut off before an answer".to_owned(),
    }
}

const fn of_how(how: How) -> &'static str {
    match how {
        How::Ack => "ack",
        How::Fail => "fail",
        How::Reject => "reject",
        How::Release => "release",
        How::Extend => "extend",
        How::Progress => "tell the progress of",
    }
}

const fn of_state(state: State) -> &'static str {
    match state {
        State::Blocked => "blocked",
        State::Scheduled => "scheduled",
        State::Ready => "ready",
        State::Leased => "leased",
        State::Completed => "completed",
        State::Dead => "dead",
        State::Cancelled => "cancelled",
    }
}

fn of_fault(fault: &Fault) -> String {
    let Fault { kind, was_leader, .. } = fault;
    let (start, end) = (clock(fault.start_ns), clock(fault.end_ns));
    let whose = match fault.node {
        0 => String::new(),
        node => format!(" of n{node}"),
    };
    let leader = if *was_leader { ", which led" } else { "" };
    let again = match fault.led_again_ns {
        0 => String::new(),
        at_ns => format!("; led again at {}", clock(at_ns)),
    };
    format!("{start} to {end}, {kind}{whose}{leader}{again}")
}

fn of_job(end: &JobEnd) -> String {
    let JobEnd { deliveries, created_ms, .. } = end;
    let (job, state) = (job_of(end.job, end.key, end.queue), of_state(end.state));
    let finished = match end.finished_ms {
        0 => "not finished".to_owned(),
        at_ms => format!("finished at {at_ms}"),
    };
    format!(
        "at the end, {job}: {state}, deliveries {deliveries}, pushed at {created_ms}, {finished}"
    )
}

fn of_lease(end: &LeaseEnd) -> String {
    let LeaseEnd { job, delivery, attempt, begins_ms, .. } = end;
    let ended = match (end.ended_ms, end.ending.as_str()) {
        (0, _) => "not ended".to_owned(),
        (at_ms, "") => format!("ended at {at_ms}, not known how"),
        (at_ms, ending) => format!("ended at {at_ms}: {ending}"),
    };
    format!(
        "timeline of job {job}: delivery {delivery}, attempt {attempt}, from {begins_ms}, {ended}"
    )
}

fn of_slot(slot: &Slot) -> String {
    let Slot { schedule, slot_ms, fired_ms, .. } = slot;
    let made = match slot.job {
        0 => "no job".to_owned(),
        job => format!("job {job}"),
    };
    format!("schedule {schedule}, slot {slot_ms}: fired at {fired_ms}, {made}")
}

fn of_duty(duty: &Duty) -> String {
    let Duty { at_ms, epoch, node, name, count, .. } = duty;
    let token = duty.token >> 96;
    format!("at {at_ms}, {node} in term {epoch} (token {token:08x}…): {name}, rows {count}")
}

fn of_rule(rule: &Rule) -> String {
    match rule {
        Rule::Concurrency { queue, max } => {
            format!("rule: queue {queue} has {max} leases at once, at most")
        }
        Rule::Rate { queue, limit, per_ms, burst } => {
            format!("rule: queue {queue} begins {limit} leases in {per_ms} ms, and {burst} at once")
        }
        Rule::Schedule { schedule, queue, every_ms, from_ms, to_ms } => format!(
            "rule: schedule {schedule} has a slot each {every_ms} ms from {from_ms} to {to_ms}, \
             for queue {queue}"
        ),
    }
}

fn of_end(end: &End) -> String {
    let at = |ns: u64| if ns == 0 { "never".to_owned() } else { format!("at {}", clock(ns)) };
    let (healed, served, drained) = (clock(end.healed_ns), at(end.served_ns), at(end.drained_ns));
    let leaders = end.leaders;
    format!(
        "the end: healed at {healed}, served {served}, drained {drained}, nodes that lead: {leaders}"
    )
}

fn job_of(job: u64, key: u64, queue: u16) -> String {
    match key {
        0 => format!("job {job} (of a schedule, queue {queue})"),
        _ => format!("job {job} (key {key}, queue {queue})"),
    }
}

/// Seconds since the start of the run.
fn clock(ns: u64) -> String {
    format!("{:.3} s", ns as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use batonq_protocol::ErrorCode;

    use super::*;
    use crate::history::Waits;

    fn call(what: What, outcome: Outcome) -> Record {
        let (start_ns, end_ns) = (1_234_000_000, 1_240_500_000);
        Record::Call(Call { start_ns, end_ns, client: 3, node: 1, what, outcome })
    }

    #[test]
    fn a_call_says_who_asked_what_of_whom_and_what_came_of_it() {
        let (key, queue, job) = (7, 2, 15);
        let (waits, repeated) = (Waits::ForWorkers, false);
        let push = What::Push { key, queue, job, run_at_ms: 0, waits, repeated };
        let ack = What::Settle { job, delivery: 2, how: How::Ack, until_ms: 0 };
        let lost = Outcome::Rejected(ErrorCode::LeaseLost);
        for (record, expected) in [
            (call(push, Outcome::Ok), "push key 7 to queue 2: ok, job 15"),
            (call(push, Outcome::Unknown), "push key 7 to queue 2: no answer"),
            (call(ack, lost), "ack delivery 2 of job 15: LEASE_LOST"),
        ] {
            let expected = format!("1.234 s to 1.240 s, client 3 at n1: {expected}");
            assert_eq!(words(&record), expected);
        }
    }

    #[test]
    fn what_the_database_has_is_told_with_its_times() {
        let ending = "node_lost".to_owned();
        let lease =
            LeaseEnd { job: 15, delivery: 1, attempt: 1, begins_ms: 100, ended_ms: 140, ending };
        assert_eq!(
            words(&Record::Lease(lease)),
            "timeline of job 15: delivery 1, attempt 1, from 100, ended at 140: node_lost"
        );
        let slot = Slot { schedule: 1, slot_ms: 1000, fired_ms: 1003, job: 0 };
        assert_eq!(words(&Record::Slot(slot)), "schedule 1, slot 1000: fired at 1003, no job");
    }
}

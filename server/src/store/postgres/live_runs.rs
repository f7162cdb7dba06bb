//! Live jobs in runs: those that were pushed together are one row until they are acked.
//!
//! A live job has a row in `job`, or is in one run that has not finished; never both. Pushes write runs
//! ([`alike`](super::alike)), claims read them and leave them as they are, and an ack of all jobs of a run
//! says in its row when they were completed: nothing is written twice ([`acks`](super::acks)). All jobs of
//! such a run wait for one time, or are ready or leased, with one number of attempts and of leases; and nothing
//! else is known of them but what the push said. See `migrations/0015_live_runs.sql`.
//!
//! Jobs that wait for one time are one row in `scheduled`, too, and become ready as one block
//! ([`duties`](super::duties)): the run is told its new place, and when that was. Else
//! a run is never changed before it is completed. An ack of many of its jobs divides it into one that is
//! completed and what is left. Whoever wants anything else of some of its jobs takes
//! them out: the row goes, and in the same statement they have rows in `job`. What is left either way is a
//! new run, or rows. All statements about single jobs but reading ones begin with that, so that they find
//! rows. Those that read look into runs as well, in one statement (`live_in_runs`, `places_in_runs`); so does
//! what notes progress, unless others just take jobs out of that run.
//!
//! * Two that take jobs out of one run at once: the second waits for the first, finds its run gone, and
//!   looks for what became of it.
//! * An ack of jobs of which others have just taken some out of the run: it names its jobs, finds that they
//!   are not all there, passes over, and is made once more job by job.
//! * Jobs that fail are taken out. Those that are to be tried again at one time and are alike, beside what
//!   was logged of their attempts, are a run once more ([`settle`](super::settle)), with the next delivery.
//!   So a row in `job` that is waited for may be gone while its job lives: who needs to know looks into runs
//!   then.
//! * Who wants one of those that wait for a time has rows made of all that wait there with it. Their row in
//!   `scheduled` is locked before their runs, as by who makes them ready.
//! * A node that dies with leases of a run: who takes back the leases takes the jobs out.
//! * While events are recorded pushes write no runs; those that are there are told of as what they are.
//!
//! Who locks both locks a block of `ready` before a run.

use super::lane::{Failure, Tx};

/// The numbers of one bucket may be in one run.
const BUCKET_BITS: u32 = 10;

/// With fewer jobs in line a row for each is cheaper: they mostly come one by one, and go so.
pub(super) const LINE_RUN_MIN: usize = 64;

/// With fewer jobs that are alike a run is no gain: its row and its indexes cost as much as theirs.
pub(super) const RUN_MIN: usize = 16;

/// Of jobs that wait for another attempt: each that has a row costs ten more until it is completed.
pub(super) const RETRIED_RUN_MIN: usize = 8;

/// A run that lives, how many jobs are in it, and the number of their lease: a hint where its jobs are. Jobs
/// are only taken out of a run, so it has the same jobs with the same number, the same lease and as many of
/// them, if the change was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct InRun {
    pub(super) id: i64,
    pub(super) count: i32,
    pub(super) delivery: i32,
}

/// The bucket of a job's number.
pub(super) fn bucket_of(job: i64) -> i64 {
    job >> BUCKET_BITS
}

/// Those of these jobs that are in runs that live have rows of their own from now on.
pub(super) const TAKE_OUT: &str = "SELECT * FROM take_out($1::bigint[])";

/// The same of those that are held by these leases.
pub(super) const TAKE_OUT_HELD: &str = "
    SELECT *
    FROM take_out(ARRAY(SELECT id FROM held_in_runs($1::bigint[], $2::integer[])))";

/// The same only of those that wait for their time, and of all that wait with them.
pub(super) const UNPACK_SCHEDULED: &str = "SELECT unpack_scheduled($1::bigint[])";

/// All that stand in these blocks.
pub(super) const UNPACK_PLACES: &str = "SELECT unpack_places($1::bigint[])";

/// Whether job `u.id` lives; `live_packed` are those of them that are in runs.
macro_rules! is_live {
    () => {
        "
        SELECT (
            SELECT true FROM job WHERE id = u.id
            UNION ALL
            SELECT true FROM live_packed WHERE id = u.id
            LIMIT 1
        ) IS NOT NULL AS is_live"
    };
}
pub(super) use is_live;

/// These live jobs are in no run from now on.
pub(super) async fn take_out(tx: &mut Tx<'_>, jobs: &[i64]) -> Result<(), Failure> {
    tx.query(TAKE_OUT, &[&jobs]).await.map(drop)
}

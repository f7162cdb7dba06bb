//! What it costs to decide where a job goes when its lease has ended.

use std::hint::black_box;
use std::time::Duration;

use batonq_server::job::{Backoff, Charges, Ending, Rules, Timestamp, after};
use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let rules = Rules {
        max_attempts: 25,
        crashes_max: 3,
        backoff: Backoff::default(),
        expires_at: None,
        is_cancelled: false,
    };
    let charges = Charges { attempts: 3, crashes: 1 };
    let now = Timestamp(1_760_000_000_000);
    let mut group = criterion.benchmark_group("after a lease");
    for (name, ending) in [
        ("completed", Ending::Completed),
        ("failed", Ending::Failed { retry_in: None }),
        ("snoozed", Ending::Snoozed(Duration::from_secs(60))),
        ("crashed", Ending::Crashed),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| after(black_box(ending), charges, black_box(&rules), now, 0.5));
        });
    }
    group.finish();
    criterion.final_summary();
}

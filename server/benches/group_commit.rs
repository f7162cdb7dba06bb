//! What a committer adds to a commit that costs nothing: for a lone call, and for a flood of them.

use batonq_server::group_commit::{Budget, Committer};
use criterion::{Criterion, Throughput};
use futures_util::future::join_all;
use tokio::runtime;

const CALLS: u64 = 1000;

const BUDGET_BYTES: usize = 64 * 1024 * 1024;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = runtime::Builder::new_current_thread().build().expect("a runtime");
    let committer = {
        let _inside = runtime.enter();
        committer()
    };
    let mut group = criterion.benchmark_group("group commit");
    group.throughput(Throughput::Elements(1));
    group.bench_function("a lone call", |bencher| {
        bencher.iter(|| runtime.block_on(committer.submit(vec![1], 60)));
    });
    group.throughput(Throughput::Elements(CALLS));
    group.bench_function("1000 calls", |bencher| {
        let flood = || join_all((0..CALLS).map(|item| committer.submit(vec![item], 60)));
        bencher.iter(|| runtime.block_on(flood()));
    });
    group.finish();
    criterion.final_summary();
}

/// One whose store answers at once.
fn committer() -> Committer<u64, u64> {
    let commit = |items: Vec<u64>| std::future::ready(Ok(items));
    let (committer, run) = Committer::new(Budget::new(BUDGET_BYTES), commit, drop);
    // It ends with its committer.
    drop(tokio::spawn(run));
    committer
}

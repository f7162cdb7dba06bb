//! How long it takes to judge a million jobs, and to read them.

use std::hint::black_box;
use std::time::Duration;

use batonq_verify::check::check;
use batonq_verify::history::History;
use batonq_verify::history::file::Writer;
use criterion::Criterion;

#[path = "../tests/made/mod.rs"]
mod made;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .configure_from_args();
    let plan = made::Plan { seed: 1, jobs: 1_000_000, trouble: 0.005 };
    let history = History::from(made::history(plan));
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes).expect("memory can be written");
    for record in &history.records {
        writer.write(record).expect("memory can be written");
    }
    writer.flush().expect("memory can be written");
    drop(writer);
    let size = format!(
        "a million jobs, {} records, {} MiB",
        history.records.len(),
        bytes.len() / (1 << 20)
    );
    let mut group = criterion.benchmark_group(size);
    group.bench_function("judge", |bencher| bencher.iter(|| check(black_box(&history))));
    group.bench_function("read", |bencher| bencher.iter(|| History::read(black_box(&bytes[..]))));
    group.finish();
    criterion.final_summary();
}

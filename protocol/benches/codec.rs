//! What it costs to encode and decode the two large frames of the hot path: 500 jobs in, and 500
//! leased jobs out.

use std::hint::black_box;

use batonq_protocol::messages::{Delivery, LeasedJob, NewJob, Push};
use batonq_protocol::{Envelope, FRAME_BYTES_MAX, FrameCodec, Message};
use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use tokio_util::codec::{Decoder, Encoder};

const JOBS: u64 = 500;
const PAYLOAD: &[u8] = &[b'x'; 60];
/// As large as those of a node.
const LEASE: &[u8] = &[7; 20];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    both_ways(&mut criterion, "push of 500", &push());
    both_ways(&mut criterion, "delivery of 500", &delivery());
    criterion.final_summary();
}

fn push() -> Envelope {
    let job = NewJob {
        queue: "mail".to_owned(),
        payload: Bytes::from_static(PAYLOAD),
        ..NewJob::default()
    };
    let jobs = vec![job; usize::try_from(JOBS).expect("it is small")];
    Envelope { request_id: 1_000_000, message: Some(Message::Push(Push { jobs })) }
}

fn delivery() -> Envelope {
    let job = |number| LeasedJob {
        id: 1_000_000 + number,
        lease: Bytes::from_static(LEASE),
        payload: Bytes::from_static(PAYLOAD),
        attempt: 1,
        max_attempts: 25,
        delivery: 1,
        created_at_ms: 1_760_000_000_000,
        lease_until_ms: 1_760_000_030_000,
        ..LeasedJob::default()
    };
    let delivery = Delivery { subscription: 3, jobs: (0..JOBS).map(job).collect() };
    Envelope { request_id: 0, message: Some(Message::Delivery(delivery)) }
}

fn both_ways(criterion: &mut Criterion, name: &str, envelope: &Envelope) {
    let mut codec = FrameCodec::new(FRAME_BYTES_MAX);
    let mut frame = BytesMut::new();
    codec.encode(envelope, &mut frame).expect("it is below the limit");
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(JOBS));
    group.bench_function("encode", |bencher| {
        let mut out = BytesMut::with_capacity(frame.len());
        bencher.iter(|| {
            out.clear();
            codec.encode(black_box(envelope), &mut out).expect("it is below the limit");
        });
    });
    group.bench_function("decode", |bencher| {
        let read = || frame.clone();
        let decode = |mut bytes: BytesMut| FrameCodec::new(FRAME_BYTES_MAX).decode(&mut bytes);
        bencher.iter_batched(read, decode, BatchSize::SmallInput);
    });
    group.finish();
}

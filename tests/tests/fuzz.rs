//! Random changes of valid input, for some seconds. `fuzz/` has the same for hours.

use std::time::Duration;

use batonq_tests::fuzz;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

const TIME: Duration = Duration::from_secs(4);

fn golden_frames() -> Vec<Vec<u8>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../protocol/golden");
    let files = std::fs::read_dir(dir).expect("the golden frames are there");
    let frames = files.flatten().map(|file| {
        let text = std::fs::read_to_string(file.path()).expect("they are texts");
        let digits: Vec<u32> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(str::chars)
            .filter_map(|letter| letter.to_digit(16))
            .collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    });
    frames.collect()
}

fn valid_bodies() -> Vec<Vec<u8>> {
    [
        r#"{"payload":{"a":[1,2.5,null]},"priority":-1,"delay_ms":10,"tags":["a","b"]}"#,
        r#"{"payload_base64":"AP8=","content_type":"x/y","run_at":"2030-01-01T00:00:00Z"}"#,
        r#"{"payload":1,"backoff":{"type":"exponential","base_ms":1,"max_ms":2,"jitter":0.5}}"#,
        r#"{"payload":1,"backoff":{"type":"list","delays_ms":[1,2]},"unique":{"key":"k"}}"#,
        r#"{"jobs":[{"payload":1},{"payload":"\u00e4\ud83d\ude00"}]}"#,
        r#"{"count":1,"wait_ms":0,"lease_ms":30000,"worker":"w"}"#,
        r#"{"acks":[{"lease":"AAAA","result":{"a":1}}]}"#,
        r#"{"lease":"AAAA","error":{"code":"X","message":"y"},"retry_in_ms":5}"#,
        r#"{"lease":"AAAA","percent":50,"message":"m"}"#,
    ]
    .map(|body| body.as_bytes().to_vec())
    .into()
}

/// Some bytes changed, cut, repeated or put in.
fn mutate(rng: &mut SmallRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds.choose(rng).expect("there are seeds").clone();
    for _ in 0..rng.random_range(1..6) {
        let place = rng.random_range(0..=bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(place),
            1 => bytes.insert(place, rng.random()),
            2 if place < bytes.len() => bytes[place] = rng.random(),
            3 if place < bytes.len() => bytes[place] ^= 1 << rng.random_range(0..8),
            4 => {
                let other = seeds.choose(rng).expect("there are seeds");
                let from = rng.random_range(0..=other.len());
                bytes.splice(place..place, other[from..].iter().copied());
            }
            _ => {
                let part = bytes[place..].to_vec();
                let count = rng.random_range(1..20);
                (0..count).for_each(|_| bytes.extend_from_slice(&part));
                bytes.truncate(100_000);
            }
        }
    }
    bytes
}

fn run(seeds: &[Vec<u8>], target: fn(&[u8])) {
    let seed: u64 = rand::random();
    let mut rng = SmallRng::seed_from_u64(seed);
    let started = Instant::now();
    let mut count = 0_u64;
    while started.elapsed() < TIME {
        let bytes = mutate(&mut rng, seeds);
        let took = Instant::now();
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "seed {seed}, input {count}: {bytes:?}");
        // A hundred kilobytes must not take longer, whatever they are.
        assert!(took.elapsed() < Duration::from_secs(5), "seed {seed}, input {count}");
        count += 1;
    }
    assert!(count > 100, "only {count} inputs in {TIME:?}");
}

#[test]
fn no_bytes_break_the_frame_decoder() {
    run(&golden_frames(), fuzz::frames);
}

#[test]
fn no_bytes_break_the_json_bodies() {
    run(&valid_bodies(), fuzz::bodies);
}

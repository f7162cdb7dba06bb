//! Coverage-guided fuzzing of the JSON bodies: `cargo fuzz run bodies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| batonq_tests::fuzz::bodies(bytes));

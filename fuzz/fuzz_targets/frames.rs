//! Coverage-guided fuzzing of the frame decoder: `cargo fuzz run frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| batonq_tests::fuzz::frames(bytes));

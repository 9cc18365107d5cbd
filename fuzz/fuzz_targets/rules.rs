#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gradual_fuzz::rules::run(input));

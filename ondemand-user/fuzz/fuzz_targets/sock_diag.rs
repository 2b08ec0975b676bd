#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ondemand::fuzzing::sock_diag(data));

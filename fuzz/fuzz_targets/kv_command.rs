//! See [`quorate_fuzz::kv_command`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| quorate_fuzz::kv_command(data));

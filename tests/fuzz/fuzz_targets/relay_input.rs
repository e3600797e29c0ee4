#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ipsx_properties::check("relay_input", input));

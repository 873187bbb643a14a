//! A target that must fail, to see that failures are seen.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // One branch for each letter: coverage leads from one to the next.
    let mut rest = bytes;
    for letter in b"lemon" {
        match rest.split_first() {
            Some((first, others)) if first == letter => rest = others,
            _ => return,
        }
    }
    panic!("the canary sings");
});

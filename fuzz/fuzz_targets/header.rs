//! The bytes of a safetensors file: tensors, or an error. Bytes that begin with a brace are the
//! header's text up to the last brace, and then the numbers: the length in front is put right, so
//! that mutations reach what lies behind it.
#![no_main]

use lemon_check::checkpoint::read_tensors;
use lemon_check_fuzz::Scratch;
use libfuzzer_sys::fuzz_target;

thread_local!(static SCRATCH: Scratch = Scratch::default());

fuzz_target!(|bytes: &[u8]| {
    SCRATCH.with(|scratch| {
        let bytes = with_length(bytes);
        let file = scratch.write("model.safetensors", &bytes);
        let Ok(tensors) = read_tensors(&file) else { return };
        let stored: usize = tensors.values().map(|tensor| tensor.bytes().len()).sum();
        assert!(stored <= bytes.len(), "{stored} bytes of tensors in {} bytes", bytes.len());
        for (name, tensor) in &tensors {
            let numbers: usize = tensor.shape.iter().product();
            assert_eq!(tensor.len(), numbers, "{name}");
        }
    });
});

fn with_length(bytes: &[u8]) -> Vec<u8> {
    match bytes.iter().rposition(|byte| *byte == b'}') {
        Some(last) if bytes[0] == b'{' => [&(last as u64 + 1).to_le_bytes(), bytes].concat(),
        _ => bytes.to_vec(),
    }
}

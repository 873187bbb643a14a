//! The bytes of a safetensors file: tensors, or an error.
#![no_main]

use lemon_check::checkpoint::read_tensors;
use lemon_check_fuzz::Scratch;
use libfuzzer_sys::fuzz_target;

thread_local!(static SCRATCH: Scratch = Scratch::default());

fuzz_target!(|bytes: &[u8]| {
    SCRATCH.with(|scratch| {
        let file = scratch.write("model.safetensors", bytes);
        let Ok(tensors) = read_tensors(&file) else { return };
        let stored: usize = tensors.values().map(|tensor| tensor.bytes().len()).sum();
        assert!(stored <= bytes.len(), "{stored} bytes of tensors in {} bytes", bytes.len());
        for (name, tensor) in &tensors {
            let numbers: usize = tensor.shape.iter().product();
            assert_eq!(tensor.len(), numbers, "{name}");
        }
    });
});

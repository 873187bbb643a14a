//! An index of shards beside two shards: a checkpoint, or an error.
#![no_main]

use lemon_check::checkpoint::Checkpoint;
use lemon_check_fuzz::Scratch;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static SHARD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let header = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.extend_from_slice(&1f32.to_le_bytes());
    file
});

thread_local!(static SCRATCH: Scratch = {
    let scratch = Scratch::default();
    let renamed = SHARD.iter().map(|byte| if *byte == b'x' { b'y' } else { *byte });
    let other: Vec<u8> = renamed.collect();
    scratch.write("a.safetensors", &SHARD);
    scratch.write("b.safetensors", &other);
    scratch.write("config.json", br#"{"model_type":"gpt2"}"#);
    scratch
});

fuzz_target!(|bytes: &[u8]| {
    SCRATCH.with(|scratch| {
        let index = scratch.write("model.safetensors.index.json", bytes);
        let Ok(checkpoint) = Checkpoint::open(&index, None) else { return };
        assert!(checkpoint.tensors().keys().all(|name| name == "x" || name == "y"));
    });
});

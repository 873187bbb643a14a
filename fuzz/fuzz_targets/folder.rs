//! A whole folder, through the command line: a model of the tests with some bytes and some fields
//! of its configuration changed, held against the unchanged one, or expanded.
#![no_main]

use lemon_check::cli::run;
use lemon_check_fuzz::{Golden, Scratch, fields};
use libfuzzer_sys::fuzz_target;
use std::ffi::OsString;

thread_local!(static SCRATCH: Scratch = Scratch::default());

fuzz_target!(|bytes: &[u8]| {
    let [number, mode, edits, rest @ ..] = bytes else { return };
    let golden = Golden::of(*number);
    let mut weights = golden.weights.clone();
    let (edits, text) = rest.split_at(rest.len().min(3 * usize::from(*edits % 8)));
    for edit in edits.chunks_exact(3) {
        let place = usize::from(u16::from_le_bytes([edit[0], edit[1]])) % weights.len();
        weights[place] ^= edit[2];
    }
    if *mode & 4 != 0 {
        weights.truncate(weights.len() * usize::from(*mode) / 255);
    }
    let config = golden.config(&fields(text).unwrap_or_default());
    SCRATCH.with(|scratch| {
        scratch.write("model/model.safetensors", &weights);
        let json = serde_json::to_vec(&config).expect("JSON can be written");
        scratch.write("model/config.json", &json);
        let (model, golden) = (scratch.path("model"), golden.folder.clone());
        let out = scratch.path("out");
        let _ = std::fs::remove_dir_all(&out);
        let _ = std::fs::remove_file(&out);
        let mut line: Vec<OsString> = vec!["lemon-check".into()];
        match *mode & 3 {
            0 => line.extend([golden.into(), model.into()]),
            1 => line.extend([model.into(), golden.into()]),
            2 => line.extend(["--format=json".into(), model.clone().into(), model.into()]),
            _ => line.extend(["expand".into(), model.into(), out.clone().into()]),
        }
        match *mode & 3 {
            3 => line.extend(["--num-hidden-layers".into(), "3".into()]),
            _ => line.extend(["--output".into(), out.into()]),
        }
        let code = run(line);
        assert!(code <= 4, "exit code {code}");
        assert!(*mode & 3 != 2 || code != 1, "a model is called different from itself");
    });
});

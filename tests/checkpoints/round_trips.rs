//! What is saved is what is opened again.

use crate::{Tensors, assert_same, config, tensors, word};
use lemon_check::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, Tensor, save};
use lemon_check::model;
use tempfile::tempdir;

#[test]
fn every_format_survives_a_round_trip_in_file_and_folder() {
    let bits_and_formats = [
        (4, "F4"),
        (6, "F6_E2M3 F6_E3M2"),
        (8, "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ"),
        (16, "I16 U16 F16 BF16"),
        (32, "I32 U32 F32"),
        (64, "C64 F64 I64 U64"),
    ];
    let mut all = Tensors::new();
    for (bits, formats) in bits_and_formats {
        for (seed, format) in formats.split(' ').enumerate() {
            let bytes = (0..4 * bits / 8).map(|i| (i * 7 + seed) as u8).collect();
            let tensor = Tensor::from_bytes(format, vec![4, 1], bytes).unwrap();
            assert_eq!(tensor.format_name(), format);
            all.insert(format!("tensor.{format}"), tensor);
        }
    }
    all.insert("scalar".into(), Tensor::from_values(Dtype::Bf16, vec![], [0.5]));
    all.insert("none".into(), Tensor::from_values(Dtype::F32, vec![4, 0], []));
    let folder = tempdir().unwrap();
    for name in ["m.safetensors", "m"] {
        let path = folder.path().join(name);
        save(&path, &config("x"), &all, SHARD_LIMIT).unwrap();
        let opened = Checkpoint::open(&path, None).unwrap();
        assert_same(opened.tensors(), &all);
        assert_eq!(opened.config().json(), config("x").json());
        // What was opened can be saved again, over itself, while it is mapped.
        save(&path, &config("y"), opened.tensors(), SHARD_LIMIT).unwrap();
        let again = Checkpoint::open(&path, None).unwrap();
        assert_same(again.tensors(), opened.tensors());
        assert_eq!(word(&again), "y");
    }
}

#[test]
fn bytes_that_do_not_fit_format_and_shape_are_refused() {
    assert!(Tensor::from_bytes("I64", vec![2], vec![0; 15]).is_err());
    assert!(Tensor::from_bytes("I65", vec![2], vec![0; 16]).is_err());
    assert!(Tensor::from_bytes("U8", vec![usize::MAX, 2, 0], vec![]).is_err());
}

#[test]
fn weights_in_a_format_that_no_equation_reads_are_named() {
    let tensor = Tensor::from_bytes("F8_E4M3", vec![2], vec![0; 2]).unwrap();
    let stored = Checkpoint::in_memory("m", config("x"), [("w".to_string(), tensor)].into());
    let lens = model::Lens::vector("w", model::Dim::new(2, "n"));
    let message = lens.check(&stored).unwrap_err().to_string();
    assert!(message.contains("stored as F8_E4M3"), "{message}");
}

#[test]
fn numbers_of_a_configuration_survive_to_the_last_bit() {
    let folder = tempdir().unwrap();
    let mut changed = config("x");
    // The scaled ε of many widths, and numbers near them.
    let numbers: Vec<f64> =
        (1..2000).map(|i| 1e-5 * i as f64 / 7.0 + 10f64.powi(-(i % 30))).collect();
    changed.set("numbers", numbers);
    for name in ["m.safetensors", "m"] {
        let path = folder.path().join(name);
        save(&path, &changed, &tensors(1), SHARD_LIMIT).unwrap();
        assert_eq!(Checkpoint::open(&path, None).unwrap().config().json(), changed.json());
    }
}

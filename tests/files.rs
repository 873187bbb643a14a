//! Models of each family's shape, expanded, written, and checked from the files: right ones are
//! lossless, and one number of one tensor that is off by 1 % is found and named.

use lemon_check::check::{Check, Verdict, check};
use lemon_check::checkpoint::{Checkpoint, SHARD_LIMIT, save};
use lemon_check::expand::{NewLayers, Options, Target, expand};
use lemon_check::model::describe;
use lemon_check::testing::random::generator;
use lemon_check::testing::{Architecture, Head, SourceCase, WeightStyle};
use std::path::{Path, PathBuf};

/// A source of a shape that real models have, small: `hidden` 48 with 4 heads.
fn source(architecture: Architecture) -> SourceCase {
    let mut case = SourceCase::random(architecture, &mut generator(1));
    (case.hidden, case.heads, case.head_dim) = (48, 4, 12);
    case.kv_heads = if architecture == Architecture::Llama { 2 } else { 4 };
    (case.intermediate, case.layers, case.eps) = (96, 2, 1e-5);
    case.dtype = lemon_check::checkpoint::Dtype::F32;
    case.weights = WeightStyle::Random;
    case.stored_twice = false;
    // A ReLU neuron may be silent on every input: then a wrong weight in it is no difference.
    case.activation = if architecture == Architecture::Llama { "silu" } else { "gelu" }.into();
    case.head = match architecture {
        Architecture::Vit | Architecture::VitTimm => Head::Classes,
        _ => Head::Words,
    };
    case.vocabulary = 64;
    if case.positions > 0 {
        case.positions = 32;
    }
    case
}

/// Writes the source and its expansion, and gives their paths.
fn written(architecture: Architecture, new_layers: NewLayers, folder: &Path) -> (PathBuf, PathBuf) {
    let checkpoint = source(architecture).build().unwrap();
    let model = describe(&checkpoint).unwrap();
    // Indivisible, except where a norm behind the sum forbids it; more heads; more neurons; new
    // layers.
    let post_norm = architecture == Architecture::Bert;
    let target = Target {
        hidden: Some(if post_norm { 96 } else { 104 }),
        heads: Some(8),
        kv_heads: (architecture == Architecture::Llama).then_some(4),
        intermediate: Some(200),
        layers: Some(if post_norm { 2 } else { 4 }),
        ..Target::default()
    };
    let options = Options { target, new_layers, ..Options::default() };
    let expanded = expand(&checkpoint, &model, &options).unwrap();
    let paths = (folder.with_extension("safetensors"), folder.to_path_buf());
    save(&paths.0, checkpoint.config(), checkpoint.tensors(), SHARD_LIMIT).unwrap();
    save(&paths.1, expanded.config(), expanded.tensors(), SHARD_LIMIT).unwrap();
    paths
}

fn check_files(source: &Path, expanded: &Path) -> Check {
    let open = |path| Checkpoint::open(path, None).unwrap_or_else(|e| panic!("{e}"));
    check(&open(source), &open(expanded), &|_, _| ()).unwrap_or_else(|e| panic!("{e}"))
}

/// Multiplies the largest number of a tensor in a safetensors file of f32 by 1.01.
fn spoil(file: &Path, tensor: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let offsets = &json[tensor]["data_offsets"];
    let at = |i: usize| 8 + header + offsets[i].as_u64().unwrap() as usize;
    let number = |place: usize| f32::from_le_bytes(bytes[place..place + 4].try_into().unwrap());
    let places = (at(0)..at(1)).step_by(4);
    let worst = places.max_by(|a, b| number(*a).abs().total_cmp(&number(*b).abs())).unwrap();
    let changed = number(worst) * 1.01;
    bytes[worst..worst + 4].copy_from_slice(&changed.to_le_bytes());
    std::fs::write(file, bytes).unwrap();
}

fn right_and_spoiled(architecture: Architecture) {
    let folder = tempfile::tempdir().unwrap();
    for new_layers in [NewLayers::Cancel, NewLayers::Zero] {
        let (source, expanded) = written(architecture, new_layers, &folder.path().join("pair"));
        let found = check_files(&source, &expanded);
        assert_eq!(found.verdict, Verdict::Lossless, "{:?}", found.certificate.failures.first());
    }
    let (source, expanded) = (folder.path().join("pair.safetensors"), folder.path().join("pair"));

    let file = expanded.join("model.safetensors");
    let right = std::fs::read(&file).unwrap();
    let names: Vec<String> =
        Checkpoint::open(&expanded, None).unwrap().tensors().keys().cloned().collect();
    let mut spoiled = 0;
    for name in names {
        // Without rotary positions a key bias changes nothing; in a fused bias it may be the
        // largest number.
        let has_key_bias =
            [".key.bias", "c_attn.bias", "qkv.bias"].iter().any(|k| name.ends_with(k));
        if has_key_bias {
            continue;
        }
        spoil(&file, &name);
        let found = check_files(&source, &expanded);
        let first = found.certificate.failures.first();
        // The largest number may be one that losslessness leaves free: on the residue.
        let free =
            found.verdict == Verdict::Lossless && found.effect.is_some_and(|e| e.relative < 1e-5);
        if !free {
            spoiled += 1;
            assert_eq!(
                found.verdict,
                Verdict::NotLossless,
                "{name}: {first:?} {:?} {:?}",
                found.certificate.unknown.first(),
                found.forward_resolution
            );
            assert_eq!(first.map(|f| f.tensor.as_str()), Some(name.as_str()), "{first:?}");
        }
        std::fs::write(&file, &right).unwrap();
    }
    assert!(spoiled >= 12, "only {spoiled} tensors could be spoiled");
}

#[test]
fn gpt2_files_are_lossless_and_one_number_off_is_named() {
    right_and_spoiled(Architecture::Gpt2);
}

#[test]
fn bert_files_are_lossless_and_one_number_off_is_named() {
    right_and_spoiled(Architecture::Bert);
}

#[test]
fn llama_files_are_lossless_and_one_number_off_is_named() {
    right_and_spoiled(Architecture::Llama);
}

#[test]
fn vit_files_are_lossless_and_one_number_off_is_named() {
    right_and_spoiled(Architecture::Vit);
}

#[test]
fn timm_files_are_lossless_and_one_number_off_is_named() {
    right_and_spoiled(Architecture::VitTimm);
}

//! T5: an encoder beside the decoder, relative position bias, a scaled head.

mod golden_case;

use golden_case::{changed, load};
use lemon_check::check::{Check, Verdict, check};
use lemon_check::checkpoint::{Checkpoint, Config, Dtype, Tensor};
use lemon_check::expand::{NewLayers, Options, Target, expand};
use lemon_check::model::describe;
use serde_json::json;

const CASES: [&str; 5] = ["t5-encoder", "t5-gated", "t5-gated-tied", "t5-model", "t5-plain"];

fn grown(case: &str, target: Target) -> (Checkpoint, Checkpoint) {
    let source = load(case);
    let options = Options { target, seed: 3, ..Options::default() };
    let expanded = expand(&source, &describe(&source).unwrap(), &options).unwrap();
    (source, expanded)
}

/// Everything grows, the width to no multiple.
fn larger() -> Target {
    Target {
        hidden: Some(19),
        heads: Some(7),
        head_dim: Some(6),
        intermediate: Some(43),
        layers: Some(5),
        ..Target::default()
    }
}

fn checked(source: &Checkpoint, expanded: &Checkpoint) -> Check {
    check(source, expanded, &|_, _| ()).unwrap()
}

/// The checkpoint with the numbers of one tensor changed.
fn edited(
    checkpoint: &Checkpoint,
    name: &str,
    change: impl FnOnce(&[usize], &mut [f64]),
) -> Checkpoint {
    let stored = checkpoint.tensor(name).unwrap();
    let mut values: Vec<f64> =
        (0..stored.len()).map(|at| Dtype::F64.get(stored.bytes(), at)).collect();
    change(&stored.shape, &mut values);
    let mut tensors = checkpoint.tensors().clone();
    let tensor = Tensor::from_values(Dtype::F64, stored.shape.clone(), values);
    tensors.insert(name.into(), tensor);
    Checkpoint::in_memory("edited", checkpoint.config().clone(), tensors)
}

/// That the change is found, and blamed on the tensor.
fn caught(case: &str, name: &str, change: impl FnOnce(&[usize], &mut [f64])) -> Check {
    let (source, expanded) = grown(case, larger());
    let found = checked(&source, &edited(&expanded, name, change));
    assert_eq!(found.verdict, Verdict::NotLossless, "{name}: {:?}", found.certificate);
    assert_eq!(found.certificate.failures[0].tensor, name, "{:?}", found.certificate.failures[0]);
    found
}

#[test]
fn every_expansion_is_proven() {
    for case in CASES {
        for new_layers in [NewLayers::Zero, NewLayers::Cancel] {
            let source = load(case);
            let target = Target { heads: Some(8), ..larger() };
            let options = Options { target, new_layers, ..Options::default() };
            let expanded = expand(&source, &describe(&source).unwrap(), &options).unwrap();
            let found = checked(&source, &expanded);
            let reasons = (&found.certificate.failures, &found.certificate.unknown);
            assert_eq!(found.verdict, Verdict::Lossless, "{case}: {reasons:?}");
        }
        let found = checked(&load(case), &load(case));
        assert_eq!(found.verdict, Verdict::Lossless, "{case}: {:?}", found.certificate);
    }
}

#[test]
fn an_encoder_grows_by_as_many_layers_as_its_decoder() {
    let (_, expanded) = grown("t5-gated", Target { layers: Some(7), ..Target::default() });
    let model = describe(&expanded).unwrap();
    assert_eq!((model.encoder.unwrap().layers.len(), model.layers.len()), (6, 7));
}

const ENCODER_BIAS: &str = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";
const DECODER_BIAS: &str = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight";

/// Swaps columns 0 and 1.
fn swap_columns(shape: &[usize], values: &mut [f64]) {
    for row in values.chunks_mut(shape[1]) {
        row.swap(0, 1);
    }
}

#[test]
fn bias_columns_in_another_order_than_the_heads_are_caught() {
    for name in [ENCODER_BIAS, DECODER_BIAS] {
        let found = caught("t5-plain", name, swap_columns);
        let cause = found.certificate.failures[0].cause.as_ref().unwrap();
        assert!(cause.contains("its column 0 is that of the source's head 1"), "{cause}");
    }
    caught("t5-encoder", ENCODER_BIAS, swap_columns);
}

#[test]
fn a_wrong_bias_of_distances_that_few_inputs_have_is_caught() {
    caught("t5-plain", DECODER_BIAS, |shape, values| {
        let last = values.len() - shape[1];
        values[last] += 0.1;
    });
}

#[test]
fn a_constant_on_all_distances_changes_nothing() {
    let (source, expanded) = grown("t5-plain", larger());
    let shifted = edited(&expanded, ENCODER_BIAS, |shape, values| {
        values.iter_mut().step_by(shape[1]).for_each(|value| *value += 3.0);
    });
    assert_eq!(checked(&source, &shifted).verdict, Verdict::Lossless);
}

#[test]
fn a_bias_for_distances_that_no_positions_have_changes_nothing() {
    let (source, expanded) = grown("t5-plain", larger());
    // Distance 0 is not among those behind the query.
    let changed =
        edited(&expanded, ENCODER_BIAS, |shape, values| values[shape[0] / 2 * shape[1]] = 9.0);
    assert_eq!(checked(&source, &changed).verdict, Verdict::Lossless);
}

#[test]
fn a_forgotten_head_scale_is_caught() {
    for case in ["t5-plain", "t5-gated-tied"] {
        let factor = (12.0f64 / 19.0).sqrt();
        let found = caught(case, "decoder.final_layer_norm.weight", |_, values| {
            values.iter_mut().for_each(|value| *value *= factor);
        });
        assert!(found.witness.is_some(), "{case}");
    }
    let (source, expanded) = grown("t5-plain", larger());
    let mut config = expanded.config().clone();
    config.set("scale_decoder_outputs", false);
    let unscaled = Checkpoint::in_memory("unscaled", config, expanded.tensors().clone());
    assert_ne!(checked(&source, &unscaled).verdict, Verdict::Lossless);
}

#[test]
fn cross_attention_that_reads_another_map_is_caught() {
    // The columns of the copies of two channels, exchanged.
    caught("t5-gated", "decoder.block.0.layer.1.EncDecAttention.v.weight", swap_columns);
    caught("t5-gated", "decoder.block.0.layer.1.EncDecAttention.k.weight", swap_columns);
    let name = "encoder.final_layer_norm.weight";
    caught("t5-gated", name, |_, values| values.swap(0, 1));
}

#[test]
fn keys_of_cross_attention_that_read_the_decoder_are_no_proof() {
    let (source, expanded) = grown("t5-plain", larger());
    let name = |stack: &str| format!("{stack}.final_layer_norm.weight");
    let decoder = expanded.tensor(&name("decoder")).unwrap().clone();
    let mut tensors = expanded.tensors().clone();
    tensors.insert(name("encoder"), decoder);
    let wrong = Checkpoint::in_memory("edited", expanded.config().clone(), tensors);
    assert_eq!(checked(&source, &wrong).verdict, Verdict::NotLossless);
}

#[test]
fn configurations_of_version_4_mean_the_same() {
    for (case, tied) in [("t5-plain", true), ("t5-gated", false)] {
        let stored = load(case);
        let old = changed(case, |config| {
            for field in ["scale_decoder_outputs", "dense_act_fn", "is_gated_act"] {
                config.remove(field);
            }
            config.set("tie_word_embeddings", tied);
        });
        let (one, two) = (describe(&stored).unwrap(), describe(&old).unwrap());
        assert_eq!(format!("{one:?}"), format!("{two:?}"), "{case}");
    }
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    type Change = fn(&mut Config);
    let cases: [(Change, &str); 5] = [
        (|c| c.set("architectures", json!(["T5ForTokenClassification"])), "architectures"),
        (|c| c.set("dense_act_fn", "mish"), "dense_act_fn"),
        (|c| c.set("relative_attention_num_buckets", 3), "relative_attention_num_buckets"),
        (|c| c.set("relative_attention_max_distance", 4), "relative_attention_num_buckets"),
        (|c| c.set("model_type", "umt5"), "umt5"),
    ];
    for (change, word) in cases {
        let message = describe(&changed("t5-plain", change)).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(word), "{word}: {message}");
    }
}

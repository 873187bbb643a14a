//! What a report says of common mistakes: the cause, numbers that are in the files, nothing that
//! only follows from it.

use lemon_check::certify::Failure;
use lemon_check::check::{Verdict, check};
use lemon_check::checkpoint::{Checkpoint, Dtype, Tensor};
use lemon_check::expand::{Free, Options, Target, expand};
use lemon_check::model::describe;
use lemon_check::report::{Demands, Report};
use std::path::Path;

fn load(case: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    Checkpoint::open(&folder, None).unwrap()
}

const LAYER: &str = "model.layers.0.self_attn";

/// A source and its expansion to twice as many heads and neurons, and this width.
fn grown(case: &str, hidden: usize) -> (Checkpoint, Checkpoint) {
    let source = load(case);
    let model = describe(&source).unwrap();
    let sizes = &model.sizes;
    let target = Target {
        hidden: Some(hidden),
        heads: Some(2 * sizes.heads),
        kv_heads: Some(2 * sizes.kv_heads),
        head_dim: Some(sizes.head_dim),
        intermediate: Some(2 * sizes.intermediate),
        ..Target::default()
    };
    let options = Options { target, free: Free::Equal, ..Options::default() };
    let expanded = expand(&source, &model, &options).unwrap();
    (source, expanded)
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f64> {
    let tensor = checkpoint.tensor(name).unwrap();
    (0..tensor.len()).map(|at| Dtype::F64.get(tensor.bytes(), at)).collect()
}

/// The checkpoint with the numbers of one tensor changed.
fn edited(checkpoint: &Checkpoint, name: &str, change: impl FnOnce(&mut [f64])) -> Checkpoint {
    let mut values = values(checkpoint, name);
    change(&mut values);
    let mut tensors = checkpoint.tensors().clone();
    let shape = checkpoint.tensor(name).unwrap().shape.clone();
    tensors.insert(name.into(), Tensor::from_values(Dtype::F64, shape, values));
    Checkpoint::in_memory("edited", checkpoint.config().clone(), tensors)
}

/// The failures, the first of which is about `name`, and the report in words.
fn caught(source: &Checkpoint, expanded: &Checkpoint, name: &str) -> (Vec<Failure>, String) {
    let found = check(source, expanded, &|_, _| ()).unwrap();
    assert_eq!(found.verdict, Verdict::NotLossless, "{:?}", found.certificate);
    let failures = found.certificate.failures.clone();
    assert_eq!(failures[0].tensor, name, "{:?}", failures[0]);
    (failures, Report::new(found, Demands::default(), 0.0).text())
}

fn assert_cause(failure: &Failure, part: &str) {
    let cause = failure.cause.as_deref().unwrap_or("nothing");
    assert!(cause.contains(part), "{cause}");
}

#[test]
fn a_forgotten_eta_is_named_beside_channels_of_zeros() {
    let (source, expanded) = grown("llama-bias", 25);
    let eta = (16.0f64 / 25.0).sqrt();
    let name = "model.layers.0.input_layernorm.weight";
    let wrong = edited(&expanded, name, |values| values.iter_mut().for_each(|v| *v /= eta));
    let (failures, _) = caught(&source, &wrong, name);
    assert_cause(&failures[0], "eta is missing");
    // Weights of channels that hold zeros are free, and do not count.
    assert_eq!((failures[0].wrong, failures[0].entries), (16, 16));
}

#[test]
fn heads_in_another_order_in_one_tensor_are_named() {
    let (source, expanded) = grown("bert-mlm", 24);
    let name = "bert.encoder.layer.0.attention.self.query.weight";
    let head = 24 * describe(&source).unwrap().sizes.head_dim;
    let swapped = edited(&expanded, name, |values| {
        let (first, rest) = values.split_at_mut(head);
        first.swap_with_slice(&mut rest[..head]);
    });
    let (failures, _) = caught(&source, &swapped, name);
    assert_cause(&failures[0], "heads are in another order");
    let interleaved = edited(&expanded, name, |values| {
        let (first, rest) = values.split_at_mut(24);
        first.swap_with_slice(&mut rest[..24]);
    });
    let (failures, _) = caught(&source, &interleaved, name);
    assert_cause(&failures[0], "row 0 is the source's row 1, where its row 0 belongs");
}

#[test]
fn a_bias_split_like_a_weight_is_named_with_numbers_of_the_files() {
    let (source, expanded) = grown("llama-bias", 32);
    let name = format!("{LAYER}.o_proj.bias");
    let halved = edited(&expanded, &name, |values| values.iter_mut().for_each(|v| *v /= 2.0));
    let (failures, _) = caught(&source, &halved, &name);
    assert_cause(&failures[0], "the bias is split like a weight");
    let stored = (values(&source, &name), values(&halved, &name));
    assert_eq!(failures[0].got, stored.1[failures[0].index[0]]);
    assert!(stored.0.contains(&failures[0].expected), "{}", failures[0].expected);
}

#[test]
fn numbers_that_are_sums_are_called_so() {
    let (source, expanded) = grown("llama-bias", 32);
    let name = format!("{LAYER}.v_proj.bias");
    let wrong = edited(&expanded, &name, |values| values[0] += 0.5);
    let name = format!("{LAYER}.o_proj.bias");
    let wrong = edited(&wrong, &name, |values| values[0] += 0.5);
    let (failures, _) = caught(&source, &wrong, &name);
    assert!(failures[0].rule.contains("the numbers are sums"), "{}", failures[0].rule);
}

#[test]
fn one_wrong_row_of_a_table_is_named() {
    let (source, expanded) = grown("llama-bias", 32);
    let name = "model.embed_tokens.weight";
    let wrong = edited(&expanded, name, |values| values[9 * 32 + 5] += 0.5);
    let (failures, _) = caught(&source, &wrong, name);
    assert_cause(&failures[0], "only the row of token 9 is wrong");
    let wrong = edited(&wrong, name, |values| values[3 * 32 + 5] += 0.5);
    let (failures, _) = caught(&source, &wrong, name);
    assert_cause(&failures[0], "channel 5 must hold a copy of channel 5");
}

#[test]
fn a_wrong_base_is_all_that_is_told_and_in_no_units_of_rounding() {
    let (source, expanded) = grown("llama-bias", 32);
    let mut config = expanded.config().clone();
    let mut rope = config.get("rope_parameters").unwrap().clone();
    rope["rope_theta"] = 77.0.into();
    config.set("rope_parameters", rope);
    let turned = Checkpoint::in_memory("turned", config, expanded.tensors().clone());
    let (failures, text) = caught(&source, &turned, "rope_theta");
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(!text.contains("off by") && !text.contains("308"), "{text}");
}

#[test]
fn a_factor_of_fan_outs_is_told_where_it_explains_all_that_is_wrong() {
    let (source, expanded) = grown("llama-bias", 32);
    let name = "model.layers.0.mlp.down_proj.weight";
    let neurons = describe(&expanded).unwrap().sizes.intermediate;
    let scaled = edited(&expanded, name, |values| {
        for row in values.chunks_mut(neurons) {
            row[0] *= 1.5;
            row[neurons / 2] *= 1.5;
        }
    });
    let (failures, _) = caught(&source, &scaled, name);
    assert_cause(&failures[0], "the 2 copies sum to 1.500000 times the source's");
    let one_entry = edited(&expanded, name, |values| values[0] += 0.5);
    let (failures, _) = caught(&source, &one_entry, name);
    assert_eq!(failures[0].cause, None);
}

#[test]
fn weights_that_were_rounded_on_the_way_are_named() {
    let (source, expanded) = grown("llama-bias", 32);
    let mut tensors = expanded.tensors().clone();
    for tensor in tensors.values_mut() {
        let mut bytes = Vec::new();
        (0..tensor.len()).for_each(|at| {
            Dtype::Bf16.put(&mut bytes, Dtype::F64.get(tensor.bytes(), at));
        });
        let rounded = (0..tensor.len()).map(|at| Dtype::Bf16.get(&bytes, at));
        *tensor = Tensor::from_values(Dtype::F64, tensor.shape.clone(), rounded);
    }
    let rounded = Checkpoint::in_memory("rounded", expanded.config().clone(), tensors);
    let (failures, _) = caught(&source, &rounded, "model.embed_tokens.weight");
    assert_cause(&failures[0], "all its numbers are bfloat16 numbers, stored as float64");
}

#[test]
fn a_norm_in_front_of_a_router_is_named_where_it_spoils_all_rows() {
    let source = load("mixtral-lm");
    let name = "model.layers.0.post_attention_layernorm.weight";
    let wrong = edited(&source, name, |values| values[3] += 0.3);
    let (failures, _) = caught(&source, &wrong, name);
    assert_eq!((failures[0].index[0], failures[0].wrong), (3, 1));
}

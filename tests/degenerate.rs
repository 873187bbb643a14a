//! Sources with channels that depend on one another or do nothing: a mistake is refuted all the
//! same, and what is right is proven.

use lemon_check::check::{Verdict, check};
use lemon_check::checkpoint::{Checkpoint, Dtype, Tensor};
use lemon_check::expand::{Free, Options, Target, expand};
use lemon_check::model::describe;
use lemon_check::testing::{
    Architecture, FreeParts, Models, Mutant, Pair, SourceCase, TargetCase, WeightStyle,
};
use std::path::Path;

/// The golden case of this name.
fn load(case: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    Checkpoint::open(&folder, None).unwrap()
}

/// The verdict on `source` and `expanded`.
fn verdict(source: &Checkpoint, expanded: &Checkpoint) -> Verdict {
    check(source, expanded, &|_, _| ()).unwrap().verdict
}

/// The same with one number of `tensor` off by 0.4.
fn broken(checkpoint: &Checkpoint, tensor: &str) -> Checkpoint {
    let mut tensors = checkpoint.tensors().clone();
    let old = &tensors[tensor];
    let dtype = old.dtype.unwrap();
    let value = |at| dtype.get(old.bytes(), at) + if at == 5 { 0.4 } else { 0.0 };
    let new = Tensor::from_values(dtype, old.shape.clone(), (0..old.len()).map(value));
    tensors.insert(tensor.to_string(), new);
    Checkpoint::in_memory("broken", checkpoint.config().clone(), tensors)
}

#[test]
fn the_sum_of_channels_that_a_norm_without_weight_returns_is_zero() {
    let source = load("olmo-base");
    let wrong = broken(&source, "layers.1.self_attn.k_proj.weight");
    assert_eq!(verdict(&source, &wrong), Verdict::NotLossless);
    assert_eq!(verdict(&source, &source), Verdict::Lossless);
}

/// The same with every number, or the one at `only`, times `factor`.
fn scaled(checkpoint: &Checkpoint, factor: f64, only: Option<(&str, usize)>) -> Checkpoint {
    let mut tensors = checkpoint.tensors().clone();
    for (name, tensor) in &mut tensors {
        let Some(dtype) = tensor.dtype else { continue };
        let meant = |at| only.is_none_or(|(tensor, place)| (tensor, place) == (name, at));
        let value = |at| dtype.get(tensor.bytes(), at) * if meant(at) { factor } else { 1.0 };
        let numbers = (0..tensor.len()).map(value);
        *tensor = Tensor::from_values(dtype, tensor.shape.clone(), numbers);
    }
    Checkpoint::in_memory("scaled", checkpoint.config().clone(), tensors)
}

#[test]
fn a_model_is_itself_though_the_squares_of_its_numbers_are_no_numbers() {
    let patch = "vit.embeddings.patch_embeddings.projection.weight";
    let huge = scaled(&load("vit-hf-nobias"), 1e200, Some((patch, 9)));
    assert_ne!(verdict(&huge, &huge), Verdict::NotLossless);
    for name in ["opt-base", "gpt-neox-base", "llama-base", "bert-model"] {
        for factor in [1e-100, 1e-180] {
            let tiny = scaled(&load(name), factor, None);
            assert_ne!(verdict(&tiny, &tiny), Verdict::NotLossless, "{name} {factor:e}");
        }
    }
}

#[test]
fn a_source_that_is_an_expansion_returns_copies() {
    for (name, tensor) in [
        ("bert-model", "encoder.layer.1.intermediate.dense.weight"),
        ("gpt2-base", "h.1.mlp.c_fc.weight"),
        ("mixtral-base", "layers.1.self_attn.v_proj.weight"),
    ] {
        let small = load(name);
        let model = describe(&small).unwrap();
        let (hidden, heads) = (2 * model.sizes.hidden, 2 * model.sizes.heads);
        let kv_heads = (model.sizes.kv_heads < model.sizes.heads).then_some(model.sizes.kv_heads);
        let target =
            Target { hidden: Some(hidden), heads: Some(heads), kv_heads, ..Target::default() };
        let options = Options { target, free: Free::Equal, ..Options::default() };
        let source = expand(&small, &model, &options).unwrap();
        assert_eq!(verdict(&small, &source), Verdict::Lossless, "{name}");
        assert_eq!(verdict(&source, &broken(&source, tensor)), Verdict::NotLossless, "{name}");
    }
}

#[test]
fn a_neuron_that_reads_nothing_may_be_copied_to_one_that_reads_rounding() {
    for (name, tensor, rows) in [
        ("gpt2-lm", "transformer.h.0.mlp.c_fc", false),
        ("llama-gqa", "model.layers.0.mlp.gate_proj", true),
    ] {
        let alive = load(name);
        let mut tensors = alive.tensors().clone();
        for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.starts_with(tensor)) {
            let dtype = tensor.dtype.unwrap();
            let inputs = *tensor.shape.last().unwrap();
            let dead = |at: usize| if rows { at < inputs } else { at.is_multiple_of(inputs) };
            let value = |at| if dead(at) { 0.0 } else { dtype.get(tensor.bytes(), at) };
            assert!(tensor.shape.len() <= 2, "{name}");
            *tensor =
                Tensor::from_values(dtype, tensor.shape.clone(), (0..tensor.len()).map(value));
        }
        let source = Checkpoint::in_memory("dead", alive.config().clone(), tensors);
        let model = describe(&source).unwrap();
        let (hidden, heads) = (Some(2 * model.sizes.hidden), Some(2 * model.sizes.heads));
        let options =
            Options { target: Target { hidden, heads, ..Target::default() }, ..Options::default() };
        let expanded = expand(&source, &model, &options).unwrap();
        assert_eq!(verdict(&source, &expanded), Verdict::Lossless, "{name}");
    }
}

/// Channels that hold zero or the mean in a source that is an expansion itself have norm weights of
/// their own, but nothing else tells which of them is which: expanded and put in another order,
/// such a model was called different.
#[test]
fn an_expansion_of_an_expansion_in_another_order_is_not_called_different() {
    let mut permuted = 0;
    for (seed, architecture) in
        (0..60).zip([Architecture::Llama, Architecture::Gpt2].into_iter().cycle())
    {
        let bf16 = |source: &mut SourceCase| {
            (source.dtype, source.weights) = (Dtype::Bf16, WeightStyle::Random);
        };
        let first = Models::random(architecture, seed, bf16).unwrap();
        let sizes = &first.expanded_model.sizes;
        let mut target = TargetCase::unchanged(sizes, FreeParts::Projection, seed);
        target.intermediate += 3;
        target.hidden = 2 * sizes.hidden;
        if architecture == Architecture::Gpt2 {
            target.head_dim = target.hidden / target.heads;
        }
        let Ok(second) = expand(&first.expanded, &first.expanded_model, &target.options()) else {
            continue;
        };
        let model = describe(&second).unwrap();
        let pair = Pair {
            source: &first.expanded,
            source_model: &first.expanded_model,
            expanded: &second,
            expanded_model: &model,
        };
        let Some(other) = Mutant::ChannelsPermuted.apply(&pair, seed).unwrap() else { continue };
        let check = check(&first.expanded, &other.checkpoint, &|_, _| ()).unwrap();
        assert_ne!(check.verdict, Verdict::NotLossless, "seed {seed}: {}", first.replay());
        permuted += 1;
    }
    assert!(permuted >= 40, "{permuted}");
}

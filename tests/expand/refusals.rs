//! What cannot be lossless is refused, with the nearest that can.

use super::golden::Case;
use lemon_check::checkpoint::{Checkpoint, Dtype, Tensor};
use lemon_check::error::Class;
use lemon_check::expand::{NewLayers, Options, Target, expand};
use lemon_check::model::describe;

/// The message of a refusal.
fn refused(case: &'static str, options: &Options) -> String {
    let case = Case::load(case);
    let error = expand(&case.checkpoint, &case.model, options).unwrap_err();
    assert_eq!(error.class(), Class::Refused, "{error}");
    error.to_string()
}

fn to(target: Target) -> Options {
    Options { target, ..Options::default() }
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} in {message}");
    }
}

#[test]
fn a_smaller_size_is_refused() {
    let message = refused("gpt2-lm", &to(Target { intermediate: Some(40), ..Target::default() }));
    assert_says(
        &message,
        &["`n_inner`", "40 is smaller than the source's 48", "--intermediate-size 48"],
    );
    for target in [
        Target { hidden: Some(0), ..Target::default() },
        Target { heads: Some(0), ..Target::default() },
        Target { kv_heads: Some(0), ..Target::default() },
        Target { head_dim: Some(0), ..Target::default() },
        Target { layers: Some(0), ..Target::default() },
    ] {
        assert_says(&refused("llama-gqa", &to(target.clone())), &["is smaller than"]);
        assert_says(&refused("gpt2-lm", &to(target)), &["is smaller than"]);
    }
}

#[test]
fn absurd_sizes_cost_no_memory() {
    for size in [usize::MAX, 1 << 40] {
        let target = Target { hidden: Some(size), ..Target::default() };
        assert_says(&refused("gpt2-lm", &to(target)), &["more than any model has"]);
    }
    let target =
        Target { hidden: Some(12 << 20), intermediate: Some(1 << 24), ..Target::default() };
    assert_says(&refused("gpt2-lm", &to(target)), &["numbers, too many to hold"]);
}

#[test]
fn a_post_norm_stream_grows_only_by_whole_factors_and_not_in_depth() {
    let wide = Target { hidden: Some(20), heads: Some(4), ..Target::default() };
    let message = refused("bert-mlm", &to(wide));
    assert_says(&message, &["`hidden_size`", "multiples of 12", "--hidden-size 24"]);
    let message = refused("bert-mlm", &to(Target { layers: Some(3), ..Target::default() }));
    let parts = ["`num_hidden_layers`", "ε over the variance", "--num-hidden-layers 2"];
    assert_says(&message, &parts);
    assert_says(&message, &["--allow eps-limited", "sqrt((v + ε)/v) - 1"]);
}

#[test]
fn hidden_channels_that_would_be_returned_larger_are_refused() {
    let case = Case::load("olmo-base");
    let (hidden, heads) = (case.model.sizes.hidden, case.model.sizes.heads);
    let wide = |heads: usize| {
        to(Target {
            hidden: Some(heads * case.model.sizes.head_dim),
            heads: Some(heads),
            kv_heads: Some(heads),
            ..Target::default()
        })
    };
    let message = refused("olmo-base", &wide(heads + 1));
    let multiple = format!("multiples of {hidden}");
    assert_says(&message, &["norms without a weight", "larger by a factor", &multiple]);
    assert!(expand(&case.checkpoint, &case.model, &wide(2 * heads)).is_ok());
}

#[test]
fn a_width_and_heads_that_are_both_wrong_are_answered_with_a_pair_that_works() {
    let target = Target { hidden: Some(40), heads: Some(5), ..Target::default() };
    let message = refused("bert-mlm", &to(target));
    let pairs =
        ["--hidden-size 36 --num-attention-heads 4", "--hidden-size 48 --num-attention-heads 4"];
    assert_says(&message, &pairs);
    let case = Case::load("bert-mlm");
    for hidden in [36, 48] {
        let target = Target { hidden: Some(hidden), heads: Some(4), ..Target::default() };
        assert!(expand(&case.checkpoint, &case.model, &to(target)).is_ok());
    }
}

#[test]
fn more_layers_than_a_reader_takes_are_refused() {
    let message = refused("gpt2-lm", &to(Target { layers: Some(1 << 30), ..Target::default() }));
    assert_says(&message, &["more than any model has"]);
    let message = refused("gpt2-lm", &to(Target { layers: Some(4097), ..Target::default() }));
    assert_says(&message, &["`n_layer`", "--num-hidden-layers 4096"]);
}

#[test]
fn heads_that_do_not_divide_the_width_are_refused() {
    let message = refused("gpt2-lm", &to(Target { hidden: Some(16), ..Target::default() }));
    assert_says(&message, &["`n_head`", "--hidden-size 15 or 18", "--num-attention-heads 4"]);
}

#[test]
fn heads_that_leave_too_few_channels_are_refused() {
    let target = Target { hidden: Some(24), heads: Some(8), ..Target::default() };
    assert_says(&refused("gpt2-lm", &to(target)), &["3 channels for each", "--hidden-size 32"]);
}

#[test]
fn a_head_size_that_lacks_the_rotary_frequencies_is_refused() {
    let head_dim = |size| to(Target { head_dim: Some(size), ..Target::default() });
    let message = refused("llama-untied", &head_dim(5));
    assert_says(&message, &["`head_dim`", "turn pairs", "--head-dim 4 or 6"]);
    // The base of such heads, 500^(1002/4), is no number.
    let message = refused("llama-untied", &head_dim(1002));
    assert_says(&message, &["`head_dim`", "lack, whatever the base", "--head-dim 1000 or 1004"]);
}

#[test]
fn key_value_heads_that_cannot_serve_all_query_heads_are_refused() {
    let target = Target { kv_heads: Some(3), ..Target::default() };
    let message = refused("llama-gqa", &to(target));
    assert_says(&message, &["`num_key_value_heads`", "--num-key-value-heads 2 or 6"]);
    let target = Target { kv_heads: Some(6), ..Target::default() };
    assert_says(&refused("gpt2-lm", &to(target)), &["no key/value heads of their own"]);
}

#[test]
fn experts_that_are_not_multiplied_evenly_are_refused() {
    let experts = Case::load("mixtral-lm").model.sizes.experts.unwrap().all;
    let to_experts = |count| to(Target { experts: Some(count), ..Target::default() });
    let message = refused("mixtral-lm", &to_experts(2 * experts + 1));
    let (below, above) = (2 * experts, 3 * experts);
    let nearest = format!("--num-local-experts {below} or {above}");
    assert_says(&message, &["`num_local_experts`", "no multiple", &nearest]);
    assert_says(&refused("mixtral-lm", &to_experts(0)), &["smaller than the source's"]);
    assert_says(&refused("mixtral-lm", &to_experts(usize::MAX)), &["more than any model has"]);
    assert_says(&refused("llama-gqa", &to_experts(2)), &["this model has no experts"]);
}

#[test]
fn norms_of_queries_and_keys_keep_the_head_size() {
    let head_dim = Case::load("qwen3-base").model.sizes.head_dim;
    let target = Target { head_dim: Some(2 * head_dim), ..Target::default() };
    let nearest = format!("--head-dim {head_dim}");
    assert_says(&refused("qwen3-base", &to(target)), &["`head_dim`", "QK-norm", &nearest]);
}

#[test]
fn a_tied_head_behind_a_norm_without_a_weight_keeps_the_width() {
    let target = Target { hidden: Some(24), ..Target::default() };
    let message = refused("olmo-bias", &to(target));
    assert_says(&message, &["multiply the logits by 2", "keep the hidden size of 12", "untie"]);
}

#[test]
fn a_layer_norm_of_what_norms_write_allows_only_multiples() {
    let target = Target { hidden: Some(16), heads: Some(4), ..Target::default() };
    let message = refused("timm-post-res-norm", &to(target.clone()));
    assert_says(&message, &["a stream that norms write", "only multiples of 12"]);
    assert_says(&refused("timm-clip", &to(target)), &["a stream that norms write"]);
}

#[test]
fn fan_outs_do_not_cancel_in_front_of_a_norm() {
    let layers = Some(1 + Case::load("gemma2-base").model.sizes.layers);
    let target = Target { layers, ..Target::default() };
    let options = Options { new_layers: NewLayers::Cancel, ..to(target) };
    assert_says(&refused("gemma2-base", &options), &["square root of its ε", "layers of zeros"]);
}

#[test]
fn cancelling_layers_without_second_copies_are_refused() {
    let target = Target { layers: Some(4), ..Target::default() };
    let options = Options { new_layers: NewLayers::Cancel, ..to(target) };
    assert_says(&refused("gpt2-lm", &options), &["second copy", "new layers of zeros"]);
}

#[test]
fn places_for_other_layers_than_the_new_ones_are_refused() {
    let target = Target { layers: Some(4), ..Target::default() };
    let options = Options { insert_after: Some(vec![1]), ..to(target) };
    assert_says(&refused("gpt2-lm", &options), &["name 2 places"]);
}

#[test]
fn a_number_format_that_cannot_hold_the_weights_is_refused() {
    let case = Case::load("gpt2-lm");
    let mut tensors = case.checkpoint.tensors().clone();
    let name = "transformer.ln_f.weight";
    tensors.insert(name.into(), Tensor::from_values(Dtype::F64, vec![12], [1e30; 12]));
    let huge = Checkpoint::in_memory("huge", case.checkpoint.config().clone(), tensors);
    let options = Options { dtype: Some(Dtype::F16), ..Options::default() };
    let error = expand(&huge, &describe(&huge).unwrap(), &options).unwrap_err();
    assert_eq!(error.class(), Class::Refused);
    assert_says(&error.to_string(), &[name, "float16"]);
}

#[test]
fn a_tensor_that_no_rule_expands_is_not_dropped_in_silence() {
    let case = Case::load("gpt2-lm");
    let mut tensors = case.checkpoint.tensors().clone();
    tensors.insert("adapter.weight".into(), Tensor::from_values(Dtype::F64, vec![1], [1.0]));
    let more = Checkpoint::in_memory("more", case.checkpoint.config().clone(), tensors);
    let error = expand(&more, &case.model, &Options::default()).unwrap_err();
    assert_eq!(error.class(), Class::Unsupported);
    assert_says(&error.to_string(), &["`adapter.weight`", "remove it"]);
}

#[test]
fn sizes_that_work_only_together_are_found() {
    let kv_and = |kv_heads, target: Target| to(Target { kv_heads: Some(kv_heads), ..target });
    for (case, options) in [
        ("mixtral-window", kv_and(2, Target { experts: Some(10), ..Target::default() })),
        ("qwen3-window", kv_and(3, Target { head_dim: Some(12), ..Target::default() })),
        (
            "mixtral-lm",
            kv_and(3, Target { head_dim: Some(5), experts: Some(10), ..Target::default() }),
        ),
    ] {
        let message = refused(case, &options);
        let advice =
            message.split("the rest unchanged: ").nth(1).unwrap_or_else(|| panic!("{message}"));
        let mut target = options.target.clone();
        let words: Vec<&str> = advice.split(' ').collect();
        assert!(words.len() >= 4, "{message}");
        for flag in words.chunks(2) {
            let size = Some(flag[1].parse().unwrap());
            match flag[0] {
                "--num-attention-heads" => target.heads = size,
                "--num-key-value-heads" => target.kv_heads = size,
                "--head-dim" => target.head_dim = size,
                "--num-local-experts" => target.experts = size,
                _ => panic!("{message}"),
            }
        }
        let case = Case::load(case);
        assert!(expand(&case.checkpoint, &case.model, &to(target)).is_ok(), "{message}");
    }
}

#[test]
fn no_size_is_advised_that_is_refused_for_another_reason() {
    let target = Target { hidden: Some(24), head_dim: Some(5), ..Target::default() };
    let message = refused("olmo-bias", &to(target));
    assert_says(&message, &["`head_dim`", "with --head-dim 4, the head is the token table"]);
    assert!(!message.contains("the nearest that work"), "{message}");
}

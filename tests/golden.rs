//! The forward pass against Hugging Face transformers and timm: see `tests/golden/README.md`.

use lemon_check::checkpoint::{Checkpoint, Config, Dtype, Tensor};
use lemon_check::forward::{Input, Output, Outputs, Real, run, run_batch, storage_noise};
use lemon_check::model::{Model, Op, describe, families};
use ndarray::{Array2, Array3};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

struct Case {
    checkpoint: Checkpoint,
    model: Model,
    inputs: Vec<Input>,
    outputs: Vec<Value>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Every folder is a case; convolutional networks have a test of their own.
fn cases() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap());
    let folders = entries.filter(|e| e.file_type().unwrap().is_dir());
    let names = folders.map(|e| e.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with("resnet-")).collect();
    names.sort();
    names
}

fn load(name: &str) -> Case {
    let folder = folder().join(name);
    let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let checkpoint = Checkpoint::open(&folder, None).unwrap();
    let model = describe(&checkpoint).unwrap();
    let inputs = golden["inputs"].as_array().unwrap().iter().map(input).collect();
    let outputs = golden["outputs"].as_array().unwrap().clone();
    Case { checkpoint, model, inputs, outputs }
}

fn numbers<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().unwrap().iter().map(|v| read(v).unwrap()).collect()
}

fn indices(value: &Value) -> Vec<usize> {
    numbers(value, |v| v.as_u64().map(|n| n as usize))
}

fn input(entry: &Value) -> Input {
    if let Some(pixels) = entry.get("pixels") {
        let shape: [usize; 3] = indices(&pixels["shape"]).try_into().unwrap();
        let data = numbers(&pixels["data"], Value::as_f64);
        return Input::Image { pixels: Array3::from_shape_vec(shape, data).unwrap() };
    }
    let mask = |name: &str| entry.get(name).map(|m| numbers(m, |v| v.as_u64().map(|n| n == 1)));
    if let Some(decoder_ids) = entry.get("decoder_input_ids") {
        return Input::Pair {
            ids: indices(&entry["input_ids"]),
            mask: mask("attention_mask"),
            decoder_ids: indices(decoder_ids),
            decoder_mask: mask("decoder_attention_mask"),
        };
    }
    Input::Tokens {
        ids: indices(&entry["input_ids"]),
        mask: mask("attention_mask"),
        types: entry.get("token_type_ids").map(indices),
        positions: None,
    }
}

/// A golden output as `[rows, channels]`.
fn expected(value: &Value) -> Array2<f64> {
    let shape = indices(&value["shape"]);
    let (channels, rows) = (*shape.last().unwrap(), shape.len() - 1);
    let rows = if rows == 0 { 1 } else { shape[0] };
    let data = numbers(&value["data"], Value::as_f64);
    Array2::from_shape_vec((rows, channels), data).unwrap()
}

/// Largest difference over meaningful rows, as a fraction of 1 + the largest golden number.
fn difference<R: Real>(output: &Output<R>, golden: &Array2<f64>) -> f64 {
    assert_eq!(output.values.dim(), golden.dim(), "{}", output.name);
    let scale = 1.0 + golden.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let kept = output.meaningful.iter().enumerate().filter(|(_, kept)| **kept);
    let mut worst = 0.0f64;
    for (row, _) in kept {
        for (got, want) in output.values.row(row).iter().zip(golden.row(row)) {
            assert!(got.is_finite());
            worst = worst.max((got.to_f64() - want).abs());
        }
    }
    worst / scale
}

/// The worst difference of a case, after checking that as many outputs were made as are golden.
fn worst<R: Real>(case: &Case) -> f64 {
    let results: Vec<Outputs<R>> = run_batch(&case.checkpoint, &case.model, &case.inputs).unwrap();
    assert!(!results.is_empty() && results.len() == case.outputs.len());
    let mut worst = 0.0f64;
    for (result, golden) in results.iter().zip(&case.outputs) {
        assert_eq!(result.outputs.len(), golden.as_object().unwrap().len());
        assert_eq!(result.hidden.len(), case.model.sizes.layers + 1);
        for output in &result.outputs {
            worst = worst.max(difference(output, &expected(&golden[output.name])));
        }
    }
    worst
}

#[test]
fn every_family_has_a_golden_case() {
    let mut found: BTreeSet<&str> =
        cases().iter().map(|name| load(name).model.family.name).collect();
    // No library writes it; it is held to those of other families, below.
    found.insert("free_form");
    let all: BTreeSet<&str> = families().iter().map(|family| family.name).collect();
    assert_eq!(found, all);
}

/// A decoder of Llama's shape as a model of free form: the same numbers under other names.
fn in_free_form(case: Case) -> Case {
    let Op::Attention(attention) = &case.model.layers[0][0].branches[0].op else { panic!() };
    let sizes = &case.model.sizes;
    let stored = |name: &str| case.checkpoint.tensors().keys().any(|tensor| tensor.contains(name));
    let parallel = case.model.layers[0].len() == 1;
    let logits = case.model.outputs[0].fixed;
    let written = case.checkpoint.config();
    let config = serde_json::json!({
        "architectures": [if logits { "FreeFormForCausalLM" } else { "FreeFormModel" }],
        "model_type": "free_form", "norm_eps": sizes.norm_eps, "gated": true,
        "hidden_act": written.get("hidden_act"),
        "norm": if stored("norm.bias") { "layer" } else { "rms" },
        "norm_place": if parallel { "parallel" } else { "pre" },
        "head_norm": attention.head_norms.as_ref().map(|_| "rms"),
        "rope_theta": written.get("rope_parameters").map(|section| &section["rope_theta"]),
        "rotary_dims": 2 * attention.rotary.as_ref().unwrap().frequencies.len(),
        "qkv_bias": stored("q_proj.bias"), "output_bias": stored("o_proj.bias"),
        "mlp_bias": stored("up_proj.bias"), "tie_word_embeddings": logits && !stored("lm_head"),
        "hidden_size": sizes.hidden, "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads, "head_dim": sizes.head_dim,
        "intermediate_size": sizes.intermediate, "num_hidden_layers": sizes.layers,
        "vocab_size": case.model.embedding.tables[0].lens.rows(),
    });
    let config = Config::new("free form", config.as_object().unwrap().clone());
    let mut tensors = BTreeMap::new();
    for (name, tensor) in case.checkpoint.tensors() {
        let mut name = name.trim_start_matches("model.").to_string();
        for (old, new) in [
            ("embed_tokens.weight", "tokens"),
            ("lm_head.weight", "head"),
            ("input_layernorm", "attention.norm"),
            ("post_attention_layernorm", "mlp.norm"),
            ("self_attn.q_norm", "attention.query_norm"),
            ("self_attn.k_norm", "attention.key_norm"),
            ("self_attn.q_proj", "attention.query"),
            ("self_attn.k_proj", "attention.key"),
            ("self_attn.v_proj", "attention.value"),
            ("self_attn.o_proj", "attention.output"),
            ("_proj", ""),
        ] {
            name = name.replace(old, new);
        }
        if parallel && name.contains("attention.norm") {
            tensors.insert(name.replace("attention", "mlp"), tensor.clone());
        }
        tensors.insert(name, tensor.clone());
    }
    let checkpoint = Checkpoint::in_memory("free form", config, tensors);
    let model = describe(&checkpoint).unwrap();
    Case { checkpoint, model, ..case }
}

#[test]
fn a_free_form_of_other_families_computes_what_their_libraries_do() {
    for name in ["llama-bias", "llama-gqa", "llama-tied", "qwen3-tied", "stablelm-parallel"] {
        let case = in_free_form(load(name));
        assert_eq!(case.model.family.name, "free_form");
        assert_eq!(case.model.strangers(&case.checkpoint), Vec::<&str>::new(), "{name}");
        let worst = worst::<f64>(&case);
        assert!(worst < 1e-10, "{name}: {worst:e}");
    }
}

#[test]
fn every_stored_tensor_is_read() {
    for name in cases() {
        let Case { checkpoint, model, .. } = load(&name);
        assert_eq!(model.strangers(&checkpoint), Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn writing_the_sizes_that_a_model_has_changes_nothing() {
    for name in cases() {
        let Case { checkpoint, model, inputs, .. } = load(&name);
        let layers: Vec<usize> = (0..model.sizes.layers).collect();
        let mut config = checkpoint.config().clone();
        (model.family.configure)(&mut config, &model.sizes, &layers);
        let again = Checkpoint::in_memory(&name, config, checkpoint.tensors().clone());
        let again_model = describe(&again).unwrap();
        assert_eq!(again_model.sizes, model.sizes, "{name}");
        let run = |of: &Checkpoint, model: &Model| run_batch::<f64>(of, model, &inputs).unwrap();
        assert_eq!(run(&again, &again_model), run(&checkpoint, &model), "{name}");
    }
}

#[test]
fn f64_agrees_with_transformers_and_timm() {
    for name in cases() {
        let worst = worst::<f64>(&load(&name));
        println!("{name:16} f64 {worst:.1e}");
        assert!(worst < 1e-10, "{name}: worst difference {worst:e}, relative to 1 + max|golden|");
    }
}

/// One f32 sum of n terms is off by at most n·u of its terms' size (Higham, *Accuracy and
/// Stability of Numerical Algorithms*, §4.2). A layer makes ten of them one after another (two
/// norms with mean and square, q or k, logits, values, output, up, down); the norms keep the terms
/// near the size of the outputs, so that the errors add up.
fn f32_bound(model: &Model) -> f64 {
    let longest = model.lenses().iter().map(|lens| lens.cols()).max().unwrap();
    let sums = 10 * model.layers.len() + 4;
    (sums * longest) as f64 * f32::UNIT_ROUNDOFF
}

#[test]
fn f32_agrees_to_its_own_rounding() {
    for name in cases() {
        let case = load(&name);
        let (worst, bound) = (worst::<f32>(&case), f32_bound(&case.model));
        println!("{name:16} f32 {worst:.1e}, bound {bound:.1e}");
        assert!(worst < bound, "{name}: worst difference {worst:e}, bound {bound:e}");
        assert!(worst > 1e-10, "{name}: {worst:e} is too good to have been computed in f32");
    }
}

#[test]
fn one_by_one_is_the_same_as_together() {
    for name in cases() {
        let case = load(&name);
        let together: Vec<Outputs<f64>> =
            run_batch(&case.checkpoint, &case.model, &case.inputs).unwrap();
        for (input, expected) in case.inputs.iter().zip(together) {
            let alone = run::<f64>(&case.checkpoint, &case.model, input).unwrap();
            let pairs = alone.outputs.iter().zip(&expected.outputs);
            for (a, b) in pairs {
                assert_eq!((a.name, &a.meaningful), (b.name, &b.meaningful), "{name}");
                assert!(difference(a, &b.values) < 1e-13, "{name}");
            }
        }
    }
}

/// Runs `ids` alone, and behind two hidden tokens with the same positions.
fn padded_left(name: &str) -> (Output<f64>, Output<f64>) {
    let Case { checkpoint, model, .. } = load(name);
    let plain = run(&checkpoint, &model, &Input::tokens([3, 5, 8, 1])).unwrap();
    let padded = Input::Tokens {
        ids: vec![9, 9, 3, 5, 8, 1],
        mask: Some(vec![false, false, true, true, true, true]),
        types: None,
        positions: Some(vec![0, 0, 0, 1, 2, 3]),
    };
    let padded = run(&checkpoint, &model, &padded).unwrap();
    (plain.outputs[0].clone(), padded.outputs[0].clone())
}

#[test]
fn hidden_tokens_on_the_left_change_nothing() {
    for name in ["gpt2-lm", "llama-gqa", "bert-mlm"] {
        let (plain, padded) = padded_left(name);
        assert_eq!(padded.meaningful, [false, false, true, true, true, true]);
        assert!(padded.values.iter().all(|v| v.is_finite()), "{name}");
        let kept = padded.values.slice(ndarray::s![2.., ..]).to_owned();
        assert!(difference(&plain, &kept) < 1e-13, "{name}");
    }
}

#[test]
fn what_the_encoder_does_not_see_the_decoder_does_not_read() {
    let Case { checkpoint, model, .. } = load("t5-plain");
    let plain = run::<f64>(&checkpoint, &model, &Input::pair([3, 5, 8], [0, 4])).unwrap();
    let hidden = Input::Pair {
        ids: vec![3, 5, 8, 9, 9],
        mask: Some(vec![true, true, true, false, false]),
        decoder_ids: vec![0, 4],
        decoder_mask: None,
    };
    let hidden = run::<f64>(&checkpoint, &model, &hidden).unwrap();
    assert!(difference(&plain.outputs[0], &hidden.outputs[0].values) < 1e-13);
    let other = run::<f64>(&checkpoint, &model, &Input::pair([3, 5, 9], [0, 4])).unwrap();
    assert!(difference(&plain.outputs[0], &other.outputs[0].values) > 1e-3);
}

#[test]
fn rotary_attention_sees_only_distances() {
    let Case { checkpoint, model, .. } = load("llama-untied");
    let at = |first: usize| Input::Tokens {
        ids: vec![3, 5, 8, 1],
        mask: None,
        types: None,
        positions: Some((first..first + 4).collect()),
    };
    let near = run::<f64>(&checkpoint, &model, &at(0)).unwrap();
    let far = run::<f64>(&checkpoint, &model, &at(1000)).unwrap();
    assert!(difference(&near.outputs[0], &far.outputs[0].values) < 1e-11);
    let mut spread = at(0);
    let Input::Tokens { positions, .. } = &mut spread else { unreachable!() };
    *positions = Some(vec![0, 2, 4, 6]);
    let spread = run::<f64>(&checkpoint, &model, &spread).unwrap();
    assert!(difference(&near.outputs[0], &spread.outputs[0].values) > 1e-3);
}

#[test]
fn storage_noise_is_small_repeatable_and_not_zero() {
    for name in ["bert-model", "gpt2-lm", "vit-model"] {
        let Case { checkpoint, model, inputs, .. } = load(name);
        let noise = storage_noise(&checkpoint, &model, &inputs, 1.0, &[0, 1]).unwrap();
        assert_eq!(noise.len(), model.outputs.len());
        for one in &noise {
            // The files are f64: about 2⁻⁵³ per weight.
            assert!(one.largest > 1e-18 && one.largest < 1e-12 * (1.0 + one.scale), "{one:?}");
        }
        assert_eq!(noise, storage_noise(&checkpoint, &model, &inputs, 1.0, &[0, 1]).unwrap());
        assert!(storage_noise(&checkpoint, &model, &inputs, 1.0, &[]).is_err());
    }
}

fn refusal(case: &str, input: Input) -> String {
    let Case { checkpoint, model, .. } = load(case);
    run::<f64>(&checkpoint, &model, &input).unwrap_err().to_string()
}

#[test]
fn inputs_that_do_not_fit_are_refused_with_what_to_do() {
    type List = Option<Vec<usize>>;
    let tokens = |ids: Vec<usize>, mask: Option<Vec<bool>>, types: List, positions: List| {
        Input::Tokens { ids, mask, types, positions }
    };
    let ids = |ids: Vec<usize>| Input::tokens(ids);
    let mask = |mask: Vec<bool>| tokens(vec![1, 2, 3], Some(mask), None, None);
    let types = |types: Vec<usize>| tokens(vec![1, 2, 3], None, Some(types), None);
    let positions = |positions: Vec<usize>| tokens(vec![1, 2, 3], None, None, Some(positions));
    let pixels =
        |shape: [usize; 3], value: f64| Input::Image { pixels: Array3::from_elem(shape, value) };
    for (case, input, words) in [
        ("gpt2-lm", ids(vec![]), "no token"),
        ("gpt2-lm", ids(vec![1, 999]), "token id 999 (of token 1) is outside the vocabulary"),
        ("gpt2-lm", ids(vec![1; 500]), "500 tokens are more than the"),
        ("gpt2-lm", mask(vec![true]), "the mask has 1 entries for 3 tokens"),
        ("gpt2-lm", mask(vec![false; 3]), "hides every token"),
        ("gpt2-lm", types(vec![0; 3]), "got token types, but a gpt2 has none"),
        ("bert-model", types(vec![0, 2, 0]), "token type 2 (of token 1)"),
        ("bert-model", types(vec![0]), "list of token types has 1 entries for 3 tokens"),
        ("bert-model", positions(vec![0, 1, 99]), "position 99 (of token 2)"),
        ("llama-tied", positions(vec![0, 1, 1 << 60]), "the range of exact rotary positions"),
        ("gpt2-lm", pixels([3, 8, 8], 0.0), "a gpt2 reads tokens"),
        ("vit-hf", Input::tokens([1]), "a vit reads images"),
        ("t5-plain", Input::tokens([1]), "got one sequence, but a t5 reads two"),
        ("t5-plain", Input::pair([1], [999]), "field `decoder_input_ids`: token id 999"),
        ("t5-plain", Input::pair([], [1]), "field `input_ids`: the input has no token"),
        ("t5-encoder", positions(vec![0, 1, 2]), "got position ids, but a t5 has none"),
        ("t5-encoder", Input::pair([1], [2]), "a t5 has no decoder"),
        ("vit-hf", pixels([3, 2, 8], 0.0), "the image has shape [3, 2, 8], the model [3,"),
        ("vit-timm", pixels([3, 8, 8], f64::NAN), "pixel [0, 0, 0] is NaN"),
    ] {
        let message = refusal(case, input);
        assert!(message.contains(words) && message.contains("help:"), "{words}: {message}");
    }
}

#[test]
fn an_overflow_names_its_layer() {
    let folder = folder().join("gpt2-lm");
    let stored = Checkpoint::open(&folder, None).unwrap();
    let mut tensors = stored.tensors().clone();
    let name = "transformer.h.1.mlp.c_proj.weight";
    let shape = tensors[name].shape.clone();
    let count = shape.iter().product::<usize>();
    let huge = Tensor::from_values(Dtype::F64, shape, std::iter::repeat_n(1e308, count));
    tensors.insert(name.into(), huge);
    let checkpoint = Checkpoint::in_memory(&folder, stored.config().clone(), tensors);
    let model = describe(&checkpoint).unwrap();
    let error = run::<f32>(&checkpoint, &model, &Input::tokens([1, 2])).unwrap_err().to_string();
    assert!(error.contains("f32") && error.contains("behind layer 1"), "{error}");
}

//! The generators make only legal models, and reach what they are meant to reach.

use lemon_check::model::{Input, Model, Op, Step, TableIndex, describe};
use lemon_check::testing::random::{cases_at_least, generator};
use lemon_check::testing::{Architecture, SourceCase, WeightStyle};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Random cases per family, for the counts below; `LEMON_CASES` makes it more.
const CASES: u64 = 300;

fn cases(architecture: Architecture) -> impl Iterator<Item = SourceCase> {
    (0..cases_at_least(CASES))
        .map(move |seed| SourceCase::random(architecture, &mut generator(seed)))
}

#[test]
fn every_random_case_is_a_model_without_strangers() {
    for architecture in Architecture::ALL {
        for case in cases(architecture) {
            let shown = || serde_json::to_string(&case).unwrap();
            let checkpoint = case.build().unwrap_or_else(|e| panic!("{e}\n{}", shown()));
            let model = describe(&checkpoint).unwrap_or_else(|e| panic!("{e}\n{}", shown()));
            assert_eq!(model.family.name, architecture.name());
            assert_eq!(model.strangers(&checkpoint), [""; 0], "{}", shown());
            // What is read off the case alone is what the checkpoint holds.
            let described = case.model().unwrap();
            assert_eq!(model.sizes, described.sizes, "{}", shown());
            assert_eq!(model.lenses(), described.lenses(), "{}", shown());
            for lens in model.lenses() {
                lens.read(&checkpoint).unwrap_or_else(|e| panic!("{e}\n{}", shown()));
            }
        }
    }
}

#[test]
fn a_case_reads_back_from_its_json_and_builds_the_same_bytes() {
    for architecture in Architecture::ALL {
        for case in cases(architecture).take(30) {
            let text = serde_json::to_string(&case).unwrap();
            let again: SourceCase = serde_json::from_str(&text).unwrap();
            assert_eq!(again, case);
            let (one, two) = (case.build().unwrap(), again.build().unwrap());
            assert_eq!(one.config().json(), two.config().json());
            for (name, tensor) in one.tensors() {
                assert_eq!(tensor.bytes(), two.tensor(name).unwrap().bytes(), "{name}");
            }
        }
    }
}

#[test]
fn a_resized_case_is_the_same_model_in_other_sizes() {
    for architecture in Architecture::ALL {
        for case in cases(architecture).take(30) {
            let mut changed = case.clone();
            changed.resize(|sizes| sizes.intermediate += 1).unwrap();
            let (one, other) = (case.model().unwrap().sizes, changed.model().unwrap().sizes);
            assert_eq!(other.intermediate, one.intermediate + 1, "{architecture:?}");
            changed.resize(|sizes| *sizes = one.clone()).unwrap();
            assert_eq!(changed.model().unwrap().sizes, one, "{architecture:?}");
            assert!(changed.build().is_ok(), "{architecture:?}");
        }
    }
}

#[test]
fn a_case_of_absurd_sizes_is_refused_before_anything_is_allocated() {
    for (field, size) in
        [("vocab_size", u64::MAX), ("hidden_size", 1 << 40), ("num_hidden_layers", 1 << 20)]
    {
        let mut case = SourceCase::random(Architecture::Bert, &mut generator(0));
        case.config.insert(field.into(), size.into());
        let message = case.build().unwrap_err().to_string();
        assert!(message.contains(&format!("`{field}`")), "{message}");
    }
    let mut case = SourceCase::random(Architecture::Gpt2, &mut generator(0));
    case.buffers.insert("h.0.attn.bias".into(), vec![1, 1, 1 << 14, 1 << 15]);
    assert!(case.build().unwrap_err().to_string().contains("2²⁸"));
}

#[test]
fn an_impossible_case_is_an_error_and_no_panic() {
    for architecture in Architecture::ALL {
        let case = SourceCase::random(architecture, &mut generator(3));
        for field in case.config.keys() {
            for value in [0.into(), 7.into(), (-1).into(), "no".into(), Value::Null, [1].into()] {
                let mut changed = case.clone();
                changed.config.insert(field.clone(), value);
                let _ = changed.build();
            }
        }
        for change in [(0, 4), (4, 0), (3, 2)] {
            let mut changed = case.clone();
            changed.resize(|sizes| (sizes.heads, sizes.hidden) = change).unwrap();
            let _ = changed.build();
        }
    }
}

/// What there is to see in a case of any family: settings of the case, and parts of the tree.
fn features(case: &SourceCase, model: &Model) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut note = |what: String| {
        seen.insert(what);
    };
    note(format!("weights {:?}", case.weights));
    note(format!("dtype {:?}", case.dtype));
    note(format!("buffers {}", !case.buffers.is_empty()));
    note(format!("twice {}", !model.aliases.is_empty()));
    let sizes = &model.sizes;
    note(format!("one layer {}", sizes.layers == 1));
    note(format!("one head {}", sizes.heads == 1));
    note(format!("one neuron {}", sizes.intermediate == 1));
    note(format!("head size {}", sizes.head_dim));
    note(format!("grouped {}", sizes.kv_heads < sizes.heads));
    note(format!("one kv head {}", sizes.kv_heads == 1 && sizes.heads > 1));
    note(format!("eps {:?}", sizes.norm_eps));
    let outputs: Vec<&str> = model.outputs.iter().map(|output| output.name).collect();
    note(format!("outputs {}", outputs.join("+")));
    let tables: Vec<_> = model.embedding.tables.iter().map(|table| &table.lens).collect();
    let is_head = |step: &Step| matches!(step, Step::Linear(l) if tables.contains(&&l.weight));
    let mut steps = model.outputs.iter().flat_map(|output| &output.steps);
    note(format!("tied {}", steps.clone().any(is_head)));
    let first = model.lenses()[0].name().split('.').next().unwrap_or_default().to_string();
    note(format!("first name {first}"));
    if let Input::Image { height, width, .. } = model.embedding.input {
        note(format!("oblong {}", height != width));
    }
    let embedding = &model.embedding;
    note(format!("norm of the embedding {}", embedding.norm.is_some()));
    let deep = model.encoder.as_ref().map(|encoder| encoder.layers.len().cmp(&sizes.layers));
    note(format!("encoder against decoder {deep:?}"));
    note(format!("heads make up the width {}", sizes.heads * sizes.head_dim == sizes.hidden));
    let scaled = steps.any(|step| matches!(step, Step::Scale(_)));
    note(format!("head scale {scaled}"));
    note(format!("prefix tokens {}", embedding.prefix.len()));
    for table in &embedding.tables {
        note(format!("projection {}", table.projection.is_some()));
        if let TableIndex::Position(positions) = table.index {
            note(format!("position rows in front {}", positions.offset));
        }
    }
    if embedding.tables.is_empty() {
        note("no positions".into());
    }
    let mut windows = BTreeSet::new();
    for sublayer in model.layers.iter().flatten() {
        note(format!("post-norm {}", sublayer.post_norm.is_some()));
        for branch in &sublayer.branches {
            note(format!("norms behind {}", branch.post_norm.is_some()));
            note(format!("layer scale {}", branch.scale.is_some()));
            if let Some(norm) = &branch.norm {
                note(format!("norms store nothing {}", norm.weight.is_none()));
            }
            match &branch.op {
                Op::Attention(attention) => {
                    note(format!("query bias {}", attention.query.bias.is_some()));
                    note(format!("output bias {}", attention.output.bias.is_some()));
                    let root = (attention.head_dim as f64).sqrt();
                    note(format!("plain scale {}", (attention.scale * root - 1.0).abs() < 1e-12));
                    let window = attention.window.map(|window| window.size);
                    windows.insert(window.is_some());
                    note(format!("window {}", window.is_some()));
                    if window.is_some_and(|size| size < 8) {
                        note("short window".into());
                    }
                    if window == Some(1) {
                        note("window of one".into());
                    }
                    note(format!("head norms {}", attention.head_norms.is_some()));
                    note(format!("softcap {}", attention.softcap.is_some()));
                    if let Some(relative) = &attention.relative {
                        note(format!("buckets {}", relative.table.rows()));
                        note(format!("far buckets {}", relative.max_distance > 12));
                    }
                    if let Some(rotary) = &attention.rotary {
                        let all = 2 * rotary.frequencies.len() == attention.head_dim;
                        note(format!("partial rotary {}", !all));
                    }
                }
                Op::Mlp(mlp) => {
                    note(format!("gated {}", mlp.gate.is_some()));
                    note(format!("activation {:?}", mlp.activation));
                    note(format!("mlp bias {}", mlp.down.bias.is_some()));
                }
                Op::Experts(experts) => {
                    let (all, active) = (experts.experts.len(), experts.active);
                    for (what, so) in [
                        ("one expert", all == 1),
                        ("one active expert", active == 1 && all > 1),
                        ("all experts active", active == all && all > 1),
                    ] {
                        if so {
                            note(what.into());
                        }
                    }
                }
            }
        }
        note(format!("branches {}", sublayer.branches.len()));
    }
    if windows.len() == 2 {
        note("mixed windows".into());
    }
    seen
}

#[test]
fn every_setting_is_reached() {
    for architecture in Architecture::ALL {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for case in cases(architecture) {
            for what in features(&case, &case.model().unwrap()) {
                *seen.entry(what).or_default() += 1;
            }
        }
        for (what, count) in expected(architecture) {
            let times = seen.get(&what).copied().unwrap_or(0);
            assert!(
                times >= count,
                "{architecture:?}: `{what}` {times} times of {CASES} or more: {seen:?}"
            );
        }
    }
}

/// Every switch of a configuration is seen on and off.
#[test]
fn every_switch_is_seen_both_ways() {
    // A model with these on is not implemented.
    let refused = ["add_cross_attention", "is_decoder", "qk_layernorm"];
    for architecture in Architecture::ALL {
        let mut seen: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
        for case in cases(architecture) {
            let sections = case.config.values().filter_map(Value::as_object);
            for (field, value) in sections.chain([&case.config]).flatten() {
                if let Some(value) = value.as_bool() {
                    seen.entry(field.clone()).or_default().insert(value);
                }
            }
        }
        let read = seen.iter().filter(|(field, _)| !refused.contains(&field.as_str()));
        for (field, values) in read {
            assert_eq!(values.len(), 2, "{architecture:?}: `{field}` is only ever {values:?}");
        }
    }
}

/// What must be seen, and how often at least.
fn expected(architecture: Architecture) -> Vec<(String, usize)> {
    let mut wanted: Vec<(String, usize)> = Vec::new();
    let mut add = |what: &[&str], count: usize| {
        wanted.extend(what.iter().map(|what| (what.to_string(), count)));
    };
    for style in WeightStyle::ALL {
        add(&[&format!("weights {style:?}")], 8);
    }
    add(&["dtype F64", "dtype F32", "dtype F16", "dtype Bf16", "one layer true"], 25);
    add(&["one head true", "one neuron true", "one layer false", "one head false"], 15);
    for (families, what, count) in FEATURES {
        if families.is_empty() || families.contains(&architecture) {
            add(what, *count);
        }
    }
    wanted
}

use Architecture::*;

const WORDS: &[Architecture] = &[
    Gpt2, GptNeox, Opt, Phi, Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma2, Mixtral, Phi3, Stablelm,
    Olmo,
];
const GATED: &[Architecture] = &[Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma2, Phi3, Stablelm, Olmo];
const PARTIAL: &[Architecture] = &[GptNeox, Phi, Phi3, Stablelm];

/// Families, what is seen of them, and how often at least.
const FEATURES: &[(&[Architecture], &[&str], usize)] = &[
    (WORDS, &["tied true", "tied false", "outputs logits", "outputs last_hidden_state"], 40),
    (WORDS, &["twice true"], 5),
    (&[Bert, BertPreNorm, Roberta, Distilbert], &["tied true", "tied false", "twice true"], 5),
    (
        &[Gpt2, GptNeox, Opt, Phi, Stablelm, Bert, BertPreNorm, Roberta, Distilbert, Vit, Deit],
        &["activation GeluErf", "activation GeluTanh", "activation Relu", "activation Tanh"],
        15,
    ),
    (GATED, &["activation Silu", "activation Relu", "activation GeluTanh"], 15),
    (
        &[
            Gpt2,
            GptNeox,
            Phi,
            Llama,
            Mistral,
            Qwen2,
            Qwen3,
            Gemma,
            Gemma2,
            Mixtral,
            Phi3,
            Stablelm,
            Bert,
            BertPreNorm,
            Roberta,
            Vit,
            Deit,
        ],
        &[
            "eps Some(1e-12)",
            "eps Some(1e-6)",
            "eps Some(1e-5)",
            "eps Some(0.001)",
            "eps Some(0.1)",
        ],
        20,
    ),
    (&[Gpt2], &["first name transformer", "first name wte", "plain scale false"], 40),
    (&[GptNeox], &["first name gpt_neox", "first name embed_in"], 50),
    (&[Opt], &["first name model", "first name decoder", "position rows in front 2"], 50),
    (&[Opt], &["projection true", "norms store nothing true", "post-norm true"], 40),
    (&[Roberta], &["first name roberta", "first name embeddings"], 50),
    (&[Roberta], &["position rows in front 1", "position rows in front 2"], 30),
    (&[Distilbert], &["first name distilbert", "first name embeddings"], 50),
    (&[Bert], &["first name bert", "first name embeddings", "post-norm true"], 50),
    (&[BertPreNorm], &["first name bert", "first name embeddings", "post-norm false"], 50),
    (GATED, &["first name model", "first name embed_tokens"], 50),
    (&[Vit], &["first name vit", "first name embeddings"], 50),
    (&[Deit], &["first name deit", "first name embeddings", "prefix tokens 2"], 50),
    (&[Vit, Deit, VitTimm], &["oblong true", "query bias true", "query bias false"], 50),
    (GATED, &["grouped true", "one kv head true", "grouped false"], 30),
    (&[Phi, Mixtral], &["grouped true", "one kv head true", "grouped false"], 30),
    (&[Llama], &["query bias true", "query bias false", "mlp bias true"], 50),
    (&[Qwen2], &["query bias true", "output bias false"], 200),
    (&[Qwen3, Gemma, Gemma2, Olmo], &["output bias true", "output bias false"], 50),
    (&[GptNeox, Stablelm], &["query bias true", "query bias false"], 50),
    (&[GptNeox, Stablelm], &["branches 1", "branches 2"], 50),
    (PARTIAL, &["partial rotary true", "partial rotary false"], 30),
    (&[Mistral, Qwen2, Qwen3, Gemma2, Mixtral, Phi3], &["window true", "window false"], 50),
    (&[Qwen2, Qwen3, Gemma2], &["mixed windows"], 30),
    (&[Mistral, Qwen2, Qwen3, Gemma2, Mixtral, Phi3], &["window of one", "short window"], 15),
    (&[Phi], &["head norms true", "head norms false"], 30),
    (&[Qwen3], &["head norms true"], 300),
    (&[Gemma2], &["softcap true", "softcap false", "plain scale false", "norms behind true"], 50),
    (&[Mixtral], &["one expert", "one active expert", "all experts active"], 30),
    (&[VitTimm], &["head norms true", "layer scale true", "norms behind true"], 20),
    (&[VitTimm], &["prefix tokens 0", "prefix tokens 1", "prefix tokens 2"], 20),
    (&[VitTimm], &["no positions", "activation Relu", "norm of the embedding true"], 15),
    (&[VitTimm], &["outputs cls_logits+distillation_logits+logits", "outputs logits"], 30),
    (
        &[Gpt2, Opt, Bert, BertPreNorm, Roberta, Distilbert, Vit, Deit, VitTimm],
        &["head size 1", "head size 2"],
        20,
    ),
    (&[Gpt2, GptNeox, Llama, Mistral, Gemma, Vit, Deit], &["buffers true"], 20),
    (&[Bert], &["outputs logits", "outputs logits+seq_relationship_logits"], 25),
    (
        &[Bert, BertPreNorm, Roberta, Vit, Deit],
        &["outputs last_hidden_state", "outputs last_hidden_state+pooler_output"],
        40,
    ),
    (&[Deit], &["outputs logits", "outputs cls_logits+distillation_logits+logits"], 40),
    (&[BertPreNorm, Roberta, Distilbert, Vit], &["outputs logits"], 40),
    (&[T5], &["tied true", "tied false", "outputs logits", "outputs last_hidden_state"], 40),
    (&[T5], &["twice true", "buffers true", "head scale true", "head scale false"], 20),
    (&[T5], &["encoder against decoder None", "encoder against decoder Some(Less)"], 20),
    (&[T5], &["encoder against decoder Some(Equal)", "encoder against decoder Some(Greater)"], 20),
    (&[T5], &["gated true", "gated false", "heads make up the width false"], 50),
    (&[T5], &["buckets 4", "buckets 5", "buckets 32", "far buckets true", "far buckets false"], 15),
    (&[T5], &["activation GeluErf", "activation Relu", "head size 1", "eps Some(0.1)"], 15),
];

//! Configurations and names of tensors as different versions and files write them: those that mean
//! the same describe the same model, and what is not implemented is refused by its field.

use lemon_check::checkpoint::{Checkpoint, Config, Dtype, Tensor};
use lemon_check::forward::{Input, run};
use lemon_check::model::{Catalog, Model, Sizes, describe, family_of};
use serde_json::{Value, json};
use std::path::Path;

const CASES: &[&str] = &[
    "bert-mlm",
    "bert-pre-norm",
    "bert-pre-norm-model",
    "distilbert-mlm",
    "distilbert-model",
    "gpt-neox-base",
    "gpt-neox-parallel",
    "gpt-neox-sequential",
    "opt-base",
    "opt-lm",
    "opt-no-bias",
    "opt-post-norm",
    "phi-base",
    "phi-lm",
    "phi-qk-norm",
    "roberta-mlm",
    "roberta-mlm-relu",
    "roberta-model",
];

fn golden(name: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    Checkpoint::open(&folder, None).unwrap()
}

/// The case with some fields set, or removed where the value is null.
fn with_fields(name: &str, fields: Value) -> Checkpoint {
    let stored = golden(name);
    let mut config = stored.config().clone();
    for (field, value) in fields.as_object().unwrap() {
        match value {
            Value::Null => config.remove(field),
            value => config.set(field, value.clone()),
        }
    }
    Checkpoint::in_memory(name, config, stored.tensors().clone())
}

/// The case with names changed, and other tensors added.
fn with_names(name: &str, rename: impl Fn(&str) -> String, added: &[&str]) -> Checkpoint {
    let stored = golden(name);
    let tensors = stored.tensors().iter().map(|(name, tensor)| (rename(name), tensor.clone()));
    let one = Tensor::from_values(Dtype::F32, vec![1], [1.0]);
    let added = added.iter().map(|name| (name.to_string(), one.clone()));
    Checkpoint::in_memory(name, stored.config().clone(), tensors.chain(added).collect())
}

fn logits(checkpoint: &Checkpoint) -> Vec<f64> {
    let model = describe(checkpoint).unwrap();
    let outputs = run::<f64>(checkpoint, &model, &Input::tokens([5, 3, 8, 4])).unwrap();
    outputs.outputs[0].values.iter().copied().collect()
}

fn refusal(checkpoint: &Checkpoint) -> String {
    describe(checkpoint).map(|model| format!("{model:?}")).unwrap_err().to_string()
}

#[test]
fn fields_of_version_4_describe_the_same_model_as_those_of_version_5() {
    let none = Value::Null;
    for (case, fields) in [
        ("gpt-neox-parallel", json!({"rope_parameters": none, "rotary_pct": 0.5})),
        (
            "gpt-neox-sequential",
            json!({"rope_parameters": none, "rotary_emb_base": 50, "rotary_pct": 0.25}),
        ),
        ("gpt-neox-sequential", json!({"rope_parameters": {"rope_theta": 50}})),
        ("phi-lm", json!({"rope_parameters": none})),
        (
            "phi-qk-norm",
            json!({
                "rope_parameters": none, "rope_theta": 50.0, "partial_rotary_factor": 0.75,
                "rope_scaling": {}
            }),
        ),
        ("phi-lm", json!({"num_key_value_heads": none, "head_dim": 8})),
    ] {
        let other = with_fields(case, fields.clone());
        assert_eq!(logits(&other), logits(&golden(case)), "{case}: {fields}");
    }
}

#[test]
fn an_absent_field_means_what_the_library_takes_it_for() {
    let none = Value::Null;
    for (case, fields) in [
        (
            "gpt-neox-parallel",
            json!({
                "use_parallel_residual": none, "attention_bias": none, "hidden_act": none,
                "layer_norm_eps": none, "tie_word_embeddings": none
            }),
        ),
        (
            "opt-lm",
            json!({
                "do_layer_norm_before": none, "enable_bias": none, "activation_function": none,
                "layer_norm_elementwise_affine": none, "_remove_final_layer_norm": none,
                "word_embed_proj_dim": none, "tie_word_embeddings": none
            }),
        ),
        (
            "phi-lm",
            json!({
                "hidden_act": none, "layer_norm_eps": none, "qk_layernorm": none,
                "tie_word_embeddings": none
            }),
        ),
        (
            "roberta-mlm",
            json!({
                "pad_token_id": none, "layer_norm_eps": none, "type_vocab_size": none,
                "tie_word_embeddings": none
            }),
        ),
        ("distilbert-mlm", json!({"activation": none, "tie_word_embeddings": none})),
        (
            "bert-pre-norm",
            json!({
                "hidden_act": none, "layer_norm_eps": none, "architectures": ["BertForMaskedLM"]
            }),
        ),
    ] {
        let other = with_fields(case, fields.clone());
        assert_eq!(logits(&other), logits(&golden(case)), "{case}: {fields}");
    }
}

#[test]
fn names_of_other_versions_describe_the_same_model() {
    let same = |case: &str, from: &'static str, to: &'static str| {
        let other = with_names(case, |name| name.replacen(from, to, 1), &[]);
        assert_eq!(logits(&other), logits(&golden(case)), "{case}: {from} → {to}");
    };
    same("gpt-neox-parallel", "embed_out.", "lm_head.");
    same("gpt-neox-parallel", "gpt_neox.", "");
    same("opt-post-norm", "model.decoder.", "decoder.");
    same("phi-lm", "model.", "");
    same("roberta-mlm", "roberta.", "");
    same("distilbert-mlm", "distilbert.", "");
}

#[test]
fn buffers_of_old_files_are_known() {
    for (case, buffers) in [
        (
            "gpt-neox-parallel",
            &[
                "gpt_neox.layers.0.attention.bias",
                "gpt_neox.layers.0.attention.masked_bias",
                "gpt_neox.layers.0.attention.rotary_emb.inv_freq",
            ][..],
        ),
        ("phi-lm", &["model.layers.0.self_attn.rotary_emb.inv_freq"]),
        (
            "roberta-mlm",
            &[
                "roberta.embeddings.position_ids",
                "roberta.pooler.dense.weight",
                "roberta.pooler.dense.bias",
            ],
        ),
        ("distilbert-mlm", &["distilbert.embeddings.position_ids"]),
        ("bert-pre-norm", &["bert.embeddings.position_ids"]),
    ] {
        let checkpoint = with_names(case, str::to_string, buffers);
        let model = describe(&checkpoint).unwrap();
        assert_eq!(model.strangers(&checkpoint), Vec::<&str>::new(), "{case}");
    }
}

#[test]
fn a_tied_head_that_is_stored_again_must_be_the_table() {
    for (case, head, table) in [
        ("opt-lm", "lm_head.weight", "model.decoder.embed_tokens.weight"),
        ("gpt-neox-sequential", "embed_out.weight", "gpt_neox.embed_in.weight"),
        ("phi-qk-norm", "lm_head.weight", "model.embed_tokens.weight"),
        ("roberta-mlm", "lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight"),
        (
            "distilbert-mlm",
            "vocab_projector.weight",
            "distilbert.embeddings.word_embeddings.weight",
        ),
    ] {
        let stored = golden(case);
        let mut tensors = stored.tensors().clone();
        tensors.insert(head.into(), tensors[table].clone());
        let twice = Checkpoint::in_memory(case, stored.config().clone(), tensors.clone());
        assert_eq!(logits(&twice), logits(&stored), "{case}");
        let shape = tensors[table].shape.clone();
        let count = shape.iter().product();
        let ones = Tensor::from_values(Dtype::F64, shape, std::iter::repeat_n(1.0, count));
        tensors.insert(head.into(), ones);
        let other = Checkpoint::in_memory(case, stored.config().clone(), tensors);
        assert!(refusal(&other).contains("to which the configuration ties it"), "{case}");
    }
}

#[test]
fn what_is_not_implemented_is_refused_by_its_field() {
    for (case, field, value, words) in [
        ("gpt-neox-parallel", "hidden_act", json!("mish"), "activation `mish`"),
        ("gpt-neox-parallel", "is_causal", json!(false), "only true is implemented"),
        ("gpt-neox-parallel", "rope_parameters", json!({"type": "dynamic"}), "`dynamic`"),
        ("gpt-neox-parallel", "rope_theta", json!(500), "differs from `rotary_emb_base`"),
        ("gpt-neox-parallel", "num_attention_heads", json!(5), "do not divide"),
        ("opt-lm", "activation_function", json!("mish"), "activation `mish`"),
        ("opt-lm", "activation_function", json!("xielu"), "implemented are: gelu"),
        ("opt-lm", "model_type", json!("mamba"), "camembert, resnet"),
        ("opt-lm", "is_causal", json!(false), "only true is implemented"),
        ("opt-lm", "architectures", json!(["OPTForQuestionAnswering"]), "head of `OPTFor"),
        ("opt-lm", "quantization_config", json!({}), "not implemented"),
        ("opt-lm", "enable_bias", json!("no"), "expected true or false"),
        ("phi-lm", "head_dim", json!(4), "hidden/heads = 8 channels"),
        ("phi-lm", "num_key_value_heads", json!(2), "3 query heads cannot share 2"),
        ("phi-lm", "rope_parameters", json!({"rope_type": "yarn"}), "`yarn`"),
        ("phi-lm", "is_causal", json!(false), "only true is implemented"),
        ("roberta-mlm", "is_decoder", json!(true), "decoder"),
        ("roberta-mlm", "add_cross_attention", json!(true), "decoder"),
        ("roberta-mlm", "position_embedding_type", json!("relative_key"), "`relative_key`"),
        ("roberta-mlm", "pad_token_id", json!(-1), "expected a token id"),
        ("roberta-mlm", "pad_token_id", json!(11), "positions begin at row 12"),
        ("bert-pre-norm", "position_embedding_type", json!("relative_key"), "`relative_key`"),
        ("bert-pre-norm", "is_decoder", json!(true), "decoder"),
        ("distilbert-mlm", "hidden_size", json!(16), "another name of `dim`"),
        ("distilbert-mlm", "activation", json!("mish"), "activation `mish`"),
    ] {
        let message = refusal(&with_fields(case, json!({field: value})));
        assert!(message.contains(words) && message.contains(field), "{case}, {field}: {message}");
    }
}

#[test]
fn a_padding_token_of_null_is_not_the_default() {
    let stored = golden("roberta-mlm");
    let mut config = stored.config().clone();
    config.set("pad_token_id", Value::Null);
    let checkpoint = Checkpoint::in_memory("memory", config, stored.tensors().clone());
    assert!(refusal(&checkpoint).contains("pad_token_id"));
}

#[test]
fn sequences_are_as_long_as_the_position_table_allows() {
    // RoBERTa's table has 12 rows, of which two are in front of position 0; OPT's has 10 and 2.
    for (case, longest) in [("roberta-mlm", 10), ("opt-lm", 10), ("distilbert-mlm", 10)] {
        let checkpoint = golden(case);
        let model = describe(&checkpoint).unwrap();
        let of = |count: usize| run::<f64>(&checkpoint, &model, &Input::tokens(vec![3; count]));
        assert!(of(longest).is_ok(), "{case}");
        let message = of(longest + 1).unwrap_err().to_string();
        assert!(message.contains(&format!("the {longest} positions")), "{case}: {message}");
    }
}

/// What `config` describes, whatever is stored in `checkpoint`.
fn sizes(config: &Config, checkpoint: &Checkpoint) -> Sizes {
    let family = family_of(config).unwrap();
    (family.describe)(config, &Catalog::of(checkpoint)).unwrap().sizes
}

fn rotary(model: &Model) -> String {
    let text = format!("{:?}", model.layers[0]);
    text.split("rotary: ").nth(1).unwrap_or("").split(']').next().unwrap_or("").to_string()
}

#[test]
fn the_turned_channels_stay_under_version_4s_names() {
    let none = Value::Null;
    for fields in [
        json!({"rope_parameters": none, "rotary_pct": 0.5}),
        json!({"rope_parameters": none, "rotary_pct": 0.5, "partial_rotary_factor": 0.5}),
        json!({"rope_parameters": {"rope_theta": 10000}}),
    ] {
        let checkpoint = with_fields("gpt-neox-parallel", fields.clone());
        let model = describe(&checkpoint).unwrap();
        let family = family_of(checkpoint.config()).unwrap();
        for heads in [2, 7, 49] {
            let size = model.sizes.head_dim * heads;
            let wanted = Sizes { hidden: 3 * size, head_dim: size, ..model.sizes.clone() };
            let mut config = checkpoint.config().clone();
            (family.configure)(&mut config, &wanted, &[0, 1]);
            let grown = (family.describe)(&config, &Catalog::of(&checkpoint)).unwrap();
            assert_eq!(grown.sizes, wanted);
            assert_eq!(rotary(&grown), rotary(&model), "{fields}");
        }
    }
}

#[test]
fn a_configuration_that_was_written_is_read_back() {
    for name in CASES {
        let checkpoint = golden(name);
        let model = describe(&checkpoint).unwrap();
        let family = family_of(checkpoint.config()).unwrap();
        let old = &model.sizes;
        for (heads, head_dim) in [(2, 1), (1, 3), (3, 2), (1, 1)] {
            let wanted = Sizes {
                hidden: old.hidden * heads * head_dim,
                heads: old.heads * heads,
                kv_heads: old.kv_heads * heads,
                head_dim: old.head_dim * head_dim,
                intermediate: old.intermediate + 7,
                layers: old.layers + 1,
                norm_eps: old.norm_eps.map(|eps| eps * 0.75),
                ..old.clone()
            };
            let mut config = checkpoint.config().clone();
            let layers: Vec<usize> = (0..old.layers).chain([0]).collect();
            (family.configure)(&mut config, &wanted, &layers);
            assert_eq!(sizes(&config, &checkpoint), wanted, "{name}");
            let grown = (family.describe)(&config, &Catalog::of(&checkpoint)).unwrap();
            assert_eq!(rotary(&grown), rotary(&model), "{name}: the turned channels stay");
        }
    }
}

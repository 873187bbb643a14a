//! Configurations of the decoders of Llama's shape: as both versions of transformers write them,
//! with fields left out, with switches that are not implemented.

use lemon_check::checkpoint::{Checkpoint, Config};
use lemon_check::error::{Class, Error};
use lemon_check::model::{Model, Op, describe, family_of};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn open(case: &str) -> Checkpoint {
    Checkpoint::open(&folder(case), None).unwrap()
}

/// The model of a golden case whose configuration is changed: fields are set, or, where the new
/// value is `"absent"`, removed.
fn changed(case: &str, fields: Value) -> Result<Model, Error> {
    let stored = open(case);
    let mut config = stored.config().clone();
    for (field, value) in fields.as_object().unwrap() {
        match value.as_str() {
            Some("absent") => config.remove(field),
            _ => config.set(field, value.clone()),
        }
    }
    describe(&Checkpoint::in_memory(folder(case), config, stored.tensors().clone()))
}

fn shown(model: &Model) -> String {
    format!("{model:?}")
}

#[test]
fn configurations_of_both_versions_describe_the_same_model() {
    let version_4 = |rope: Value| {
        let mut fields = json!({ "rope_parameters": "absent", "torch_dtype": "float64" });
        fields["dtype"] = "absent".into();
        fields.as_object_mut().unwrap().extend(rope.as_object().unwrap().clone());
        fields
    };
    let linear = json!({ "type": "linear", "factor": 4.0 });
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32
    });
    for (case, fields) in [
        ("llama-linear", version_4(json!({ "rope_theta": 100.0, "rope_scaling": linear }))),
        ("llama-llama3", version_4(json!({ "rope_theta": 100.0, "rope_scaling": llama3 }))),
        ("mistral-window", version_4(json!({ "rope_theta": 100, "rope_scaling": null }))),
        ("mixtral-lm", version_4(json!({}))),
        ("phi3-partial", version_4(json!({ "rope_theta": 100, "partial_rotary_factor": 0.75 }))),
        ("stablelm-lm", version_4(json!({}))),
        (
            "stablelm-parallel",
            version_4(json!({ "rope_theta": 100.0, "partial_rotary_factor": 0.5 })),
        ),
        ("qwen2-window", json!({ "layer_types": null })),
        ("qwen3-base", json!({ "layer_types": "absent" })),
        ("gemma2-window", json!({ "layer_types": "absent" })),
        ("gemma-lm", json!({ "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh" })),
        ("gemma-lm", json!({ "hidden_act": "absent", "tie_word_embeddings": "absent" })),
        ("mixtral-lm", json!({ "num_local_experts": "absent", "num_experts": 5 })),
        ("mixtral-lm", json!({ "num_experts_per_tok": "absent" })),
        ("olmo-lm", json!({ "num_key_value_heads": "absent" })),
        ("phi3-base", json!({ "rms_norm_eps": "absent" })),
        ("qwen2-tied", json!({ "use_sliding_window": "absent", "sliding_window": 3 })),
    ] {
        let plain = describe(&open(case)).unwrap();
        let model = changed(case, fields.clone()).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(shown(&model), shown(&plain), "{case}: {fields}");
    }
}

/// The windows of the layers' attention.
fn windows(model: &Model) -> Vec<Option<usize>> {
    let branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
    let attentions = branches.filter_map(|branch| match &branch.op {
        Op::Attention(attention) => Some(attention),
        _ => None,
    });
    attentions.map(|attention| attention.window.map(|window| window.size)).collect()
}

#[test]
fn an_absent_window_is_the_default_and_null_is_none() {
    for (case, fields, expected) in [
        ("mistral-window", json!({ "sliding_window": "absent" }), [Some(4096), Some(4096)]),
        ("mistral-window", json!({ "sliding_window": null }), [None, None]),
        ("mixtral-lm", json!({ "sliding_window": "absent" }), [None, None]),
        ("phi3-base", json!({ "sliding_window": "absent" }), [None, None]),
        ("qwen3-base", json!({ "sliding_window": "absent" }), [None, Some(4096)]),
        ("gemma2-base", json!({ "sliding_window": "absent" }), [Some(4096), None]),
        ("gemma2-no-caps", json!({ "layer_types": "absent" }), [Some(2), None]),
        (
            "qwen2-tied",
            json!({
                "use_sliding_window": true, "max_window_layers": 0, "sliding_window": 3,
                "layer_types": null
            }),
            [Some(3), Some(3)],
        ),
        ("qwen2-tied", json!({ "use_sliding_window": true, "layer_types": null }), [None, None]),
    ] {
        let model = changed(case, fields.clone()).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(windows(&model), expected, "{case}: {fields}");
    }
}

#[test]
fn what_is_not_implemented_is_unsupported_and_names_its_field() {
    let rope = |kind: &str| json!({ "rope_parameters": { "rope_type": kind, "factor": 2.0 } });
    for (case, fields, field) in [
        ("llama-untied", rope("yarn"), "rope_parameters"),
        ("qwen2-tied", rope("dynamic"), "rope_parameters"),
        ("phi3-partial", rope("longrope"), "rope_parameters"),
        ("llama-untied", json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor"),
        ("llama-untied", json!({ "quantization_config": { "bits": 4 } }), "quantization_config"),
        ("gpt2-lm", json!({ "quantization_config": { "bits": 4 } }), "quantization_config"),
        ("llama-untied", json!({ "attention_multiplier": 0.5 }), "attention_multiplier"),
        ("olmo-lm", json!({ "logits_scaling": 8.0 }), "logits_scaling"),
        ("llama-untied", json!({ "is_causal": false }), "is_causal"),
        ("gemma-lm", json!({ "use_bidirectional_attention": true }), "use_bidirectional_attention"),
        ("gemma-lm", json!({ "hidden_activation": "relu" }), "hidden_activation"),
        (
            "gemma2-window",
            json!({ "architectures": ["Gemma2ForSequenceClassification"] }),
            "architectures",
        ),
        (
            "mistral-window",
            json!({ "layer_types": ["full_attention", "full_attention"] }),
            "layer_types",
        ),
        (
            "qwen2-base",
            json!({ "layer_types": ["full_attention", "chunked_attention"] }),
            "layer_types",
        ),
        ("olmo-lm", json!({ "clip_qkv": 8.0 }), "clip_qkv"),
        ("stablelm-lm", json!({ "qk_layernorm": true }), "qk_layernorm"),
        ("stablelm-lm", json!({ "head_dim": 6 }), "head_dim"),
        ("mixtral-lm", json!({ "per_layer_config": { "0": {} } }), "per_layer_config"),
        ("qwen3-tied", json!({ "hidden_act": "quick_gelu" }), "hidden_act"),
    ] {
        let error = changed(case, fields.clone()).expect_err(&fields.to_string());
        let message = error.to_string();
        assert_eq!(error.class(), Class::Unsupported, "{message}");
        assert!(message.contains(&format!("field `{field}`")), "{message}");
    }
}

#[test]
fn contradictory_and_absurd_settings_are_refused_by_their_field() {
    let sliding = |count: usize| json!(vec!["sliding_attention"; count]);
    for (case, fields, words) in [
        ("mistral-tied", json!({ "num_key_value_heads": "absent" }), "cannot share 8"),
        ("qwen3-tied", json!({ "head_dim": "absent" }), "768"),
        ("gemma2-window", json!({ "layer_types": sliding(2) }), "a list of 3 types"),
        ("gemma2-window", json!({ "layer_types": [1, 2, 3] }), "a list of names"),
        ("gemma2-window", json!({ "sliding_window": null }), "field `sliding_window`"),
        ("qwen2-tied", json!({ "layer_types": sliding(2) }), "field `sliding_window`"),
        ("qwen2-window", json!({ "max_window_layers": -1 }), "field `max_window_layers`"),
        ("mixtral-lm", json!({ "num_experts_per_tok": 6 }), "at most 5, the number of experts"),
        ("mixtral-lm", json!({ "num_local_experts": 16777216 }), "at most 65536 experts"),
        ("mixtral-lm", json!({ "num_local_experts": 4 }), "dimension 0 is 5"),
        ("mixtral-stacked", json!({ "num_local_experts": 5 }), "`num_local_experts` = 5"),
        ("mixtral-lm", json!({ "num_experts": 4 }), "another name of it"),
        ("phi3-window", json!({ "num_key_value_heads": 3 }), "qkv_proj.weight"),
        ("gemma2-window", json!({ "attn_logit_softcapping": 0.0 }), "attn_logit_softcapping"),
        ("llama-gqa", json!({ "head_dim": 5 }), "rotary positions turn pairs"),
    ] {
        let error = changed(case, fields.clone()).expect_err(&fields.to_string());
        assert_eq!(error.class(), Class::BadInput, "{error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
}

fn configured(case: &str, layers: &[usize], adjust: impl Fn(&mut Config)) -> Config {
    let stored = open(case);
    let mut sizes = describe(&stored).unwrap().sizes;
    let mut config = stored.config().clone();
    adjust(&mut config);
    sizes.layers = layers.len();
    (family_of(&config).unwrap().configure)(&mut config, &sizes, layers);
    config
}

#[test]
fn lists_by_layer_follow_inserted_layers() {
    let layers = [0, 0, 1, 2, 2];
    let by_index = |config: &mut Config| config.remove("layer_types");
    for (case, expected) in [("gemma2-window", "ssfss"), ("qwen2-window", "ffsss")] {
        let absent = configured(case, &layers, by_index);
        assert_eq!(absent.get("num_hidden_layers"), Some(&json!(5)));
        for config in [configured(case, &layers, |_| ()), absent] {
            let types = config.get("layer_types").unwrap().as_array().unwrap();
            let first = |kind: &Value| kind.as_str().unwrap().chars().next().unwrap();
            assert_eq!(types.iter().map(first).collect::<String>(), expected, "{case}");
        }
    }
    for config in
        [configured("qwen2-window", &layers, |_| ()), configured("qwen2-window", &layers, by_index)]
    {
        assert_eq!(config.get("max_window_layers"), Some(&json!(2)));
    }
    let without = configured("qwen2-tied", &[0, 1, 1], by_index);
    assert_eq!(without.get("layer_types"), None);
}

#[test]
fn sizes_are_written_where_the_family_reads_them() {
    let write = |case: &str| configured(case, &[0, 1], |_| ());
    let mixtral = write("mixtral-lm");
    assert_eq!(mixtral.get("num_local_experts"), Some(&json!(5)));
    assert_eq!(mixtral.get("num_experts_per_tok"), Some(&json!(2)));
    assert_eq!(mixtral.get("head_dim"), Some(&json!(4)));
    let stablelm = write("stablelm-lm");
    assert_eq!(stablelm.get("layer_norm_eps"), Some(&json!(1e-3)));
    assert_eq!((stablelm.get("head_dim"), stablelm.get("rms_norm_eps")), (None, None));
    assert_eq!(write("olmo-lm").get("rms_norm_eps"), None);
    assert_eq!(write("olmo-lm").get("head_dim"), Some(&json!(4)));
}

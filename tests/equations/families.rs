//! Whole checks of files whose configuration is wrong, not their weights.

use lemon_check::check::{Check, Evidence, Verdict, Witness, check};
use lemon_check::checkpoint::{Checkpoint, Dtype};
use lemon_check::expand::expand;
use lemon_check::forward::Input;
use lemon_check::testing::{Architecture, Editor, FreeParts, SourceCase, TargetCase, WeightStyle};
use serde_json::{Value, json};

fn source(architecture: Architecture, own: Value) -> SourceCase {
    let mut config = json!({
        "hidden_size": 6, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "intermediate_size": 5, "num_hidden_layers": 2, "vocab_size": 11, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false,
    });
    let fields = config.as_object_mut().unwrap();
    fields.extend(own.as_object().unwrap().clone());
    SourceCase {
        architecture,
        config: fields.clone(),
        stored: ["model.embed_tokens.weight".to_string()].into(),
        buffers: Default::default(),
        dtype: Dtype::F32,
        weights: WeightStyle::Random,
        seed: 4,
    }
}

/// Checks an expansion to width 15, with twice the experts, after a change of its configuration.
fn checked(source: &SourceCase, field: &str, value: Value) -> Check {
    let mut target = TargetCase::unchanged(&source.model().unwrap().sizes, FreeParts::Equal, 1);
    (target.hidden, target.heads, target.kv_heads) = (15, 4, 2);
    let small = source.build().unwrap();
    let model = lemon_check::model::describe(&small).unwrap();
    let mut options = target.options();
    options.target.experts = model.sizes.experts.map(|experts| 2 * experts.all);
    let large = expand(&small, &model, &options).unwrap();
    let run = |large: &Checkpoint| check(&small, large, &|_, _| ()).unwrap();
    let right = run(&large);
    assert_eq!(right.verdict, Verdict::Lossless, "{:?}", right.certificate);
    let model = lemon_check::model::describe(&large).unwrap();
    let mut editor = Editor::new(&large, &model);
    editor.config().set(field, value);
    run(&editor.finish())
}

#[test]
fn windows_in_other_layers_are_shown_by_an_input_longer_than_the_window() {
    let (slides, sees) = ("sliding_attention", "full_attention");
    let source = source(
        Architecture::Gemma2,
        json!({
            "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "sliding_window": 20,
            "layer_types": [slides, sees], "query_pre_attn_scalar": 4,
            "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
            "hidden_activation": "gelu_pytorch_tanh",
        }),
    );
    let found = checked(&source, "layer_types", json!([sees, slides]));
    assert_eq!((found.verdict, found.evidence), (Verdict::NotLossless, Some(Evidence::Witness)));
    assert_eq!(found.certificate.failures[0].tensor, "layer_types");
    let Some(Witness::Outputs { probe, .. }) = found.witness else { panic!("{:?}", found.witness) };
    let Input::Tokens { ids, .. } = probe.input else { panic!("it reads tokens") };
    assert!(ids.len() > 20, "{} tokens are no more than the window has", ids.len());
}

#[test]
fn as_many_active_experts_as_before_are_not_lossless() {
    let source = source(
        Architecture::Mixtral,
        json!({
            "model_type": "mixtral", "architectures": ["MixtralForCausalLM"],
            "num_local_experts": 3, "num_experts_per_tok": 2, "hidden_act": "silu",
        }),
    );
    let found = checked(&source, "num_experts_per_tok", json!(2));
    assert_eq!((found.verdict, found.evidence), (Verdict::NotLossless, Some(Evidence::Witness)));
    let failure = &found.certificate.failures[0];
    assert_eq!((failure.tensor.as_str(), failure.expected), ("num_experts_per_tok", 4.0));
}

#[test]
fn an_eps_that_only_the_norms_of_the_stream_follow_is_caught() {
    let source = source(
        Architecture::Qwen3,
        json!({
            "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_act": "silu",
        }),
    );
    let found = checked(&source, "rms_norm_eps", json!(1e-5 * 12.0 / 15.0));
    assert_eq!(found.verdict, Verdict::NotLossless);
    assert!(found.certificate.only_epsilon_fails(), "{:?}", found.certificate);
}

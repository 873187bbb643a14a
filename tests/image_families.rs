//! Image families: what their configurations say, and what is refused by name.

use lemon_check::checkpoint::{Checkpoint, Config};
use lemon_check::model::{describe, family_of};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn load(case: &str) -> Checkpoint {
    Checkpoint::open(&folder(case), None).unwrap()
}

/// The golden case with `change` made to its configuration.
fn changed(case: &str, change: impl FnOnce(&mut Config)) -> Checkpoint {
    let stored = load(case);
    let mut config = stored.config().clone();
    change(&mut config);
    Checkpoint::in_memory(folder(case), config, stored.tensors().clone())
}

fn argument(case: &str, name: &str, value: Value) -> Checkpoint {
    changed(case, |config| {
        let mut arguments = config.get("model_args").unwrap().clone();
        arguments[name] = value;
        config.set("model_args", arguments);
    })
}

fn refused(checkpoint: &Checkpoint, words: &[&str]) {
    let message = describe(checkpoint).map(|_| ()).unwrap_err().to_string();
    for word in words {
        assert!(message.contains(word), "{word}: {message}");
    }
}

const CASES: [&str; 18] = [
    "deit-class",
    "deit-model",
    "deit-teacher",
    "timm-clip",
    "timm-deit3",
    "timm-distilled",
    "timm-dynamic",
    "timm-features",
    "timm-gap",
    "timm-gap-norm-first",
    "timm-mean-of-all",
    "timm-post-res-norm",
    "timm-registers",
    "vit-hf",
    "vit-hf-nobias",
    "vit-model",
    "vit-model-wide",
    "vit-timm",
];

#[test]
fn every_stored_tensor_is_read() {
    for case in CASES {
        let stored = load(case);
        let model = describe(&stored).unwrap();
        assert_eq!(model.strangers(&stored), Vec::<&str>::new(), "{case}");
    }
}

#[test]
fn writing_the_sizes_that_a_model_has_changes_nothing() {
    for case in CASES {
        let model = describe(&load(case)).unwrap();
        let layers: Vec<usize> = (0..model.sizes.layers).collect();
        let again = changed(case, |config| {
            let family = family_of(config).unwrap();
            (family.configure)(config, &model.sizes, &layers);
        });
        let again = describe(&again).unwrap();
        assert_eq!(format!("{again:?}"), format!("{model:?}"), "{case}");
    }
}

#[test]
fn arguments_that_are_not_implemented_are_named() {
    for (name, value) in [
        ("scale_attn_norm", json!(true)),
        ("attn_layer", json!("diff")),
        ("norm_layer", json!("rmsnorm")),
        ("norm_layer", json!(null)),
        ("act_layer", json!("quick_gelu")),
        ("global_pool", json!("map")),
        ("pos_embed", json!("rope")),
        ("patch_size", json!([4, 2])),
        ("class_token", json!(null)),
        ("distilled", json!(true)),
        ("eps", json!(1e-5)),
    ] {
        refused(&argument("timm-clip", name, value), &[name, "implemented"]);
    }
}

#[test]
fn an_argument_that_is_off_says_nothing() {
    for (name, value) in [("scale_mlp_norm", json!(false)), ("mlp_layer", json!(null))] {
        describe(&argument("timm-clip", name, value)).unwrap();
    }
}

#[test]
fn combinations_that_timm_cannot_build_are_refused() {
    refused(&argument("timm-distilled", "reg_tokens", json!(2)), &["distilled"]);
    refused(&argument("timm-distilled", "global_pool", json!("avg")), &["global_pool", "`token`"]);
    refused(&argument("vit-timm", "class_token", json!(false)), &["class_token", "impossible"]);
    refused(&argument("timm-dynamic", "img_size", json!([8, 12])), &["dynamic_img_size"]);
}

#[test]
fn the_pooling_told_beside_the_arguments_must_be_the_one_that_is_built() {
    let checkpoint = changed("timm-gap", |config| config.set("global_pool", "token"));
    refused(&checkpoint, &["global_pool", "`token` here contradicts `avg`"]);
}

#[test]
fn an_unknown_architecture_is_named() {
    for name in ["vit_base_patch16_siglip_224", "vit_tiny_patch16_", "resnet50.a1", ""] {
        let checkpoint = changed("vit-timm", |config| config.set("architecture", name));
        refused(&checkpoint, &["architecture", &format!("`{name}`"), "implemented are"]);
    }
}

#[test]
fn another_head_size_is_not_guessed() {
    for case in ["vit-hf", "deit-teacher"] {
        refused(&changed(case, |config| config.set("head_dim", 8)), &["head_dim"]);
        describe(&changed(case, |config| config.set("head_dim", 4))).unwrap();
    }
}

//! Image families: what their configurations say, and what is refused by name.

mod golden_case;

use golden_case::changed;
use lemon_check::checkpoint::Checkpoint;
use lemon_check::model::describe;
use serde_json::{Value, json};

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

//! Residual convolutional networks, against transformers and timm: see `tests/golden/README.md`.

mod golden_case;

use golden_case::{changed, load};
use lemon_check::checkpoint::{Checkpoint, Config};
use lemon_check::forward::{Real, Weights, run_convnet};
use lemon_check::model::convolutional::{configure_convnet, describe_convnet, is_convolutional};
use ndarray::Array3;
use serde_json::{Value, json};

const CASES: [&str; 4] =
    ["resnet-basic", "resnet-bottleneck", "resnet-strided", "resnet-torchvision"];

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

/// The images and their golden logits.
fn golden(case: &str) -> Vec<(Array3<f64>, Vec<f64>)> {
    let text = std::fs::read_to_string(load(case).path().join("golden.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let pairs =
        golden["inputs"].as_array().unwrap().iter().zip(golden["outputs"].as_array().unwrap());
    pairs
        .map(|(input, output)| {
            let shape = numbers(&input["pixels"]["shape"]);
            let shape = (shape[0] as usize, shape[1] as usize, shape[2] as usize);
            let data = numbers(&input["pixels"]["data"]);
            let pixels = Array3::from_shape_vec(shape, data).unwrap();
            (pixels, numbers(&output["logits"]["data"]))
        })
        .collect()
}

/// The worst difference of a case, relative to 1 + the largest logit.
fn worst<R: Real>(case: &str) -> f64 {
    let checkpoint = load(case);
    let net = describe_convnet(&checkpoint).unwrap();
    let mut worst = 0.0f64;
    for (pixels, expected) in golden(case) {
        let weights = Weights::new(&checkpoint);
        let logits = run_convnet::<R>(&weights, &net, &pixels).unwrap();
        assert_eq!(logits.len(), expected.len());
        let scale = 1.0 + expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        for (got, want) in logits.iter().zip(&expected) {
            worst = worst.max((got.to_f64() - want).abs() / scale);
        }
    }
    worst
}

#[test]
fn f64_agrees_with_transformers_and_timm() {
    for case in CASES {
        let worst = worst::<f64>(case);
        println!("{case:20} f64 {worst:.1e}");
        assert!(worst < 1e-10, "{case}: {worst:e}");
    }
}

/// One f32 sum of n terms is off by at most n·u of its terms' size; BatchNorm keeps the terms near
/// the size of what it writes.
#[test]
fn f32_agrees_to_its_own_rounding() {
    for case in CASES {
        let net = describe_convnet(&load(case)).unwrap();
        let longest = net.lenses().iter().map(|lens| lens.cols()).max().unwrap();
        let bound = (net.convolutions().count() * longest) as f64 * f32::UNIT_ROUNDOFF;
        let worst = worst::<f32>(case);
        println!("{case:20} f32 {worst:.1e}, bound {bound:.1e}");
        assert!(worst > 1e-10 && worst < bound, "{case}: {worst:e}, bound {bound:e}");
    }
}

#[test]
fn every_stored_tensor_is_read_or_a_counter() {
    for case in CASES {
        let checkpoint = load(case);
        assert!(is_convolutional(checkpoint.config()));
        let net = describe_convnet(&checkpoint).unwrap();
        assert_eq!(net.strangers(&checkpoint), Vec::<&str>::new(), "{case}");
        assert_eq!(net.buffers.len(), net.convolutions().count(), "{case}");
    }
}

#[test]
fn writing_the_sizes_that_a_network_has_changes_nothing() {
    for case in CASES {
        let net = describe_convnet(&load(case)).unwrap();
        let again = changed(case, |config| configure_convnet(config, &net.sizes));
        let again = describe_convnet(&again).unwrap();
        assert_eq!(format!("{again:?}"), format!("{net:?}"), "{case}");
    }
}

#[test]
fn an_architecture_alone_says_all_that_torchvision_needs() {
    let config = |name: &str| {
        let mut config = Config::new("config.json", Default::default());
        config.set("architecture", name);
        config
    };
    // The stem of the stored file is torchvision's; the first block is not.
    for (name, shape) in [
        ("resnet18", "[64, 64, 3, 3]"),
        ("wide_resnet50_2", "[128, 64, 1, 1]"),
        ("resnet152", "[64, 64, 1, 1]"),
    ] {
        assert!(is_convolutional(&config(name)));
        let stored = load("resnet-torchvision");
        let checkpoint = Checkpoint::in_memory("m", config(name), stored.tensors().clone());
        let message = describe_convnet(&checkpoint).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains("`layer1.0.conv1.weight`"), "{message}");
        assert!(message.contains(shape), "{name}: {message}");
    }
    assert!(!is_convolutional(&config("vit_tiny_patch16_224")));
}

#[test]
fn what_is_not_implemented_is_named() {
    for (field, value) in [
        ("hidden_act", json!("gelu")),
        ("groups", json!(2)),
        ("model_args", json!({"stem_type": "deep"})),
        ("quantization_config", json!({"load_in_8bit": true})),
        ("architectures", json!(["ResNetModel"])),
        ("architectures", json!(["ResNetBackbone"])),
        ("global_pool", json!("max")),
        ("act_layer", json!("silu")),
        ("norm_layer", json!("groupnorm")),
        ("stem_type", json!("deep")),
        ("avg_down", json!(true)),
        ("output_stride", json!(8)),
        ("replace_stride_with_dilation", json!([false, true, true])),
        ("block_args", json!({"attn_layer": "se"})),
        ("attn_layer", json!("se")),
        ("cardinality", json!(32)),
        ("base_width", json!(4)),
        ("aa_layer", json!("blurpool")),
        ("layer_type", json!("inverted")),
        ("width_per_group", json!(128)),
        ("depths", json!([1])),
        ("hidden_sizes", json!([3, 12])),
        ("hidden_sizes", json!("wide")),
    ] {
        let checkpoint = changed("resnet-bottleneck", |config| config.set(field, value));
        let message = describe_convnet(&checkpoint).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(&format!("`{field}`")), "{field}: {message}");
    }
}

#[test]
fn what_says_no_more_than_is_implemented_is_read() {
    let plain = format!("{:?}", describe_convnet(&load("resnet-bottleneck")).unwrap());
    for (field, value) in [
        ("quantization_config", Value::Null),
        ("model_args", json!({})),
        ("global_pool", json!("avg")),
        ("act_layer", json!("relu")),
        ("norm_layer", json!("BatchNorm2d")),
        ("stem_type", json!("")),
        ("output_stride", json!(32)),
        ("replace_stride_with_dilation", json!([false, false, false])),
        ("zero_init_residual", json!(true)),
        ("block_args", json!({})),
        ("attn_layer", Value::Null),
        ("cardinality", json!(1)),
        ("base_width", json!(64)),
    ] {
        let checkpoint = changed("resnet-bottleneck", |config| config.set(field, value));
        let net = describe_convnet(&checkpoint).unwrap_or_else(|error| panic!("{field}: {error}"));
        assert_eq!(format!("{net:?}"), plain, "{field}");
    }
}

#[test]
fn images_that_do_not_fit_are_refused() {
    let checkpoint = load("resnet-strided");
    let net = describe_convnet(&checkpoint).unwrap();
    for (shape, value, words) in [
        ((3, 8, 8), 0.0, "colours"),
        ((1, 0, 8), 0.0, "colours"),
        ((1, 8, 8), f64::NAN, "not finite"),
    ] {
        let pixels = Array3::from_elem(shape, value);
        let error = run_convnet::<f64>(&Weights::new(&checkpoint), &net, &pixels).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let dot = Array3::from_elem((1, 1, 1), 0.5);
    assert!(run_convnet::<f64>(&Weights::new(&checkpoint), &net, &dot).is_ok());
}

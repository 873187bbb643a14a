//! The golden models.

use lemon_check::checkpoint::Checkpoint;
use lemon_check::forward::Input;
use lemon_check::model::{Model, describe};
use ndarray::Array3;
use serde_json::Value;
use std::path::Path;

pub const CASES: [&str; 17] = [
    "bert-mlm",
    "bert-mlm-relu",
    "bert-model",
    "gpt2-base",
    "gpt2-inner-relu",
    "gpt2-lm",
    "gpt2-no-scale",
    "llama-base",
    "llama-bias",
    "llama-gqa",
    "llama-tied",
    "llama-untied",
    "vit-hf",
    "vit-hf-nobias",
    "vit-model",
    "vit-timm",
    "vit-timm-nobias",
];

pub struct Case {
    pub name: &'static str,
    pub checkpoint: Checkpoint,
    pub model: Model,
    pub inputs: Vec<Input>,
}

impl Case {
    pub fn load(name: &'static str) -> Case {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let checkpoint = Checkpoint::open(&folder, None).unwrap();
        let model = describe(&checkpoint).unwrap();
        let inputs = golden["inputs"].as_array().unwrap().iter().map(input).collect();
        Case { name, checkpoint, model, inputs }
    }
}

fn numbers<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    value.as_array().unwrap().iter().map(|v| read(v).unwrap()).collect()
}

fn input(entry: &Value) -> Input {
    let indices = |value: &Value| numbers(value, |v| v.as_u64().map(|n| n as usize));
    if let Some(pixels) = entry.get("pixels") {
        let shape: [usize; 3] = indices(&pixels["shape"]).try_into().unwrap();
        let data = numbers(&pixels["data"], Value::as_f64);
        return Input::Image { pixels: Array3::from_shape_vec(shape, data).unwrap() };
    }
    Input::Tokens {
        ids: indices(&entry["input_ids"]),
        mask: entry.get("attention_mask").map(|m| numbers(m, |v| v.as_u64().map(|n| n == 1))),
        types: entry.get("token_type_ids").map(indices),
        positions: None,
    }
}

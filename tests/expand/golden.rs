//! The golden models and the comparison of an expansion with its source.

use lemon_check::checkpoint::{Checkpoint, Config, Dtype, Tensor};
use lemon_check::forward::{Input, Output, run_batch};
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
    inputs: Vec<Input>,
}

impl Case {
    pub fn load(name: &'static str) -> Case {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let checkpoint = open(&folder);
        let model = describe(&checkpoint).unwrap();
        let inputs = golden["inputs"].as_array().unwrap().iter().map(input).collect();
        Case { name, checkpoint, model, inputs }
    }
}

fn open(folder: &Path) -> Checkpoint {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors = stored.tensors().into_iter().map(|(name, view)| {
        let count = view.shape().iter().product::<usize>();
        let values = (0..count).map(|i| Dtype::F64.get(view.data(), i));
        (name, Tensor::from_values(Dtype::F64, view.shape().to_vec(), values))
    });
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    Checkpoint::in_memory(folder, config_of(&text), tensors.collect())
}

pub fn config_of(text: &str) -> Config {
    Config::parse(Path::new("config.json"), text).unwrap()
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

/// Largest difference of any output, as a fraction of the spread of the source's. Of hidden outputs
/// the first channels are compared: there E is the identity.
pub fn difference(case: &Case, expanded: &Checkpoint, model: &Model) -> f64 {
    let wanted = run_batch::<f64>(&case.checkpoint, &case.model, &case.inputs).unwrap();
    let got = run_batch::<f64>(expanded, model, &case.inputs).unwrap();
    assert!(!wanted.is_empty() && wanted.len() == got.len());
    let mut worst = 0.0f64;
    for (wanted, got) in wanted.iter().zip(&got) {
        assert_eq!(wanted.outputs.len(), got.outputs.len());
        for ((wanted, got), about) in wanted.outputs.iter().zip(&got.outputs).zip(&model.outputs) {
            let same_width = got.values.ncols() == wanted.values.ncols();
            assert!(same_width || !about.fixed, "{}", about.name);
            worst = worst.max(difference_of(wanted, got));
        }
    }
    worst
}

fn difference_of(wanted: &Output<f64>, got: &Output<f64>) -> f64 {
    let rows = (0..wanted.values.nrows()).filter(|row| wanted.meaningful[*row]);
    let (mut low, mut high, mut worst) = (f64::INFINITY, f64::NEG_INFINITY, 0.0f64);
    for row in rows {
        for (want, got) in wanted.values.row(row).iter().zip(got.values.row(row)) {
            (low, high) = (low.min(*want), high.max(*want));
            worst = worst.max((want - got).abs());
        }
    }
    assert!(high > low, "{} is constant", wanted.name);
    worst / (high - low)
}

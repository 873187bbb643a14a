//! The golden models.

use lemon_check::checkpoint::Checkpoint;
use lemon_check::forward::Input;
use lemon_check::model::{Model, describe};
use ndarray::Array3;
use serde_json::Value;
use std::path::Path;

/// Every golden case: a folder with a `golden.json`.
pub fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let folders = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap());
    let models = folders.filter(|folder| folder.path().join("golden.json").exists());
    let mut names: Vec<String> =
        models.map(|folder| folder.file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 17, "found only {names:?}");
    names.iter().map(|name| Case::load(name)).collect()
}

pub struct Case {
    pub name: String,
    pub checkpoint: Checkpoint,
    pub model: Model,
    pub inputs: Vec<Input>,
}

impl Case {
    pub fn load(name: &str) -> Case {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
        let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let checkpoint = Checkpoint::open(&folder, None).unwrap();
        let model = describe(&checkpoint).unwrap();
        let inputs = golden["inputs"].as_array().unwrap().iter().map(input).collect();
        Case { name: name.into(), checkpoint, model, inputs }
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

//! Requests that nobody should send are answered too, and the next one is computed all the same.

use lemon_check_wgpu::device::Device;
use lemon_check_wgpu::failure::{Failure, Result};
use lemon_check_wgpu::protocol::answer;
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Value, json};
use std::path::PathBuf;

struct Asking {
    device: Result<Device>,
    folder: tempfile::TempDir,
}

impl Asking {
    fn new() -> Asking {
        Asking { device: Device::open(), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes inputs: f32 by name, shape and numbers.
    fn write(&self, tensors: &[(&str, &[usize], &[f32])]) {
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, _, numbers)| numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
        });
        std::fs::write(self.path("in"), serialize(views, None).unwrap()).unwrap();
    }

    fn ask(&self, line: &str) -> Value {
        answer(&self.device, line)
    }

    fn op(&self, op: &str, dtype: &str, attributes: Value) -> Value {
        let request = json!({
            "id": 7, "request": "op", "op": op, "dtype": dtype, "attributes": attributes,
            "inputs": self.path("in"), "outputs": self.path("out"),
        });
        let reply = self.ask(&request.to_string());
        assert_eq!(reply["id"], 7);
        reply
    }

    fn relu_is_still_right(&self) {
        self.write(&[("x", &[1, 3], &[-1.0, 0.0, 2.5])]);
        assert_eq!(self.op("relu", "f32", json!({}))["ok"], true);
        let bytes = std::fs::read(self.path("out")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let y: Vec<f32> = bytemuck::pod_collect_to_vec(tensors.tensor("y").unwrap().data());
        assert_eq!(y, [0.0, 0.0, 2.5]);
    }
}

#[test]
fn it_says_what_it_can_do() {
    let asking = Asking::new();
    let reply = asking.ask(r#"{"protocol": 1, "id": 0, "request": "hello"}"#);
    assert_eq!(reply["protocol"], 1);
    assert_eq!(reply["ops"].as_array().unwrap().len(), 26);
    assert_eq!(reply["dtypes"], json!(["f32", "f16", "bf16"]));
    assert!(reply["device"].as_str().unwrap().contains("vulkan"), "{reply}");
}

#[test]
fn without_an_adapter_it_says_so() {
    let none = Err(Failure::Error("no adapter".into()));
    let reply = answer(&none, r#"{"protocol": 1, "id": 0, "request": "hello"}"#);
    assert_eq!(reply, json!({"id": 0, "error": "no adapter"}));
}

#[test]
fn what_is_no_request_is_answered() {
    let asking = Asking::new();
    for line in ["", "[]", "{\"id\": 3", "{\"id\": 3}", "{\"request\": 3}", "null"] {
        assert!(asking.ask(line)["error"].is_string(), "{line}");
    }
    assert!(asking.ask(r#"{"id": 1, "request": "sing"}"#)["unsupported"].is_string());
    asking.relu_is_still_right();
}

#[test]
fn what_it_does_not_do_is_unsupported() {
    let asking = Asking::new();
    asking.write(&[("x", &[1, 3], &[-1.0, 0.0, 2.5])]);
    for (op, dtype) in [("convolution", "f32"), ("rule_of_thumb", "f32"), ("relu", "f64")] {
        assert!(asking.op(op, dtype, json!({}))["unsupported"].is_string(), "{op} {dtype}");
    }
    asking.relu_is_still_right();
}

#[test]
fn inputs_that_do_not_fit_are_errors() {
    let asking = Asking::new();
    let fails = |op: &str, attributes: Value| {
        let reply = asking.op(op, "f32", attributes);
        assert!(reply["error"].is_string(), "{op}: {reply}");
    };
    fails("relu", json!({}));
    std::fs::write(asking.path("in"), b"no tensors").unwrap();
    fails("relu", json!({}));
    let (six, two) = ([1.0; 6], [1.0; 2]);
    asking.write(&[("x", &[2, 3], &six), ("weight", &[1, 2], &two), ("frequencies", &[2], &two)]);
    fails("linear", json!({}));
    fails("rms_norm", json!({"eps": 1e-5}));
    fails("gated_mlp", json!({"function": "relu"}));
    fails("embedding", json!({}));
    fails("attention", json!({"heads": 3, "kv_heads": 2, "head_dim": 1}));
    for head_dim in [json!(0), json!(2), json!(-1), json!(1e30), json!("3"), Value::Null] {
        fails("rotary", json!({"head_dim": head_dim}));
    }
    fails("rule_rows", json!({"map_sources": 2, "map_scale": 1.0}));
    fails("rule_copy_heads", json!({"source_heads": 3, "source_kv_heads": 2}));
    asking.relu_is_still_right();
}

#[test]
fn arrays_of_no_numbers_are_answered() {
    let asking = Asking::new();
    asking.write(&[("x", &[0, 3], &[]), ("weight", &[2, 3], &[1.0; 6])]);
    for op in ["linear", "relu", "softmax"] {
        assert_eq!(asking.op(op, "f16", json!({}))["ok"], true, "{op}");
    }
    asking.write(&[("x", &[3, 0], &[]), ("weight", &[2, 0], &[])]);
    for op in ["linear", "relu", "softmax"] {
        assert_eq!(asking.op(op, "f16", json!({}))["ok"], true, "{op}");
    }
    asking.relu_is_still_right();
}

#[test]
fn models_that_do_not_fit_are_errors() {
    let asking = Asking::new();
    let model = |family: &str, config: &str, tensors: &[(&str, &[usize], &[f32])]| {
        asking.write(tensors);
        std::fs::rename(asking.path("in"), asking.path("model.safetensors")).unwrap();
        std::fs::write(asking.path("config.json"), config).unwrap();
        let ids = [0i64, 1].map(i64::to_le_bytes).concat();
        let view = TensorView::new(Dtype::I64, vec![2], &ids).unwrap();
        std::fs::write(asking.path("in"), serialize([("input_ids", view)], None).unwrap()).unwrap();
        let request = json!({
            "id": 1, "request": "forward", "family": family, "dtype": "f32",
            "model": asking.folder.path(), "inputs": asking.path("in"), "returns": ["logits"],
            "outputs": asking.path("out"),
        });
        asking.ask(&request.to_string())
    };
    assert!(model("parrot", "{}", &[])["unsupported"].is_string());
    let table: [(&str, &[usize], &[f32]); 4] = [
        ("embed_tokens.weight", &[2, 2], &[1.0; 4]),
        ("layers.0.input_layernorm.weight", &[2], &[1.0; 2]),
        ("layers.0.self_attn.q_proj.weight", &[2, 2], &[1.0; 4]),
        ("layers.0.self_attn.q_norm.weight", &[0], &[]),
    ];
    let heads = |heads: i64, head_dim: Value| {
        json!({
            "hidden_size": 2, "num_attention_heads": heads, "num_hidden_layers": 1,
            "head_dim": head_dim,
        })
    };
    let configs = [
        "".to_string(),
        "[]".to_string(),
        "{}".to_string(),
        heads(0, Value::Null).to_string(),
        heads(3, Value::Null).to_string(),
        heads(-1, json!(2)).to_string(),
        heads(1, json!("two")).to_string(),
        heads(1, json!(2)).to_string(),
    ];
    for family in ["gpt2", "llama", "qwen3", "gemma", "bert"] {
        for config in &configs {
            let reply = model(family, config, &table);
            assert!(reply["error"].is_string(), "{family} {config}: {reply}");
        }
    }
    asking.relu_is_still_right();
}

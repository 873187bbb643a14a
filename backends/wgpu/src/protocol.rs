//! Requests and replies: version 1 of lemon-check's protocol, a line of JSON each.

use crate::asked::Asked;
use crate::device::Device;
use crate::failure::{Failure, Result, error};
use crate::tensors::{self, Format, Outputs, Tensors};
use crate::{forward, ops, rules};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The version of the protocol.
const VERSION: u32 = 1;

/// Answers a request; the reply is a line of JSON too, whatever the request is.
pub fn answer(device: &Result<Device>, line: &str) -> Value {
    let request: Map<String, Value> = match serde_json::from_str(line) {
        Ok(request) => request,
        Err(e) => return json!({"id": null, "error": format!("this is no request: {e}")}),
    };
    let id = request.get("id").cloned().unwrap_or_default();
    let said = device.as_ref().map_err(Clone::clone).and_then(|device| {
        let said = reply(device, &request);
        if said.is_err() {
            device.forget();
        }
        said
    });
    let mut said = match said {
        Ok(said) => said,
        Err(Failure::Unsupported(what)) => json!({"unsupported": what}),
        Err(Failure::Error(what)) => json!({"error": what}),
    };
    said["id"] = id;
    said
}

fn reply(device: &Device, request: &Map<String, Value>) -> Result<Value> {
    match word(request, "request")? {
        "hello" => Ok(hello(device)),
        "op" => op(device, request),
        "forward" => model(device, request),
        other => Err(Failure::Unsupported(format!("the request `{other}`"))),
    }
}

fn hello(device: &Device) -> Value {
    let ops: Vec<&str> = ops::NAMES.iter().chain(&rules::NAMES).copied().collect();
    json!({
        "protocol": VERSION,
        "name": concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")),
        "device": device.description(),
        "dtypes": Format::ALL.map(Format::name),
        "ops": ops,
        "forward": forward::FAMILIES,
        "expand": [],
    })
}

fn op(device: &Device, request: &Map<String, Value>) -> Result<Value> {
    let op = word(request, "op")?;
    let format = format(request)?;
    let bytes = tensors::bytes(Path::new(word(request, "inputs")?))?;
    let none = Map::new();
    let attributes = request.get("attributes").and_then(Value::as_object).unwrap_or(&none);
    let asked = Asked { device, attributes, tensors: Tensors::parse(&bytes)? };
    let outputs = match op.starts_with("rule_") {
        true => rules::answer(&asked, op)?,
        false => ops::answer(&asked, op)?,
    };
    written(device, request, &outputs, format)
}

fn model(device: &Device, request: &Map<String, Value>) -> Result<Value> {
    let format = format(request)?;
    let returns = request.get("returns").and_then(Value::as_array);
    let returns: Vec<&str> = returns.into_iter().flatten().filter_map(Value::as_str).collect();
    let asked = forward::Request {
        family: word(request, "family")?,
        format,
        model: Path::new(word(request, "model")?),
        inputs: Path::new(word(request, "inputs")?),
        returns: &returns,
    };
    written(device, request, &forward::answer(device, &asked)?, format)
}

fn written(
    device: &Device,
    request: &Map<String, Value>,
    outputs: &Outputs,
    format: Format,
) -> Result<Value> {
    tensors::write(device, Path::new(word(request, "outputs")?), outputs, format)?;
    Ok(json!({"ok": true}))
}

fn format(request: &Map<String, Value>) -> Result<Format> {
    let name = word(request, "dtype")?;
    Format::named(name).ok_or_else(|| Failure::Unsupported(format!("the number format {name}")))
}

fn word<'a>(request: &'a Map<String, Value>, field: &str) -> Result<&'a str> {
    let word = request.get(field).and_then(Value::as_str);
    word.ok_or_else(|| error(format!("the request has no `{field}`")))
}

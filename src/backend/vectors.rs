//! Golden cases in files, for those who cannot run a program over the protocol.
//!
//! A folder holds `vectors.json` and two safetensors files for each case:
//!
//! - `OP-N.in.safetensors` is what the operation reads, in the number format that is asked for,
//! - `OP-N.out.safetensors` is what is right: each number in F64, and beside a tensor `y` the
//!   tensor `y.bound` of how far an answer may be from it (F64; infinite where it does not matter).
//!   Whole numbers must be equal, and have no bound.
//!
//! `vectors.json` has `schema_version`, `version`, `dtype`, `seed` and `cases`: for each its `op`,
//! `attributes`, and the files `inputs` and `outputs`. The operations are described in
//! [`super::ops`].

use super::ops::{Expected, OPERATIONS, OpCase, Right};
use super::suite::Plan;
use super::{Tensors, dtype_name, files};
use crate::checkpoint::{Dtype, Tensor};
use crate::error::{Error, Result};
use crate::report::SCHEMA_VERSION;
use crate::testing::random::generator;
use serde_json::json;
use std::path::Path;

/// Writes random cases of every operation into a new folder; returns how many.
///
/// # Errors
/// If the folder exists, or cannot be written.
pub fn write(folder: &Path, plan: Plan) -> Result<usize> {
    std::fs::create_dir(folder).map_err(|e| {
        Error::io(folder, "make the folder", e).help("give a new folder in one that exists")
    })?;
    let mut cases = Vec::new();
    for operation in OPERATIONS {
        let mut rng = generator(plan.seed);
        for index in 1..=plan.cases {
            let case = OpCase::random(operation, &mut rng);
            let request = operation.request(&case, plan.dtype);
            let [inputs, outputs] =
                ["in", "out"].map(|side| format!("{}-{index}.{side}.safetensors", operation.name));
            files::write(&folder.join(&inputs), &request.inputs)?;
            files::write(&folder.join(&outputs), &golden(&operation.right(&request)))?;
            let (op, attributes) = (&request.op, &request.attributes);
            cases.push(json!({
                "op": op, "attributes": attributes, "inputs": inputs, "outputs": outputs
            }));
        }
    }
    let count = cases.len();
    let index = json!({
        "schema_version": SCHEMA_VERSION,
        "version": env!("CARGO_PKG_VERSION"),
        "dtype": dtype_name(plan.dtype),
        "seed": plan.seed,
        "cases": cases,
    });
    let path = folder.join("vectors.json");
    let text = format!("{index:#}\n");
    std::fs::write(&path, text).map_err(|e| Error::io(&path, "write the list of cases", e))?;
    Ok(count)
}

/// What is right, with bounds.
fn golden(right: &Right) -> Tensors {
    let mut tensors = Tensors::new();
    for (name, expected) in &right.0 {
        match expected {
            Expected::Integers { shape, values } => {
                let tensor = Tensor::from_integers(shape.clone(), values.iter().copied());
                tensors.insert(name.clone(), tensor);
            }
            Expected::Numbers { shape, values, tolerances } => {
                for (name, numbers) in
                    [(name.clone(), values), (format!("{name}.bound"), tolerances)]
                {
                    let numbers = numbers.iter().copied();
                    tensors.insert(name, Tensor::from_values(Dtype::F64, shape.clone(), numbers));
                }
            }
        }
    }
    tensors
}

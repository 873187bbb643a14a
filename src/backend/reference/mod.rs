//! `reference-f32`: this crate's own code as a backend.
//!
//! Models and operations of the forward pass run in f32 as [`crate::forward`] runs them; rules are
//! those of [`crate::expand::rules`], computed in f64 and then rounded. The right answers that
//! operations and rules are held to come from [`super::ops`], which shares no code with either;
//! those of models come from the same forward pass, so that with models only the bounds are tried.
//! Expansions are those of [`mod@crate::expand`], which the certificate judges as it judges any.

mod forward;
mod rules;

use super::forward::family_name;
use super::ops::OPERATIONS;
use super::{About, Answer, Backend, Failure, OpRequest, Request, Tensors};
use crate::checkpoint::{Dtype, Tensor};
use crate::error::{Error, Result};
use crate::testing::Architecture;
use ndarray::Array2;

/// The name that it goes by.
pub const NAME: &str = "reference-f32";

/// This crate's own f32 path.
pub struct Reference {
    about: About,
}

impl Reference {
    /// There is only one.
    pub fn new() -> Self {
        Reference {
            about: About {
                name: format!("{NAME} {}", env!("CARGO_PKG_VERSION")),
                device: "cpu".into(),
                dtypes: vec!["f32".into()],
                ops: OPERATIONS.iter().map(|operation| operation.name.to_string()).collect(),
                forward: Architecture::ALL.map(family_name).to_vec(),
                expand: Architecture::ALL.map(family_name).to_vec(),
            },
        }
    }
}

impl Default for Reference {
    fn default() -> Self {
        Reference::new()
    }
}

impl Backend for Reference {
    fn about(&self) -> &About {
        &self.about
    }

    fn answer(&mut self, request: &Request) -> Answer {
        let answer = match request {
            Request::Op(request) if request.op.starts_with("rule_") => rules::answer(request),
            Request::Op(request) => forward::answer(request),
            Request::Forward(request) => request.computed_in_single(),
            Request::Expand(request) => request.expanded(),
        };
        answer.map_err(|e| Failure::Failed(e.to_string()))
    }
}

/// The one matrix that an operation returns.
fn one(values: Array2<f64>) -> Tensors {
    [("y".to_string(), matrix(values))].into()
}

fn matrix(values: Array2<f64>) -> Tensor {
    Tensor::from_values(Dtype::F32, values.shape().to_vec(), values)
}

/// Reads what is asked.
struct Asked<'a>(&'a OpRequest);

impl Asked<'_> {
    fn tensor(&self, name: &str) -> Result<&Tensor> {
        let tensor = self.0.inputs.get(name);
        tensor.ok_or_else(|| Error::bad_input("the tensor is missing").tensor(name))
    }

    /// A tensor of two dimensions, or of one as a column.
    fn matrix(&self, name: &str) -> Result<Array2<f64>> {
        let tensor = self.tensor(name)?;
        let columns: usize = tensor.shape.iter().skip(1).product();
        let shape = (tensor.shape.first().copied().unwrap_or(1), columns);
        let values = tensor.numbers().and_then(|v| Array2::from_shape_vec(shape, v).ok());
        values.ok_or_else(|| Error::bad_input("expected numbers").tensor(name))
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let integers = self.tensor(name)?.integers();
        integers.ok_or_else(|| Error::bad_input("expected whole numbers").tensor(name))
    }

    fn has(&self, name: &str) -> bool {
        self.0.inputs.contains_key(name)
    }

    fn number(&self, name: &str) -> Result<f64> {
        let number = self.0.attributes.get(name).and_then(|value| value.as_f64());
        number.ok_or_else(|| Error::bad_input("expected a number").field(name))
    }

    fn count(&self, name: &str) -> Result<usize> {
        Ok(self.number(name)? as usize)
    }

    fn flag(&self, name: &str) -> bool {
        self.0.attributes.get(name).and_then(|value| value.as_bool()).unwrap_or(false)
    }

    fn word(&self, name: &str) -> &str {
        self.0.attributes.get(name).and_then(|value| value.as_str()).unwrap_or("")
    }
}

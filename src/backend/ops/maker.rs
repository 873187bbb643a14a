//! Draws the tensors of a case.

use super::case::{OpCase, Style};
use crate::backend::{OpRequest, Tensors};
use crate::checkpoint::{Dtype, Tensor};
use crate::testing::random::{Draw, generator};
use serde_json::{Map, Value};

/// Puts a request together. Each tensor has random numbers of its own, by its name, so that a case
/// that loses one keeps the others.
pub struct Maker<'a> {
    case: &'a OpCase,
    dtype: Dtype,
    attributes: Map<String, Value>,
    inputs: Tensors,
}

impl<'a> Maker<'a> {
    pub(super) fn new(case: &'a OpCase, dtype: Dtype) -> Self {
        Maker { case, dtype, attributes: Map::new(), inputs: Tensors::new() }
    }

    pub(super) fn into_request(self, op: &str) -> OpRequest {
        let Maker { dtype, attributes, inputs, .. } = self;
        OpRequest { op: op.to_string(), dtype, attributes, inputs }
    }

    /// A size of the case.
    pub fn size(&self, name: &str) -> usize {
        self.case.sizes.get(name).copied().unwrap_or(1)
    }

    /// Whether a switch of the case is on.
    pub fn on(&self, name: &str) -> bool {
        self.case.on.contains(name)
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.attributes.insert(name.to_string(), value.into());
    }

    /// Random numbers of the tensor's own.
    pub fn random(&self, name: &str) -> impl Draw + use<> {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        generator(self.case.seed ^ hash)
    }

    /// An input in the case's style.
    pub fn numbers(&mut self, name: &str, shape: &[usize]) {
        let mut rng = self.random(name);
        let common = rng.normal();
        let style = self.case.numbers;
        let mut draw = || match style {
            Style::Normal => rng.normal(),
            Style::Offset => 30.0 + rng.normal(),
            Style::Large => 100.0 * rng.normal(),
            Style::Small => 1e-3 * rng.normal(),
            Style::Sparse if rng.chance(0.7) => 0.0,
            Style::Sparse => rng.normal(),
            Style::Equal => common,
        };
        let count = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|_| draw()).collect();
        self.put(name, shape, values);
    }

    /// A weight: normal, with this standard deviation, about `mean`.
    pub fn weights(&mut self, name: &str, shape: &[usize], mean: f64, deviation: f64) {
        let mut rng = self.random(name);
        let count: usize = shape.iter().product();
        let values: Vec<f64> = (0..count).map(|_| mean + deviation * rng.normal()).collect();
        self.put(name, shape, values);
    }

    /// An input of these numbers, rounded to the case's format.
    pub fn put(&mut self, name: &str, shape: &[usize], values: Vec<f64>) {
        let tensor = Tensor::from_values(self.dtype, shape.to_vec(), values);
        self.inputs.insert(name.to_string(), tensor);
    }

    /// An input of whole numbers.
    pub fn integers(&mut self, name: &str, values: &[i64]) {
        let tensor = Tensor::from_integers(vec![values.len()], values.iter().copied());
        self.inputs.insert(name.to_string(), tensor);
    }

    /// A mask of `count` whole numbers, 0 or 1, of which at least one is 1.
    pub fn mask(&mut self, name: &str, count: usize) {
        let mut rng = self.random(name);
        let mut bits: Vec<i64> = (0..count).map(|_| i64::from(rng.chance(0.6))).collect();
        bits[rng.below(count)] = 1;
        self.integers(name, &bits);
    }
}

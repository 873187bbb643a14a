//! What operations read and return, in numbers with bounds.

use crate::backend::bound::{Bounded, Format};
use crate::backend::{OpRequest, Tensors};
use crate::checkpoint::{Dtype, Tensor};
use crate::forward::Real;
use half::{bf16, f16};
use ndarray::{Array1, Array2};
use std::marker::PhantomData;

/// What an operation reads, as it was made by [`super::Maker`].
pub struct Inputs<'a, F> {
    request: &'a OpRequest,
    format: PhantomData<F>,
}

impl<'a, F: Format> Inputs<'a, F> {
    pub(super) fn new(request: &'a OpRequest) -> Self {
        Inputs { request, format: PhantomData }
    }

    fn tensor(&self, name: &str) -> &'a Tensor {
        self.request.inputs.get(name).unwrap_or_else(|| panic!("the case has no tensor `{name}`"))
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.request.inputs.contains_key(name)
    }

    /// A tensor's numbers.
    pub fn vector(&self, name: &str) -> Array1<Bounded<F>> {
        let numbers = self.tensor(name).numbers().unwrap_or_default();
        numbers.into_iter().map(Bounded::exact).collect()
    }

    /// A tensor of two dimensions.
    pub fn matrix(&self, name: &str) -> Array2<Bounded<F>> {
        let shape = &self.tensor(name).shape;
        let matrix = self.vector(name).into_shape_with_order((shape[0], shape[1]));
        matrix.expect("a tensor holds as many numbers as its shape says")
    }

    /// A tensor of whole numbers.
    pub fn integers(&self, name: &str) -> Vec<i64> {
        self.tensor(name).integers().unwrap_or_default()
    }

    /// A mask of `count`; everything is visible where there is none.
    pub fn mask(&self, name: &str, count: usize) -> Vec<bool> {
        match self.has(name) {
            true => self.integers(name).into_iter().map(|bit| bit == 1).collect(),
            false => vec![true; count],
        }
    }

    /// A number among the attributes, as the format holds it.
    pub fn constant(&self, name: &str) -> Bounded<F> {
        Bounded::from_f64(self.number(name).unwrap_or(0.0))
    }

    /// A number among the attributes.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.request.attributes.get(name).and_then(|value| value.as_f64())
    }

    /// A count among the attributes.
    pub fn count(&self, name: &str) -> usize {
        self.number(name).unwrap_or(0.0) as usize
    }

    /// A switch among the attributes.
    pub fn flag(&self, name: &str) -> bool {
        self.request.attributes.get(name).and_then(|value| value.as_bool()).unwrap_or(false)
    }

    /// A word among the attributes.
    pub fn word(&self, name: &str) -> &'a str {
        self.request.attributes.get(name).and_then(|value| value.as_str()).unwrap_or("")
    }
}

/// What an operation returns, tensor after tensor.
#[derive(Default)]
pub struct Outputs<F>(Vec<(&'static str, Vec<usize>, Values<F>)>);

enum Values<F> {
    Numbers(Vec<Bounded<F>>),
    Integers(Vec<i64>),
}

impl<F: Format> Outputs<F> {
    /// One matrix.
    pub fn matrix(name: &'static str, values: Array2<Bounded<F>>) -> Self {
        Outputs(Vec::new()).and_matrix(name, values)
    }

    /// One vector.
    pub fn vector(name: &'static str, values: impl IntoIterator<Item = Bounded<F>>) -> Self {
        Outputs(Vec::new()).and_vector(name, values)
    }

    /// One list of whole numbers.
    pub fn integers(name: &'static str, values: Vec<i64>) -> Self {
        Outputs(Vec::new()).and_integers(name, values)
    }

    /// And a matrix.
    pub fn and_matrix(mut self, name: &'static str, values: Array2<Bounded<F>>) -> Self {
        let shape = values.shape().to_vec();
        self.0.push((name, shape, Values::Numbers(values.into_iter().collect())));
        self
    }

    /// And a vector.
    pub fn and_vector(
        mut self,
        name: &'static str,
        values: impl IntoIterator<Item = Bounded<F>>,
    ) -> Self {
        let values: Vec<Bounded<F>> = values.into_iter().collect();
        self.0.push((name, vec![values.len()], Values::Numbers(values)));
        self
    }

    /// And a list of whole numbers.
    pub fn and_integers(mut self, name: &'static str, values: Vec<i64>) -> Self {
        self.0.push((name, vec![values.len()], Values::Integers(values)));
        self
    }

    /// What is right, stored as `dtype`.
    pub(super) fn right(self, dtype: Dtype) -> Right {
        let expected = |(name, shape, values): (&str, Vec<usize>, Values<F>)| {
            let expected = match values {
                Values::Integers(values) => Expected::Integers { shape, values },
                Values::Numbers(values) => Expected::numbers(shape, values, dtype),
            };
            (name.to_string(), expected)
        };
        Right(self.0.into_iter().map(expected).collect())
    }
}

/// What storing a number adds, where the format is narrower than the one that is computed in; it
/// may become anything where the format holds nothing as large.
fn storage<F: Format>(value: Bounded<F>, dtype: Dtype) -> f64 {
    let largest = match dtype {
        Dtype::F16 => f64::from(f16::MAX),
        Dtype::Bf16 => f64::from(bf16::MAX),
        Dtype::F32 => f64::from(f32::MAX),
        Dtype::F64 => f64::MAX,
    };
    match dtype.unit_roundoff() > F::UNIT {
        _ if value.magnitude() > largest => f64::INFINITY,
        true => dtype.unit_roundoff() * value.magnitude() + dtype.subnormal_roundoff(),
        false => 0.0,
    }
}

/// The right answer, tensor by tensor.
#[derive(Clone, Debug)]
pub struct Right(pub Vec<(String, Expected)>);

/// One tensor of the right answer.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Numbers, each with how far an answer may be from it: infinitely where it does not matter.
    Numbers {
        /// Row-major shape.
        shape: Vec<usize>,
        /// The values in f64.
        values: Vec<f64>,
        /// In the values' own units.
        tolerances: Vec<f64>,
    },
    /// Whole numbers, which must be equal.
    Integers {
        /// Row-major shape.
        shape: Vec<usize>,
        /// The values.
        values: Vec<i64>,
    },
}

impl Expected {
    /// Numbers that are stored as `dtype`, in row-major order.
    pub fn numbers<F: Format>(shape: Vec<usize>, values: Vec<Bounded<F>>, dtype: Dtype) -> Self {
        Expected::Numbers {
            shape,
            tolerances: values.iter().map(|v| v.bound() + storage(*v, dtype)).collect(),
            values: values.into_iter().map(Bounded::value).collect(),
        }
    }

    /// Whether every bound is as large as the largest number.
    fn is_vague(&self) -> bool {
        match self {
            Expected::Integers { .. } => false,
            Expected::Numbers { values, tolerances, .. } => {
                let largest = values.iter().fold(0f64, |largest, value| largest.max(value.abs()));
                tolerances.iter().all(|tolerance| *tolerance >= largest)
            }
        }
    }
}

impl Right {
    /// Whether the bounds are so large that a right answer cannot be told from a wrong one.
    pub fn is_vague(&self) -> bool {
        self.0.iter().all(|(_, expected)| expected.is_vague())
    }

    /// The values alone, as tensors of `dtype`.
    pub fn tensors(&self, dtype: Dtype) -> Tensors {
        let tensor = |(name, expected): &(String, Expected)| {
            let tensor = match expected {
                Expected::Numbers { shape, values, .. } => {
                    Tensor::from_values(dtype, shape.clone(), values.iter().copied())
                }
                Expected::Integers { shape, values } => {
                    Tensor::from_integers(shape.clone(), values.iter().copied())
                }
            };
            (name.clone(), tensor)
        };
        self.0.iter().map(tensor).collect()
    }
}

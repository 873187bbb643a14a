//! Whether an answer is right.

use super::ops::{Expected, Right};
use super::{Tensors, dtype_name};
use crate::checkpoint::{Dtype, Tensor};
use serde::Serialize;

/// What became of the comparison of one answer.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Numbers that were compared.
    pub compared: usize,
    /// The largest difference, in units of the bound; at most 1 is right.
    pub worst: f64,
    /// The largest difference, in the numbers' own units: the smallest absolute tolerance that
    /// would pass.
    pub difference: f64,
    /// Where the difference is largest in units of the bound.
    pub place: Option<Place>,
}

/// A number of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// The tensor.
    pub tensor: String,
    /// Its index.
    pub index: Vec<usize>,
    /// What is right.
    pub expected: f64,
    /// What was answered.
    pub got: f64,
    /// How far it may be off.
    pub bound: f64,
}

impl Place {
    /// How far off it is, in units of the bound; infinitely where it must be exact.
    pub fn units(&self) -> f64 {
        units((self.got - self.expected).abs(), self.bound)
    }
}

fn units(difference: f64, bound: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { difference / bound }
}

impl Judgement {
    /// Whether nothing is farther off than it may be.
    pub fn agrees(&self) -> bool {
        self.worst <= 1.0
    }
}

/// Compares `answer` with what is right, in number format `dtype`.
///
/// # Errors
/// In words, if the answer lacks a tensor, or one has another format or shape, or holds a number
/// that is not finite where one is compared.
pub fn judge(right: &Right, answer: &Tensors, dtype: Dtype) -> Result<Judgement, String> {
    let mut judgement = Judgement::default();
    for (name, expected) in &right.0 {
        let got = answer.get(name).ok_or_else(|| format!("the answer lacks `{name}`"))?;
        judgement.tensor(name, expected, got, dtype)?;
    }
    Ok(judgement)
}

/// Where the first of the tensors that differs does so most; those that were not returned count as
/// right.
///
/// # Errors
/// As [`judge`], up to the first that differs.
pub fn first_difference(
    stream: &Right,
    answer: &Tensors,
    dtype: Dtype,
) -> Result<Option<Place>, String> {
    for (name, expected) in &stream.0 {
        let Some(got) = answer.get(name) else { continue };
        let mut judgement = Judgement::default();
        judgement.tensor(name, expected, got, dtype)?;
        if !judgement.agrees() {
            return Ok(judgement.place);
        }
    }
    Ok(None)
}

impl Judgement {
    fn tensor(
        &mut self,
        name: &str,
        expected: &Expected,
        got: &Tensor,
        dtype: Dtype,
    ) -> Result<(), String> {
        match expected {
            Expected::Integers { shape, values } => {
                check(name, got, "I64", shape)?;
                let got = got.integers().unwrap_or_default();
                let pairs = values.iter().zip(&got).enumerate();
                for (index, (value, got)) in pairs {
                    self.add((name, shape, index), *value as f64, *got as f64, 0.0);
                }
            }
            Expected::Numbers { shape, values, tolerances } => {
                check(name, got, dtype.stored_name(), shape)?;
                let got = got.numbers().unwrap_or_default();
                for (index, value) in values.iter().enumerate() {
                    if !tolerances[index].is_finite() {
                        continue;
                    }
                    if !got[index].is_finite() {
                        let place = unravel(shape, index);
                        return Err(format!("`{name}` {place:?} is {}, not {value}", got[index]));
                    }
                    self.add((name, shape, index), *value, got[index], tolerances[index]);
                }
            }
        }
        Ok(())
    }

    fn add(
        &mut self,
        (name, shape, index): (&str, &[usize], usize),
        expected: f64,
        got: f64,
        bound: f64,
    ) {
        self.compared += 1;
        let difference = (got - expected).abs();
        let units = units(difference, bound);
        self.difference = self.difference.max(difference);
        if units > self.worst {
            self.worst = units;
            let index = unravel(shape, index);
            self.place = Some(Place { tensor: name.to_string(), index, expected, got, bound });
        }
    }
}

fn check(name: &str, got: &Tensor, format: &str, shape: &[usize]) -> Result<(), String> {
    let stored = got.format_name();
    if stored != format {
        return Err(format!("`{name}` is {stored}, not {format}"));
    }
    match got.shape == shape {
        true => Ok(()),
        false => Err(format!("`{name}` has shape {:?}, not {shape:?}", got.shape)),
    }
}

/// The index of an entry in a tensor of this shape.
fn unravel(shape: &[usize], mut place: usize) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (slot, size) in index.iter_mut().zip(shape).rev() {
        *slot = place % size;
        place /= size;
    }
    index
}

/// The unit of `units`, in words.
pub fn unit(dtype: Dtype) -> String {
    format!("the rounding error bound of {}", dtype_name(dtype))
}

//! What an operation reads: tensors by name, of the shapes that they must have, and attributes.

use crate::device::{Array, Device};
use crate::failure::{Result, error};
use crate::tensors::Tensors;
use serde_json::{Map, Value};

/// The tensors and attributes of an operation.
pub struct Asked<'a> {
    /// What it runs on.
    pub device: &'a Device,
    /// Numbers and switches.
    pub attributes: &'a Map<String, Value>,
    /// What it reads.
    pub tensors: Tensors<'a>,
}

impl Asked<'_> {
    /// Numbers of two dimensions.
    ///
    /// # Errors
    /// If there are none.
    pub fn matrix(&self, name: &str) -> Result<Array> {
        self.tensors.upload_matrix(self.device, name)
    }

    /// Numbers of this shape.
    ///
    /// # Errors
    /// If there are none.
    pub fn numbers(&self, name: &str, shape: &[usize]) -> Result<Array> {
        self.tensors.upload_shaped(self.device, name, shape)
    }

    /// Numbers of this shape, if there is such a tensor.
    ///
    /// # Errors
    /// If it has another shape.
    pub fn maybe(&self, name: &str, shape: &[usize]) -> Result<Option<Array>> {
        self.tensors.has(name).then(|| self.numbers(name, shape)).transpose()
    }

    /// Whole numbers from `least` to `most`: so many of them, if `count` says how many.
    ///
    /// # Errors
    /// If there are none, or one is beyond.
    pub fn integers(&self, name: &str, count: Option<usize>, range: (i64, i64)) -> Result<Array> {
        self.tensors.upload_integers(self.device, name, count, range)
    }

    /// A number, if it is given.
    ///
    /// # Errors
    /// If it is no number.
    pub fn maybe_number(&self, name: &str) -> Result<Option<f32>> {
        match self.attributes.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number as f32)),
                None => Err(error(format!("`{name}` is no number: {value}"))),
            },
        }
    }

    /// A number.
    ///
    /// # Errors
    /// If it is absent.
    pub fn number(&self, name: &str) -> Result<f32> {
        self.maybe_number(name)?.ok_or_else(|| error(format!("`{name}` is not given")))
    }

    /// A whole number of at least one, if it is given.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn maybe_count(&self, name: &str) -> Result<Option<usize>> {
        match self.attributes.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64().filter(|n| (1..=i32::MAX as u64).contains(n)) {
                Some(count) => Ok(Some(count as usize)),
                None => Err(error(format!("`{name}` is no count: {value}"))),
            },
        }
    }

    /// A whole number of at least one.
    ///
    /// # Errors
    /// If it is absent, or anything else.
    pub fn count(&self, name: &str) -> Result<usize> {
        self.maybe_count(name)?.ok_or_else(|| error(format!("`{name}` is not given")))
    }

    /// A switch: off where it is absent.
    pub fn flag(&self, name: &str) -> bool {
        self.attributes.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A word.
    ///
    /// # Errors
    /// If it is absent.
    pub fn word(&self, name: &str) -> Result<&str> {
        let word = self.attributes.get(name).and_then(Value::as_str);
        word.ok_or_else(|| error(format!("`{name}` is not given")))
    }
}

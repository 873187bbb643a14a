//! A model's configuration: JSON, with getters whose errors name the file and the field.

use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A model configuration (`config.json`) and where it was read.
#[derive(Clone, Debug)]
pub struct Config {
    origin: PathBuf,
    json: Map<String, Value>,
}

/// Sizes above this are not a model's: they are a damaged or hostile file.
const SIZE_LIMIT: u64 = 1 << 24;
/// More layers than any model has.
const LAYER_LIMIT: usize = 1 << 12;

impl Config {
    /// A configuration from an already parsed JSON object; `origin` is named in errors.
    pub fn new(origin: impl Into<PathBuf>, json: Map<String, Value>) -> Self {
        Config { origin: origin.into(), json }
    }

    /// Parses `text` as a JSON object.
    ///
    /// # Errors
    /// If the text is no JSON object.
    pub fn parse(origin: &Path, text: &str) -> Result<Self> {
        let advice =
            "write the model's configuration as one JSON object (Hugging Face config.json)";
        match serde_json::from_str(text) {
            Ok(Value::Object(json)) => Ok(Config::new(origin, json)),
            Ok(_) => Err(Error::bad_input("the configuration is not a JSON object").help(advice)),
            Err(e) => {
                Err(Error::bad_input(format!("the configuration is not valid JSON: {e}"))
                    .help(advice))
            }
        }
        .map_err(|e| e.at(origin))
    }

    /// The file that the configuration was read from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The whole JSON object.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// Replaces or adds a field.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) {
        self.json.insert(field.to_string(), value.into());
    }

    /// Removes a field; no error if it is absent.
    pub fn remove(&mut self, field: &str) {
        self.json.shift_remove(field);
    }

    /// The field's value; `None` where it is absent or null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.json.get(field).filter(|v| !v.is_null())
    }

    /// Whether the field is there and null: where a family gives an absent field a value, null may
    /// mean none.
    pub fn is_null(&self, field: &str) -> bool {
        self.json.get(field).is_some_and(Value::is_null)
    }

    /// The object under `field` as a configuration of its own (such as `rope_parameters`).
    ///
    /// # Errors
    /// If the field is there and is no object.
    pub fn section(&self, field: &str) -> Result<Option<Config>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(json)) => Ok(Some(Config::new(&self.origin, json.clone()))),
            Some(other) => Err(self.wrong(field, "an object", other)),
        }
    }

    /// A positive size (dimensionless count).
    ///
    /// # Errors
    /// If the field is absent, not a whole number, zero, or above 2²⁴.
    pub fn size(&self, field: &str) -> Result<usize> {
        self.size_opt(field)?.ok_or_else(|| self.missing(field))
    }

    /// Like [`Config::size`], with a default for an absent field.
    pub fn size_or(&self, field: &str, default: usize) -> Result<usize> {
        Ok(self.size_opt(field)?.unwrap_or(default))
    }

    /// Like [`Config::size`]; `None` where the field is absent or null.
    pub fn size_opt(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(size) if (1..=SIZE_LIMIT).contains(&size) => Ok(Some(size as usize)),
            _ => Err(self.wrong(field, "a whole number from 1 to 16777216", value)),
        }
    }

    /// A number of layers.
    ///
    /// # Errors
    /// If the field is absent, not a whole number, zero, or above 4096.
    pub fn layers(&self, field: &str) -> Result<usize> {
        match self.size(field)? {
            count if count <= LAYER_LIMIT => Ok(count),
            count => Err(self.wrong(field, "at most 4096 layers", &count.into())),
        }
    }

    /// A positive, finite number, with a default for an absent field.
    ///
    /// # Errors
    /// If the field is there and is not a positive number.
    pub fn positive_or(&self, field: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(field) else { return Ok(default) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(number),
            _ => Err(self.wrong(field, "a positive number", value)),
        }
    }

    /// A switch, with a default for an absent field.
    ///
    /// # Errors
    /// If the field is there and is neither true nor false.
    pub fn flag_or(&self, field: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.wrong(field, "true or false", value))
    }

    /// A word, with a default for an absent field.
    ///
    /// # Errors
    /// If the field is there and is no string.
    pub fn word_or<'a>(&'a self, field: &str, default: &'a str) -> Result<&'a str> {
        let Some(value) = self.get(field) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.wrong(field, "a string", value))
    }

    /// The error for a field that must be there and is not.
    pub fn missing(&self, field: &str) -> Error {
        Error::bad_input("the field is missing")
            .at(&self.origin)
            .field(field)
            .help(format!("add `{field}` to the configuration"))
    }

    /// The error for a field with an unusable value.
    pub fn wrong(&self, field: &str, expected: &str, got: &Value) -> Error {
        let mut shown = got.to_string();
        if shown.chars().count() > 60 {
            shown = shown.chars().take(60).chain("…".chars()).collect();
        }
        Error::bad_input(format!("expected {expected}, got {shown}")).at(&self.origin).field(field)
    }

    /// The error for a value that is legal but not implemented here.
    pub fn unsupported(&self, field: &str, problem: impl Into<String>) -> Error {
        Error::unsupported(problem).at(&self.origin).field(field)
    }
}

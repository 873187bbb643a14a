//! Tensors in safetensors files, and how they come to the device and back.

use crate::device::{Array, Device, Grid, settings};
use crate::failure::{Failure, Result, error};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::path::Path;

/// Number formats of tensors. Half precision is storage: it is computed with in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 3] = [Format::F32, Format::F16, Format::Bf16];

    /// Its name in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
        }
    }

    /// The format of this name.
    pub fn named(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// A number as the format holds it.
    pub fn rounded(self, number: f64) -> f32 {
        match self {
            Format::F32 => number as f32,
            Format::F16 => half::f16::from_f64(number).to_f32(),
            Format::Bf16 => half::bf16::from_f64(number).to_f32(),
        }
    }

    fn stored(self) -> Dtype {
        match self {
            Format::F32 => Dtype::F32,
            Format::F16 => Dtype::F16,
            Format::Bf16 => Dtype::BF16,
        }
    }
}

/// A file of tensors.
pub struct Tensors<'a>(SafeTensors<'a>);

/// The bytes of a file.
///
/// # Errors
/// If it cannot be read.
pub fn bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| error(format!("{}: {e}", path.display())))
}

impl<'a> Tensors<'a> {
    /// The tensors in the bytes of a file.
    ///
    /// # Errors
    /// If it is no safetensors file.
    pub fn parse(bytes: &'a [u8]) -> Result<Tensors<'a>> {
        SafeTensors::deserialize(bytes).map(Tensors).map_err(|e| error(format!("tensors: {e}")))
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.0.tensor(name).is_ok()
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'a>> {
        self.0.tensor(name).map_err(|_| error(format!("there is no tensor `{name}`")))
    }

    /// A tensor's shape.
    ///
    /// # Errors
    /// If there is none.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.tensor(name)?.shape().to_vec())
    }

    /// Whole numbers.
    ///
    /// # Errors
    /// If there are none, or one does not fit into 32 bits.
    pub fn integers(&self, name: &str) -> Result<Vec<i32>> {
        let tensor = self.tensor(name)?;
        if tensor.dtype() != Dtype::I64 {
            return Err(error(format!("`{name}` holds no whole numbers")));
        }
        let numbers = tensor.data().as_chunks::<8>().0.iter().map(|bytes| {
            i32::try_from(i64::from_le_bytes(*bytes))
                .map_err(|_| error(format!("`{name}` holds a number beyond 32 bits")))
        });
        numbers.collect()
    }

    /// Whole numbers from `least` to `most`, on the device: so many of them, if `count` says so.
    ///
    /// # Errors
    /// If there are none, or one is beyond.
    pub fn upload_integers(
        &self,
        device: &Device,
        name: &str,
        count: Option<usize>,
        (least, most): (i64, i64),
    ) -> Result<Array> {
        let numbers = self.integers(name)?;
        self.check_shape(name, &[count.unwrap_or(numbers.len())])?;
        match numbers.iter().find(|n| !(least..=most).contains(&i64::from(**n))) {
            Some(beyond) => Err(error(format!("`{name}` holds {beyond}"))),
            None => device.upload(bytemuck::cast_slice(&numbers), &[numbers.len()]),
        }
    }

    /// Numbers of this shape, as f32 on the device.
    ///
    /// # Errors
    /// If there are none.
    pub fn upload_shaped(&self, device: &Device, name: &str, shape: &[usize]) -> Result<Array> {
        self.check_shape(name, shape)?;
        self.upload(device, name)
    }

    fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        let found = self.shape(name)?;
        match found == shape {
            true => Ok(()),
            false => Err(error(format!("`{name}` has the shape {found:?} and not {shape:?}"))),
        }
    }

    /// Numbers of two dimensions, as f32 on the device.
    ///
    /// # Errors
    /// If there are none.
    pub fn upload_matrix(&self, device: &Device, name: &str) -> Result<Array> {
        let shape = self.shape(name)?;
        match shape.len() {
            2 => self.upload(device, name),
            _ => Err(error(format!("`{name}` is no matrix: its shape is {shape:?}"))),
        }
    }

    /// Numbers as f32 on the device, which widens those in half precision.
    ///
    /// # Errors
    /// If there are none, or the device does not take them.
    fn upload(&self, device: &Device, name: &str) -> Result<Array> {
        let tensor = self.tensor(name)?;
        let stored = device.upload(tensor.data(), tensor.shape())?;
        let kernel = match tensor.dtype() {
            Dtype::F32 => return Ok(stored),
            Dtype::F16 => "widen_f16",
            Dtype::BF16 => "widen_bf16",
            other => return Err(Failure::Unsupported(format!("`{name}` in {other:?}"))),
        };
        let count = stored.count();
        let grid = Grid::Numbers(count);
        device.run(("format", kernel), grid, settings![count], &[&stored], &stored.shape)
    }
}

/// What an answer holds.
pub enum Output {
    /// Numbers in f32, to be stored in the format that is asked for.
    Numbers(Array),
    /// Whole numbers in 32 bits.
    Integers(Array),
}

/// An answer: tensors by name.
pub type Outputs = Vec<(String, Output)>;

/// A tensor of an answer, as the file holds it.
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Stored {
    fn read(device: &Device, name: &str, output: &Output, format: Format) -> Result<Stored> {
        let (dtype, array, bytes) = match output {
            Output::Numbers(array) => (format.stored(), array, numbers(device, array, format)?),
            Output::Integers(array) => (Dtype::I64, array, integers(device, array)?),
        };
        Ok(Stored { name: name.to_string(), dtype, shape: array.shape.clone(), bytes })
    }

    fn view(&self) -> Result<(&str, TensorView<'_>)> {
        let view = TensorView::new(self.dtype, self.shape.clone(), &self.bytes).map_err(error)?;
        Ok((&self.name, view))
    }
}

/// Reads an answer from the device and writes it to a file.
///
/// # Errors
/// If the device failed, or the file cannot be written.
pub fn write(device: &Device, path: &Path, outputs: &Outputs, format: Format) -> Result<()> {
    let read = outputs.iter().map(|(name, output)| Stored::read(device, name, output, format));
    let stored = read.collect::<Result<Vec<Stored>>>()?;
    let views = stored.iter().map(Stored::view).collect::<Result<Vec<_>>>()?;
    let bytes = safetensors::serialize(views, None).map_err(error)?;
    std::fs::write(path, bytes).map_err(|e| error(format!("{}: {e}", path.display())))
}

fn numbers(device: &Device, array: &Array, format: Format) -> Result<Vec<u8>> {
    let count = array.count();
    let kernel = match format {
        Format::F32 => return device.read(array, 4 * count),
        Format::F16 => "narrow_f16",
        Format::Bf16 => "narrow_bf16",
    };
    let words = count.div_ceil(2);
    let grid = Grid::Numbers(words);
    let halves = device.run(("format", kernel), grid, settings![count], &[array], &[words])?;
    device.read(&halves, 2 * count)
}

fn integers(device: &Device, array: &Array) -> Result<Vec<u8>> {
    let words = device.read(array, 4 * array.count())?;
    let whole = words.as_chunks::<4>().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes)));
    Ok(whole.flat_map(i64::to_le_bytes).collect())
}

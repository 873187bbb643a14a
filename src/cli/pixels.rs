//! Reading an image.

use crate::check::random_image;
use crate::checkpoint::read_tensors;
use crate::error::{Error, Result};
use ndarray::Array3;
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// Larger files are not images of a model.
const FILE_LIMIT: u64 = 256 << 20;

const ADVICE: &str = "give a JSON list [channel][row][column], or a .safetensors file with one \
                      tensor of that shape";

/// The image in `file`, or the one of `shape` that `random:SEED` names, `[channels, height,
/// width]`. A model of `family` without a shape reads no images.
///
/// # Errors
/// If the file cannot be read or holds no image.
pub(super) fn read(file: &Path, shape: Option<[usize; 3]>, family: &str) -> Result<Array3<f64>> {
    if let Some(seed) = file.to_str().and_then(|name| name.strip_prefix("random:")) {
        return random(seed, shape, family);
    }
    let image = match file.extension().is_some_and(|e| e == "safetensors") {
        true => from_safetensors(file),
        false => load(file).and_then(|bytes| from_json(&bytes)),
    };
    image.map_err(|e| e.at(file).help(ADVICE))
}

fn random(seed: &str, shape: Option<[usize; 3]>, family: &str) -> Result<Array3<f64>> {
    let seed = seed.parse().map_err(|_| {
        Error::new(crate::Class::Usage, format!("--pixels random:{seed}: the seed is no number"))
            .help("write random:0; for a file of that name ./random:0")
    })?;
    shape.map(|shape| random_image(shape, seed)).ok_or_else(|| {
        let problem = format!("got an image, but a {family} reads tokens");
        Error::bad_input(problem).help("give --input-ids")
    })
}

fn load(file: &Path) -> Result<Vec<u8>> {
    let fail = |e| Error::io(file, "read the image", e).help(ADVICE);
    let mut bytes = Vec::new();
    let open = std::fs::File::open(file).map_err(fail)?;
    open.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > FILE_LIMIT {
        let problem = format!("the file is larger than {FILE_LIMIT} bytes");
        return Err(Error::bad_input(problem).at(file).help(ADVICE));
    }
    Ok(bytes)
}

fn from_safetensors(file: &Path) -> Result<Array3<f64>> {
    let tensors = read_tensors(file)?;
    let mut all = tensors.iter();
    let (Some((name, tensor)), None) = (all.next(), all.next()) else {
        return Err(Error::bad_input(format!("it holds {} tensors, not one", tensors.len())));
    };
    let fail = |problem: String| Err(Error::bad_input(problem).tensor(name));
    let Some(dtype) = tensor.dtype else {
        let stored = tensor.format_name();
        return fail(format!("it is stored as {stored}; pixels must be F64, F32, F16 or BF16"));
    };
    let [channels, height, width] = tensor.shape[..] else {
        return fail(format!("its shape is {:?}, not [channels, height, width]", tensor.shape));
    };
    let values = (0..tensor.len()).map(|index| dtype.get(tensor.bytes(), index)).collect();
    Ok(Array3::from_shape_vec([channels, height, width], values).expect("the header was checked"))
}

fn from_json(bytes: &[u8]) -> Result<Array3<f64>> {
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::bad_input(format!("this is no JSON: {e}")))?;
    let list = |value: &Value, what: &str| -> Result<Vec<Value>> {
        value.as_array().cloned().ok_or_else(|| Error::bad_input(format!("{what} is no list")))
    };
    let channels = list(&json, "the image")?;
    let mut values = Vec::new();
    let mut shape = [channels.len(), 0, 0];
    for channel in &channels {
        let rows = list(channel, "a channel")?;
        for row in &rows {
            let pixels = list(row, "a row")?;
            for pixel in &pixels {
                let number =
                    pixel.as_f64().ok_or_else(|| Error::bad_input("a pixel is no number"))?;
                values.push(number);
            }
            shape = [shape[0], rows.len(), pixels.len()];
        }
    }
    Array3::from_shape_vec(shape, values)
        .map_err(|_| Error::bad_input("its channels or rows are not all of one length"))
}

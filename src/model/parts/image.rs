//! Parts of image models.

use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::*;
use serde_json::Value;

/// The images that a model reads.
pub(in crate::model) struct Image {
    /// Colour channels.
    pub channels: usize,
    /// Height and width in pixels.
    pub pixels: (usize, usize),
    /// Pixels per side of a patch.
    pub patch: usize,
}

impl Image {
    /// From a configuration with Hugging Face's field names.
    ///
    /// # Errors
    /// If a field has no usable value, or patches are no squares.
    pub fn read(config: &Config) -> Result<Image> {
        let channels = config.size_or("num_channels", 3)?;
        let pixels = pair_or(config, "image_size", (224, 224))?;
        Ok(Image { channels, pixels, patch: square(config, "patch_size", 16)? })
    }

    /// How many patches there are.
    fn patches(&self) -> usize {
        (self.pixels.0 / self.patch).saturating_mul(self.pixels.1 / self.patch)
    }
}

/// The tensor names of an image embedding.
pub(in crate::model) struct ImageNames {
    /// What comes in front of the patches, such as the class token: name and number of rows, which
    /// lie behind one dimension of length one.
    pub prefix: Vec<(String, Dim)>,
    /// The position table, behind one dimension of length one; `None` without positions.
    pub positions: Option<String>,
    /// Whether the rows in front of the patches have positions too.
    pub prefix_positions: bool,
    /// The patch convolution.
    pub patch: String,
    /// Whether it has a bias.
    pub patch_bias: bool,
}

impl ImageNames {
    /// The embedding of `image`.
    ///
    /// # Errors
    /// If a patch is larger than the image.
    pub fn embedding(self, config: &Config, hidden: &Dim, image: &Image) -> Result<Embedding> {
        let Image { channels, pixels: (height, width), patch } = *image;
        if patch > height.min(width) {
            let problem = format!("patches of {patch} pixels do not fit {height}×{width} pixels");
            return Err(Error::bad_input(problem).at(config.origin()).field("patch_size"));
        }
        let front = self.prefix.iter().fold(0usize, |n, (_, rows)| n.saturating_add(rows.size));
        let side = Dim::new(patch, "patch_size");
        let taps = [Dim::new(channels, "num_channels"), side.clone(), side];
        let table = |name: String| {
            let (count, rows) = match self.prefix_positions {
                true => (Count::All, front.saturating_add(image.patches())),
                false => (Count::Behind(front), image.patches()),
            };
            let from = format!("{} + (image_size/patch_size)²", rows - image.patches());
            let lens = Lens::table_behind_ones(name, 1, Dim::new(rows, from), hidden.clone());
            Table::plain(TableIndex::Position(Positions { count, offset: 0 }), lens)
        };
        let prefix = self.prefix.into_iter();
        Ok(Embedding {
            input: Input::Image { channels, height, width, patch },
            tables: self.positions.map(table).into_iter().collect(),
            prefix: prefix
                .map(|(name, rows)| Lens::table_behind_ones(name, 1, rows, hidden.clone()))
                .collect(),
            patch: Some(Linear {
                weight: Lens::matrix(format!("{}.weight", self.patch), hidden.clone(), taps),
                bias: self
                    .patch_bias
                    .then(|| Lens::vector(format!("{}.bias", self.patch), hidden.clone())),
            }),
            norm: None,
        })
    }
}

/// A size that is one number or a list of two (height, width), such as `image_size`.
///
/// # Errors
/// If it is neither.
pub(in crate::model) fn pair_or(
    config: &Config,
    field: &str,
    default: (usize, usize),
) -> Result<(usize, usize)> {
    let Some(value @ Value::Array(list)) = config.get(field) else {
        return Ok(config.size_opt(field)?.map_or(default, |size| (size, size)));
    };
    let read = |v: &Value| v.as_u64().filter(|n| (1..1 << 20).contains(n)).map(|n| n as usize);
    let sizes = match list[..] {
        [ref height, ref width] => read(height).zip(read(width)),
        _ => None,
    };
    sizes.ok_or_else(|| config.wrong(field, "a size or a list of two sizes", value))
}

/// The side of a square that is written as one size or as a list of two.
///
/// # Errors
/// If it is no size, or no square.
pub(in crate::model) fn square(config: &Config, field: &str, default: usize) -> Result<usize> {
    match pair_or(config, field, (default, default))? {
        (height, width) if height == width => Ok(height),
        _ => Err(config.unsupported(field, "patches that are no squares are not implemented")),
    }
}

/// The number of classes: `num_labels`, or how many names `id2label` has; 2 where neither is there.
///
/// # Errors
/// If a field has no usable value, or there is no class.
pub(in crate::model) fn class_count(config: &Config) -> Result<usize> {
    if let Some(count) = config.size_opt("num_labels")? {
        return Ok(count);
    }
    match config.section("id2label")? {
        Some(labels) if !labels.json().is_empty() => Ok(labels.json().len()),
        Some(_) => Err(Error::bad_input("it names no class").at(config.origin()).field("id2label")),
        None => Ok(2),
    }
}

//! Qwen2: Llama with biases on queries, keys and values, and a sliding window in some layers.

use super::{Catalog, Family};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, Decoder, Defaults};
use crate::model::parts::windows::{
    layer_windows, leading_full_layers, set_layer_types, window_size,
};
use crate::model::*;

pub(super) static QWEN2: Family =
    Family { name: "qwen2", fields: decoder::FIELDS, describe, configure: configure_rotary };

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let defaults = Defaults { class: "Qwen2", kv_heads: Some(32), ..Defaults::LLAMA };
    let decoder = Decoder::read(config, catalog, &QWEN2, defaults)?;
    let windows = windows(config, decoder.sizes.layers)?;
    decoder.model(|layer| {
        let window = windows[layer.index];
        let attention = Attention { window, ..layer.attention((true, false)) };
        layer.pre_norm(attention, Op::Mlp(Box::new(layer.mlp(false))))
    })
}

/// The window of each layer: without `layer_types`, those from `max_window_layers` on have one, if
/// `use_sliding_window` says so.
///
/// # Errors
/// If a field is unusable.
pub(super) fn windows(config: &Config, layers: usize) -> Result<Vec<Option<Window>>> {
    let size = match config.flag_or("use_sliding_window", false)? {
        true => window_size(config, Some(4096))?,
        false => None,
    };
    let first = first_window(config)?;
    layer_windows(config, layers, size, |index| size.is_some() && index >= first)
}

/// The first layer with a window, where there is no list; it may lie behind the last layer.
fn first_window(config: &Config) -> Result<usize> {
    const FIELD: &str = "max_window_layers";
    let Some(value) = config.get(FIELD) else { return Ok(28) };
    let layers = value.as_u64().and_then(|layers| usize::try_from(layers).ok());
    layers.ok_or_else(|| config.wrong(FIELD, "a number of layers", value))
}

fn configure_rotary(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    decoder::grow_base(config, sizes, None, Defaults::LLAMA.rotary.theta);
    configure(config, sizes, layers);
}

/// Writes sizes, and which layers have a window as a list: layers between others move the rest.
pub(super) fn configure(config: &mut Config, sizes: &Sizes, layers: &[usize]) {
    // That a field cannot be read is said when the model is described.
    let first = first_window(config).unwrap_or(usize::MAX);
    // Even where no layer of the source slides, a new one might.
    let slides = config.flag_or("use_sliding_window", false).unwrap_or(false);
    if slides && !config.is_null("sliding_window") {
        set_layer_types(config, layers, |source| source >= first);
        // For readers that know no list.
        config.set("max_window_layers", leading_full_layers(config));
        decoder::set_sizes(config, &decoder::FIELDS, sizes);
    } else {
        decoder::configure(config, sizes, layers);
    }
}

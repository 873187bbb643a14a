//! Sliding windows of attention as configurations write them.

use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::Window;
use serde_json::Value;

const TYPES: &str = "layer_types";
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The window that all layers have; `default` where the field is absent, none where it is null.
///
/// # Errors
/// If the field is no size, or `layer_types` is there, which families with one window ignore.
pub(in crate::model) fn one_window(
    config: &Config,
    default: Option<usize>,
) -> Result<Option<Window>> {
    if config.get(TYPES).is_some() {
        let problem = "windows that differ by layer are not implemented for this family";
        return Err(config.unsupported(TYPES, problem));
    }
    let size = window_size(config, default)?;
    Ok(size.map(|size| Window { size, field: "sliding_window" }))
}

/// `sliding_window`: `default` where it is absent, none where it is null.
///
/// # Errors
/// If it is no size.
pub(in crate::model) fn window_size(
    config: &Config,
    default: Option<usize>,
) -> Result<Option<usize>> {
    let written = config.size_opt("sliding_window")?;
    Ok(written.or(default.filter(|_| !config.is_null("sliding_window"))))
}

/// The window of each of `count` layers: `size` where `layer_types`, or, if it is absent,
/// `slides`, says so.
///
/// # Errors
/// If `layer_types` is no list of that many known types, or a layer slides and there is no size.
pub(in crate::model) fn layer_windows(
    config: &Config,
    count: usize,
    size: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<Window>>> {
    let slides: Vec<bool> = match config.get(TYPES) {
        None => (0..count).map(slides).collect(),
        Some(value) => {
            let list = value.as_array().filter(|list| list.len() == count);
            let expected = format!("a list of {count} types, one for each layer");
            let list = list.ok_or_else(|| config.wrong(TYPES, &expected, value))?;
            list.iter().map(|kind| is_sliding(config, kind)).collect::<Result<_>>()?
        }
    };
    let window = size.map(|size| Window { size, field: TYPES });
    if window.is_none() && slides.contains(&true) {
        let problem = "a layer has a sliding window, but the configuration gives no size for it";
        let error = Error::bad_input(problem).at(config.origin()).field("sliding_window");
        return Err(error.help("set `sliding_window` (and `use_sliding_window`, if there is one)"));
    }
    Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
}

fn is_sliding(config: &Config, kind: &Value) -> Result<bool> {
    match kind.as_str() {
        Some(FULL) => Ok(false),
        Some(SLIDING) => Ok(true),
        Some(other) => {
            let problem = format!("layers of type `{other}` are not implemented");
            Err(config.unsupported(TYPES, problem))
        }
        None => Err(config.wrong(TYPES, "a list of names", kind)),
    }
}

/// Writes the type of each layer, where layer i is or copies the source's layer `layers[i]`;
/// `slides` says what the source's layers are if it has no list.
pub(in crate::model) fn set_layer_types(
    config: &mut Config,
    layers: &[usize],
    slides: impl Fn(usize) -> bool,
) {
    let written = config.get(TYPES).and_then(Value::as_array).cloned();
    let kind = |source: &usize| match &written {
        Some(list) => list.get(*source).cloned().unwrap_or_else(|| FULL.into()),
        None => if slides(*source) { SLIDING } else { FULL }.into(),
    };
    let types: Vec<Value> = layers.iter().map(kind).collect();
    config.set(TYPES, types);
}

/// How many layers of the list are in front of the first with a window.
pub(in crate::model) fn leading_full_layers(config: &Config) -> usize {
    let list = config.get(TYPES).and_then(Value::as_array);
    list.map_or(0, |list| list.iter().take_while(|kind| *kind == FULL).count())
}

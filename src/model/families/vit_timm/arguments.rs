//! The arguments with which timm builds a model: those of an architecture of its registry and,
//! over them, `model_args`.

use crate::checkpoint::Config;
use crate::error::Result;
use serde_json::{Map, Value};

/// One architecture per line: name, pixels per side, pixels per side of a patch, width, depth,
/// heads, then the other arguments as JSON (`eps` for the `LayerNorm` that timm passes, `distilled`
/// for the class `VisionTransformerDistilled`). Taken from timm 1.0.31: those of
/// `vision_transformer.py` and `deit.py` whose arguments are implemented here.
const TABLE: &str = include_str!("architectures.txt");

/// The arguments with which timm builds the architecture that `config` names; a tag behind a dot
/// (`vit_tiny_patch16_224.augreg_in21k`) says which weights, not which model.
///
/// # Errors
/// If the architecture is not in the table.
fn architecture(config: &Config) -> Result<Map<String, Value>> {
    let name = config.word_or("architecture", "")?;
    let plain = name.split('.').next().unwrap_or(name);
    TABLE.lines().find_map(|line| read(line, plain)).ok_or_else(|| {
        let problem = format!("the architecture `{name}` is not implemented");
        config.unsupported("architecture", problem).help(
            "implemented are timm's vit_<size>_patch<n>_<pixels>, deit_… and deit3_… with token \
             or average pooling, ordinary attention and MLP",
        )
    })
}

/// The arguments that a line holds, if it is that of the architecture `name`.
fn read(line: &str, name: &str) -> Option<Map<String, Value>> {
    let mut words = line.strip_prefix(name)?.strip_prefix(' ')?.splitn(6, ' ');
    let mut sizes = Map::new();
    for field in ["img_size", "patch_size", "embed_dim", "depth", "num_heads"] {
        sizes.insert(field.into(), words.next()?.parse::<usize>().ok()?.into());
    }
    let others: Map<String, Value> = serde_json::from_str(words.next()?).ok()?;
    sizes.extend(others);
    Some(sizes)
}

/// Arguments that are read, and (from `drop_rate` on) those that change nothing in inference.
const KNOWN: [&str; 31] = [
    "img_size",
    "patch_size",
    "in_chans",
    "num_classes",
    "global_pool",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "qkv_bias",
    "qk_norm",
    "proj_bias",
    "init_values",
    "class_token",
    "pos_embed",
    "no_embed_class",
    "reg_tokens",
    "pre_norm",
    "final_norm",
    "fc_norm",
    "pool_include_prefix",
    "act_layer",
    "dynamic_img_size",
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "weight_init",
    "fix_init",
];

/// Arguments that are not implemented, and say nothing where they are null or false.
const NOT_IMPLEMENTED: [&str; 7] = [
    "scale_attn_norm",
    "scale_mlp_norm",
    "dynamic_img_pad",
    "embed_norm_layer",
    "embed_layer",
    "mlp_layer",
    "attn_layer",
];

/// Arguments for which null is a value: no scales, the pooling's own norm, the usual activation.
const NULLABLE: [&str; 3] = ["init_values", "fc_norm", "act_layer"];

/// The architecture's arguments with those of `model_args` over them, as timm merges them.
///
/// # Errors
/// If the architecture or an argument is not implemented.
pub(super) fn arguments(config: &Config) -> Result<Config> {
    let mut all = architecture(config)?;
    // The size of the images goes with the weights where no argument says it.
    let pretrained = config.section("pretrained_cfg")?;
    let size = pretrained.as_ref().and_then(|p| p.get("input_size")).and_then(Value::as_array);
    if let Some([channels, height, width]) = size.map(Vec::as_slice) {
        all.insert("in_chans".into(), channels.clone());
        all.insert("img_size".into(), vec![height.clone(), width.clone()].into());
    }
    let classes = [Some(config), pretrained.as_ref()];
    let classes = classes.iter().flatten().find_map(|section| section.get("num_classes"));
    all.insert("num_classes".into(), classes.cloned().unwrap_or(1000.into()));
    let given = config.section("model_args")?.map_or(Map::new(), |given| given.json().clone());
    for (name, value) in given {
        let is_in = |list: &[&str]| list.contains(&name.as_str());
        let off = matches!(value, Value::Null | Value::Bool(false));
        if is_in(&NOT_IMPLEMENTED) && off {
            continue;
        }
        let known = is_in(&KNOWN);
        if !known || (value.is_null() && !is_in(&NULLABLE)) {
            let field = format!("model_args.{name}");
            return Err(config.unsupported(&field, "this setting is not implemented"));
        }
        all.insert(name, value);
    }
    Ok(Config::new(config.origin(), all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_can_be_read_and_is_found_by_its_name() {
        assert!(TABLE.lines().count() > 100);
        for line in TABLE.lines() {
            let name = line.split(' ').next().unwrap();
            let mut config = Config::new("config.json", Map::new());
            config.set("architecture", format!("{name}.some_tag"));
            let found = architecture(&config).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(Some(&found), read(line, name).as_ref(), "{line}: the name is there twice");
        }
    }
}

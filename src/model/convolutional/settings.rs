//! The configuration of a ResNet, read.

use super::{ConvSizes, StageSizes};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::{class_count, is_architecture, refuse_quantised};
use serde_json::Value;

/// torchvision's names: blocks per stage, whether they are bottlenecks, width per group.
const ARCHITECTURES: [(&str, [usize; 4], bool, usize); 7] = [
    ("resnet18", [2, 2, 2, 2], false, 64),
    ("resnet34", [3, 4, 6, 3], false, 64),
    ("resnet50", [3, 4, 6, 3], true, 64),
    ("resnet101", [3, 4, 23, 3], true, 64),
    ("resnet152", [3, 8, 36, 3], true, 64),
    ("wide_resnet50_2", [3, 4, 6, 3], true, 128),
    ("wide_resnet101_2", [3, 4, 23, 3], true, 128),
];

/// Arguments of timm's and torchvision's ResNets and of Hugging Face's that change what is
/// computed, and the values, in lower case, under which it is what [`super::ConvNet`] says. What
/// only training reads (`zero_init_residual`, `drop_path_rate`) is not here, nor what follows from
/// the shapes of the tensors; `stem_width` counts only in stems of other types.
const FIXED: [(&str, &[&str]); 22] = [
    ("aa_layer", &[""]),
    ("act_layer", &["relu"]),
    ("attn_layer", &[""]),
    ("avg_down", &["false"]),
    ("base_width", &["64"]),
    ("block", &[]),
    ("block_args", &["{}"]),
    ("block_reduce_first", &["1"]),
    ("cardinality", &["1"]),
    ("channels", &[]),
    ("dilation", &["1"]),
    ("down_kernel_size", &["1"]),
    ("global_pool", &["avg"]),
    ("groups", &["1"]),
    ("hidden_act", &["relu"]),
    ("layers", &[]),
    ("model_args", &["{}"]),
    ("norm_layer", &["batchnorm", "batchnorm2d"]),
    ("output_stride", &["32"]),
    ("replace_stem_pool", &["false"]),
    ("replace_stride_with_dilation", &["false", "[false,false,false]"]),
    ("stem_type", &[""]),
];

/// Hugging Face's class with a head.
const CLASS: &str = "ResNetForImageClassification";

/// More stages, or blocks in a stage, than any network has.
const LIMIT: usize = 1 << 12;

/// Whether a configuration is that of a convolutional network.
pub fn is_convolutional(config: &Config) -> bool {
    let says = |field: &str| config.get(field).and_then(Value::as_str);
    match says("model_type") {
        Some(family) => family == "resnet",
        None => says("architecture").is_some_and(|name| architecture(name).is_some()),
    }
}

fn architecture(name: &str) -> Option<&'static (&'static str, [usize; 4], bool, usize)> {
    let plain = name.split('.').next().unwrap_or(name);
    ARCHITECTURES.iter().find(|row| row.0 == plain)
}

/// The configuration, read.
pub(super) struct Settings {
    pub colours: usize,
    pub classes: usize,
    pub sizes: ConvSizes,
    pub bottleneck: bool,
    /// The stride of the first stage; that of the others is 2.
    pub first_stage_stride: usize,
    /// Whether a stage's first block has its stride in its first convolution.
    pub stride_in_first: bool,
    /// torchvision's `width_per_group`.
    pub group_width: usize,
}

impl Settings {
    pub fn read(config: &Config) -> Result<Settings> {
        refuse_quantised(config)?;
        refuse_others(config)?;
        let row = config.get("architecture").and_then(Value::as_str).and_then(architecture);
        let bottleneck = match config.word_or("layer_type", "")? {
            "bottleneck" => true,
            "basic" => false,
            "" => row.is_none_or(|row| row.2),
            other => {
                let problem = format!("layers of type `{other}` are not implemented");
                return Err(config.unsupported("layer_type", problem));
            }
        };
        let factor = if bottleneck { 4 } else { 1 };
        let outer = list(config, "hidden_sizes", &[64, 128, 256, 512].map(|n| n * factor))?;
        let depths = list(config, "depths", &row.map_or([3, 4, 6, 3], |row| row.1))?;
        let deep = depths.iter().find(|depth| **depth > LIMIT);
        if outer.len() != depths.len() || outer.len() > LIMIT || deep.is_some() {
            let problem = format!("{} depths for {} hidden_sizes", depths.len(), outer.len());
            return Err(Error::bad_input(problem).at(config.origin()).field("depths"));
        }
        let group_width = config.size_or("width_per_group", row.map_or(64, |row| row.3))?;
        let inner = |outer: usize| match bottleneck {
            true => ((outer / 4) as f64 * group_width as f64 / 64.0) as usize,
            false => outer,
        };
        let stage = |(outer, blocks): (&usize, &usize)| StageSizes {
            outer: *outer,
            inner: inner(*outer),
            blocks: *blocks,
        };
        let stages: Vec<StageSizes> = outer.iter().zip(&depths).map(stage).collect();
        if stages.iter().any(|stage| stage.inner == 0) {
            let problem = "it leaves no channel inside a bottleneck, which has a quarter of them";
            return Err(Error::bad_input(problem).at(config.origin()).field("hidden_sizes"));
        }
        let strided = config.flag_or("downsample_in_first_stage", false)?;
        Ok(Settings {
            colours: config.size_or("num_channels", 3)?,
            classes: match config.size_opt("num_classes")? {
                Some(classes) => classes,
                None if row.is_some() => 1000,
                None => class_count(config)?,
            },
            sizes: ConvSizes { stem: config.size_or("embedding_size", 64)?, stages },
            bottleneck,
            first_stage_stride: if strided { 2 } else { 1 },
            stride_in_first: config.flag_or("downsample_in_bottleneck", false)? || !bottleneck,
            group_width,
        })
    }
}

/// Refuses settings under which the network computes something else.
fn refuse_others(config: &Config) -> Result<()> {
    for (field, usual) in FIXED {
        let Some(value) = config.get(field) else { continue };
        let text = value.as_str().map_or(value.to_string(), str::to_lowercase);
        if !usual.contains(&text.as_str()) {
            let problem = format!("a ResNet with `{field}` {value} is not implemented");
            let known: Vec<&str> = usual.iter().copied().filter(|text| !text.is_empty()).collect();
            let error = config.unsupported(field, problem);
            return Err(match known.as_slice() {
                [] => error.help("only a ResNet without it is implemented"),
                known => error.help(format!("implemented: {}", known.join(", "))),
            });
        }
    }
    match config.get("architectures") {
        None => Ok(()),
        Some(_) if is_architecture(config, CLASS)? => Ok(()),
        Some(_) => {
            let problem = format!("of Hugging Face's ResNets only {CLASS} is implemented");
            Err(config.unsupported("architectures", problem))
        }
    }
}

/// A list of sizes.
fn list(config: &Config, field: &str, default: &[usize]) -> Result<Vec<usize>> {
    let Some(value) = config.get(field) else { return Ok(default.to_vec()) };
    let size = |v: &Value| v.as_u64().filter(|n| (1..1 << 24).contains(n)).map(|n| n as usize);
    let sizes = value.as_array().and_then(|list| list.iter().map(size).collect());
    sizes
        .filter(|sizes: &Vec<usize>| !sizes.is_empty())
        .ok_or_else(|| config.wrong(field, "a list of sizes", value))
}

/// Writes sizes into a configuration: what must change when a network is expanded. The channels
/// inside bottlenecks follow from those outside.
pub fn configure_convnet(config: &mut Config, sizes: &ConvSizes) {
    let list = |size: fn(&StageSizes) -> usize| sizes.stages.iter().map(size).collect::<Vec<_>>();
    config.set("embedding_size", sizes.stem);
    config.set("hidden_sizes", list(|stage| stage.outer));
    config.set("depths", list(|stage| stage.blocks));
}

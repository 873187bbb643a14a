//! From a configuration and tensor names to a [`ConvNet`].

use super::{BatchNorm, Block, ConvNet, ConvSizes, Convolution, StageSizes};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::model::{Catalog, Dim, Lens, Linear, class_count};
use serde_json::Value;

/// ε in torch's `BatchNorm2d`, which no configuration changes.
const EPS: f64 = 1e-5;

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
struct Settings {
    colours: usize,
    classes: usize,
    sizes: ConvSizes,
    bottleneck: bool,
    /// Strides of the first and of the second convolution of a stage's first block.
    first_stage_stride: usize,
    stride_in_first: bool,
    /// torchvision's `width_per_group`.
    group_width: usize,
}

impl Settings {
    fn read(config: &Config) -> Result<Settings> {
        let row = config.get("architecture").and_then(Value::as_str).and_then(architecture);
        for field in ["model_args", "groups", "replace_stride_with_dilation"] {
            if config.get(field).is_some_and(|value| value.as_i64() != Some(1)) {
                return Err(config.unsupported(field, "this setting is not implemented"));
            }
        }
        let act = config.word_or("hidden_act", "relu")?;
        if act != "relu" {
            let problem = format!("a ResNet with the activation `{act}` is not implemented");
            return Err(config.unsupported("hidden_act", problem));
        }
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

/// Describes the network in `checkpoint` and checks that every tensor it needs is there in the
/// shape that the configuration says.
///
/// # Errors
/// If a field is not implemented or has no usable value, or a tensor is missing or has another
/// shape.
pub fn describe_convnet(checkpoint: &Checkpoint) -> Result<ConvNet> {
    let described = || {
        let net = convnet_of(checkpoint.config(), &Catalog::of(checkpoint))?;
        net.lenses().into_iter().try_for_each(|lens| lens.check(checkpoint).map(|_| ()))?;
        Ok(net)
    };
    described().map_err(|e: Error| e.at(checkpoint.path()))
}

/// Describes the network of a configuration, given which tensors are stored; their shapes are not
/// checked.
///
/// # Errors
/// If a field is not implemented or has no usable value, or the names are of neither kind.
pub fn convnet_of(config: &Config, catalog: &Catalog) -> Result<ConvNet> {
    let settings = Settings::read(config)?;
    let names = Names::of(catalog)?;
    if !matches!(names, Names::Torchvision) && settings.group_width != 64 {
        let problem = "this is an argument of torchvision's, and the names are Hugging Face's";
        return Err(config.unsupported("width_per_group", problem));
    }
    let stem = Dim::new(settings.sizes.stem, "embedding_size");
    let colours = Dim::new(settings.colours, "num_channels");
    let mut read = stem.clone();
    let mut stages = Vec::new();
    for (index, sizes) in settings.sizes.stages.iter().enumerate() {
        let outer = Dim::new(sizes.outer, format!("hidden_sizes[{index}]"));
        let blocks = (0..sizes.blocks).map(|block| {
            let read = if block == 0 { &read } else { &outer };
            names.block(&settings, (index, block), read, &outer)
        });
        stages.push(blocks.collect());
        read = outer;
    }
    let classes = Dim::new(settings.classes, "number of classes");
    Ok(ConvNet {
        colours: settings.colours,
        stem: convolution(names.stem(), &stem, &colours, (7, 2)),
        stages,
        head: Linear::named(names.head(), &classes, &read, true),
        buffers: catalog.ending_in(&[".num_batches_tracked"]),
        sizes: settings.sizes,
    })
}

/// The convolution and BatchNorm of these names, with kernel and stride in pixels.
fn convolution(
    (name, norm): (String, String),
    outputs: &Dim,
    inputs: &Dim,
    (kernel, stride): (usize, usize),
) -> Convolution {
    let side = Dim::new(kernel, kernel.to_string());
    let vector = |part: &str| Lens::vector(format!("{norm}.{part}"), outputs.clone());
    let taps = [inputs.clone(), side.clone(), side];
    Convolution {
        weight: Lens::matrix(format!("{name}.weight"), outputs.clone(), taps),
        kernel,
        stride,
        norm: BatchNorm {
            weight: vector("weight"),
            bias: vector("bias"),
            mean: vector("running_mean"),
            variance: vector("running_var"),
            eps: EPS,
        },
    }
}

/// How the tensors are called.
enum Names {
    /// `layer1.0.conv1.weight`.
    Torchvision,
    /// `resnet.encoder.stages.0.layers.0.layer.0.convolution.weight`, with this prefix.
    HuggingFace(&'static str),
}

impl Names {
    fn of(catalog: &Catalog) -> Result<Names> {
        if catalog.has("conv1.weight") {
            return Ok(Names::Torchvision);
        }
        let prefix = catalog.prefix(&["resnet.", ""], "embedder.embedder.convolution.weight")?;
        Ok(Names::HuggingFace(prefix))
    }

    fn stem(&self) -> (String, String) {
        match self {
            Names::Torchvision => ("conv1".into(), "bn1".into()),
            Names::HuggingFace(prefix) => pair(&format!("{prefix}embedder.embedder")),
        }
    }

    fn head(&self) -> &'static str {
        match self {
            Names::Torchvision => "fc",
            Names::HuggingFace(_) => "classifier.1",
        }
    }

    /// Convolution `index` of a block; the shortcut where there is no index.
    fn convolution(
        &self,
        (stage, block): (usize, usize),
        index: Option<usize>,
    ) -> (String, String) {
        match (self, index) {
            (Names::Torchvision, Some(index)) => {
                let name = format!("layer{}.{block}", stage + 1);
                (format!("{name}.conv{}", index + 1), format!("{name}.bn{}", index + 1))
            }
            (Names::Torchvision, None) => {
                let name = format!("layer{}.{block}.downsample", stage + 1);
                (format!("{name}.0"), format!("{name}.1"))
            }
            (Names::HuggingFace(prefix), index) => {
                let name = format!("{prefix}encoder.stages.{stage}.layers.{block}");
                match index {
                    Some(index) => pair(&format!("{name}.layer.{index}")),
                    None => pair(&format!("{name}.shortcut")),
                }
            }
        }
    }

    fn block(
        &self,
        settings: &Settings,
        (stage, block): (usize, usize),
        read: &Dim,
        outer: &Dim,
    ) -> Block {
        let first = block == 0;
        let stride = match (first, stage) {
            (false, _) => 1,
            (true, 0) => settings.first_stage_stride,
            (true, _) => 2,
        };
        let sizes = &settings.sizes.stages[stage];
        let inner = Dim::new(sizes.inner, format!("hidden_sizes[{stage}]/4·width_per_group/64"));
        let strides = if settings.stride_in_first { [stride, 1] } else { [1, stride] };
        let shapes = match settings.bottleneck {
            true => vec![
                (read, &inner, 1, strides[0]),
                (&inner, &inner, 3, strides[1]),
                (&inner, outer, 1, 1),
            ],
            false => vec![(read, outer, 3, strides[0]), (outer, outer, 3, strides[1])],
        };
        let at = (stage, block);
        let one = |(index, (read, written, kernel, stride)): (usize, (&Dim, &Dim, _, _))| {
            convolution(self.convolution(at, Some(index)), written, read, (kernel, stride))
        };
        let projected = stride != 1 || read.size != outer.size;
        Block {
            convolutions: shapes.into_iter().enumerate().map(one).collect(),
            shortcut: projected
                .then(|| convolution(self.convolution(at, None), outer, read, (1, stride))),
        }
    }
}

/// Hugging Face's names of a convolution and its norm.
fn pair(name: &str) -> (String, String) {
    (format!("{name}.convolution"), format!("{name}.normalization"))
}

//! From a configuration and tensor names to a [`ConvNet`].

use super::settings::Settings;
use super::{BatchNorm, Block, ConvNet, Convolution};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::model::{Catalog, Dim, Lens, Linear};

/// ε in torch's `BatchNorm2d`, which no configuration changes.
const EPS: f64 = 1e-5;

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

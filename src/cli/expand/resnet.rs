//! The sizes of a ResNet, which has others than a Transformer.

use super::Done;
use crate::checkpoint::Checkpoint;
use crate::error::{Class, Error, Result};
use crate::expand::{ConvTarget, Options, Target, expand_convnet};
use crate::model::convolutional::{ConvSizes, StageSizes, describe_convnet};
use clap::Args;

#[derive(Args)]
pub(super) struct ResnetArguments {
    /// ResNet: channels of the stem [default: the source's]
    #[arg(long, value_name = "N")]
    embedding_size: Option<usize>,
    /// ResNet: channels of each stage; those inside its bottlenecks follow [default: the source's]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    hidden_sizes: Option<Vec<usize>>,
    /// ResNet: blocks of each stage; new ones come last [default: the source's]
    #[arg(long, value_name = "N,N,...", value_delimiter = ',')]
    depths: Option<Vec<usize>>,
}

impl ResnetArguments {
    /// Refuses sizes of a ResNet for a Transformer.
    ///
    /// # Errors
    /// Of wrong usage, naming the sizes that it has instead.
    pub fn refuse(&self) -> Result<()> {
        if self.embedding_size.is_none() && self.hidden_sizes.is_none() && self.depths.is_none() {
            return Ok(());
        }
        let problem = "--embedding-size, --hidden-sizes and --depths are sizes of a ResNet, and \
                       the source is none";
        Err(Error::new(Class::Usage, problem)
            .help("use --hidden-size, --intermediate-size, --num-hidden-layers and the like"))
    }

    /// Expands a ResNet, for which `other` must ask nothing.
    ///
    /// # Errors
    /// Of wrong usage if `other` asks for a size; else as [`expand_convnet`].
    pub fn expand(self, source: &Checkpoint, other: &Target, options: &Options) -> Result<Done> {
        if *other != Target::default() {
            let problem = "the source is a ResNet, which has other sizes than a Transformer";
            return Err(Error::new(Class::Usage, problem)
                .at(source.path())
                .help("use --embedding-size, --hidden-sizes and --depths"));
        }
        let target = ConvTarget {
            stem: self.embedding_size,
            stages: self.hidden_sizes,
            blocks: self.depths,
        };
        let net = describe_convnet(source)?;
        let checkpoint = expand_convnet(source, &net, &target, options)?;
        let large = describe_convnet(&checkpoint)?;
        let changes = changes(&net.sizes, &large.sizes);
        Ok(Done { changes, checkpoint, limits: Vec::new() })
    }
}

/// What changed, in words: `stem 64 → 96, channels 256, 512 → 384, 768`.
fn changes(small: &ConvSizes, large: &ConvSizes) -> Vec<String> {
    let each = |sizes: &ConvSizes, size: fn(&StageSizes) -> usize| {
        let words: Vec<String> = sizes.stages.iter().map(|s| size(s).to_string()).collect();
        words.join(", ")
    };
    let lines = [
        ("stem", small.stem.to_string(), large.stem.to_string()),
        ("channels", each(small, |s| s.outer), each(large, |s| s.outer)),
        ("inside", each(small, |s| s.inner), each(large, |s| s.inner)),
        ("blocks", each(small, |s| s.blocks), each(large, |s| s.blocks)),
    ];
    let changed = lines.into_iter().filter(|(_, from, to)| from != to);
    changed.map(|(name, from, to)| format!("{name} {from} → {to}")).collect()
}

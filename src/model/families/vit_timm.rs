//! ViT and DeiT as timm has them: fused `[Q|K|V]`; the configuration names an architecture and
//! changes it by `model_args`. ε is not stored: timm's code says 1e-6, and 1e-5 for CLIP's models.
//!
//! Names: `blocks.0.attn.qkv.weight`.

mod arguments;
mod pooling;
mod settings;

use super::deit::with_their_mean;
use super::{Catalog, Family, Fields};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::*;
use pooling::{LastNorm, Pool};
use serde_json::{Map, Value};
use settings::Settings;

pub(super) static VIT_TIMM: Family = Family {
    name: "vit_timm",
    fields: Fields {
        hidden: "model_args.embed_dim",
        heads: "model_args.num_heads",
        intermediate: "model_args.mlp_ratio",
        layers: "model_args.depth",
        kv_heads: None,
        head_dim: None,
        norm_eps: None,
    },
    describe,
    configure,
};

fn configure(config: &mut Config, sizes: &Sizes, _: &[usize]) {
    let mut arguments = match config.get("model_args") {
        Some(Value::Object(arguments)) => arguments.clone(),
        _ => Map::new(),
    };
    // timm computes int(embed_dim · mlp_ratio), which truncates.
    let hidden = sizes.hidden as f64;
    let ratio = sizes.intermediate as f64 / hidden;
    let exact = (hidden * ratio) as usize == sizes.intermediate;
    let ratio = if exact { ratio } else { (sizes.intermediate as f64 + 0.5) / hidden };
    arguments.insert("embed_dim".into(), sizes.hidden.into());
    arguments.insert("depth".into(), sizes.layers.into());
    arguments.insert("num_heads".into(), sizes.heads.into());
    arguments.insert("mlp_ratio".into(), ratio.into());
    config.set("model_args", arguments);
    config.set("num_features", sizes.hidden);
}

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let settings = Settings::read(config)?;
    catalog.prefix(&[""], "blocks.0.attn.qkv.weight")?;
    let names = Names {
        hidden: Dim::new(settings.sizes.hidden, "embed_dim"),
        inner: Dim::new(settings.sizes.intermediate, "embed_dim·mlp_ratio"),
        head: Dim::new(settings.sizes.head_dim, "embed_dim/num_heads"),
        settings: &settings,
    };
    Ok(Model {
        family: &VIT_TIMM,
        embedding: names.embedding(config)?,
        layers: (0..settings.sizes.layers).map(|index| names.layer(index)).collect(),
        encoder: None,
        outputs: names.outputs(),
        aliases: Vec::new(),
        buffers: Vec::new(),
        sizes: settings.sizes,
    })
}

/// What all parts of the description need.
struct Names<'a> {
    hidden: Dim,
    inner: Dim,
    head: Dim,
    settings: &'a Settings,
}

impl Names<'_> {
    fn norm(&self, name: &str) -> Norm {
        Norm::layer(name, &self.hidden, self.settings.eps, None)
    }

    fn embedding(&self, config: &Config) -> Result<Embedding> {
        let settings = self.settings;
        let tokens = [
            ("cls_token", usize::from(settings.class_token)),
            ("dist_token", usize::from(settings.distilled)),
            ("reg_token", settings.registers),
        ];
        let tokens = tokens.into_iter().filter(|(_, rows)| *rows > 0);
        let embedding = ImageNames {
            prefix: tokens.map(|(name, n)| (name.into(), Dim::new(n, "reg_tokens"))).collect(),
            positions: settings.positions.then(|| "pos_embed".into()),
            prefix_positions: settings.prefix_positions,
            patch: "patch_embed.proj".into(),
            patch_bias: !settings.first_norm,
        }
        .embedding(config, &self.hidden, &settings.image)?;
        Ok(Embedding { norm: settings.first_norm.then(|| self.norm("norm_pre")), ..embedding })
    }

    fn layer(&self, index: usize) -> Vec<Sublayer> {
        let name = |which: &str| format!("blocks.{index}.{which}");
        let ops = [self.attention(&name("attn")), self.mlp(&name("mlp"))];
        let behind = self.settings.norms_behind;
        let sublayer = |(op, which): (Op, usize)| {
            let norm = Some(self.norm(&name(&format!("norm{which}"))));
            let gamma = name(&format!("ls{which}.gamma"));
            let scaled = self.settings.layer_scale && !behind;
            let (norm, post_norm) = if behind { (None, norm) } else { (norm, None) };
            let scale = scaled.then(|| Lens::vector(gamma, self.hidden.clone()));
            Sublayer { branches: vec![Branch { norm, op, post_norm, scale }], post_norm: None }
        };
        ops.into_iter().zip(1..).map(sublayer).collect()
    }

    fn attention(&self, name: &str) -> Op {
        let (settings, hidden) = (self.settings, &self.hidden);
        let qkv = format!("{name}.qkv");
        let fused = Linear::named(&qkv, &hidden.times(3), hidden, settings.qkv_bias);
        let output = format!("{name}.proj");
        let projections = [
            fused.rows(0, hidden.size),
            fused.rows(hidden.size, hidden.size),
            fused.rows(2 * hidden.size, hidden.size),
            Linear::named(&output, hidden, hidden, settings.other_biases),
        ];
        let norm = |which: &str| {
            Norm::layer(&format!("{name}.{which}_norm"), &self.head, settings.eps, None)
        };
        let norms = || Box::new(HeadNorms { query: norm("q"), key: norm("k") });
        Op::Attention(Box::new(Attention {
            head_norms: settings.head_norms.then(norms),
            ..Attention::plain(projections, settings.sizes.heads, settings.sizes.head_dim)
        }))
    }

    fn mlp(&self, name: &str) -> Op {
        let biased = self.settings.other_biases;
        Op::Mlp(Box::new(Mlp {
            up: Linear::named(&format!("{name}.fc1"), &self.inner, &self.hidden, biased),
            gate: None,
            down: Linear::named(&format!("{name}.fc2"), &self.hidden, &self.inner, biased),
            activation: self.settings.activation,
        }))
    }

    /// The logits, or the pooled features of a model without a head. A distilled model has two
    /// heads, which timm trains one by one; else it returns the mean of their logits.
    fn outputs(&self) -> Vec<Output> {
        let settings = self.settings;
        let front = usize::from(settings.class_token) + settings.registers;
        let pooled = match settings.pool {
            Pool::Token => Step::Position(0),
            Pool::Patches => Step::MeanFrom(front),
            Pool::All => Step::MeanFrom(0),
        };
        let features = match settings.last_norm {
            LastNorm::Stream => vec![Step::Norm(self.norm("norm")), pooled],
            LastNorm::Pooled => vec![pooled, Step::Norm(self.norm("fc_norm"))],
            LastNorm::Nowhere => vec![pooled],
        };
        let Some(classes) = settings.classes else {
            return vec![Output { name: "features", steps: features, fixed: false }];
        };
        let classes = Dim::new(classes, "num_classes");
        let head = |name: &str| Step::Linear(Linear::named(name, &classes, &self.hidden, true));
        if settings.distilled {
            let output = |name, layer, position| {
                let norm = Step::Norm(self.norm("norm"));
                let steps = vec![norm, Step::Position(position), head(layer)];
                Output { name, steps, fixed: true }
            };
            return with_their_mean(
                output("cls_logits", "head", 0),
                output("distillation_logits", "head_dist", 1),
            );
        }
        let steps = features.into_iter().chain([head("head")]).collect();
        vec![Output { name: "logits", steps, fixed: true }]
    }
}

//! ViT as timm has it: fused `[Q|K|V]`; the configuration names an architecture and changes it by
//! `model_args`. ε is not stored: timm's code says 1e-6.
//!
//! Names: `blocks.0.attn.qkv.weight`.

use super::{Catalog, Family, Fields};
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::*;
use serde_json::{Map, Value};

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

/// ε in timm's `VisionTransformer`.
const NORM_EPS: f64 = 1e-6;

/// Width, depth and heads of the plain architectures `vit_<size>_patch<p>_<pixels>`.
const ARCHITECTURES: [(&str, usize, usize, usize); 6] = [
    ("tiny", 192, 12, 3),
    ("small", 384, 12, 6),
    ("medium", 512, 12, 8),
    ("base", 768, 12, 12),
    ("large", 1024, 24, 16),
    ("huge", 1280, 32, 16),
];

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

/// Settings of `model_args` that are read here, or change nothing that is computed in inference.
const KNOWN_ARGUMENTS: [&str; 16] = [
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
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
];

/// The numbers in an architecture's name.
struct Architecture {
    hidden: usize,
    layers: usize,
    heads: usize,
    patch: usize,
    pixels: usize,
}

fn architecture(config: &Config) -> Result<Architecture> {
    let name = config.word_or("architecture", "")?;
    let plain = name.split('.').next().unwrap_or(name);
    let parts: Vec<&str> = plain.split('_').collect();
    let parsed = match parts[..] {
        ["vit", size, patch, pixels] => ARCHITECTURES
            .iter()
            .find(|row| row.0 == size)
            .zip(patch.strip_prefix("patch").and_then(|p| p.parse().ok()))
            .zip(pixels.parse().ok()),
        _ => None,
    };
    let Some((((_, hidden, layers, heads), patch), pixels)) = parsed else {
        let problem = format!("the architecture `{name}` is not implemented");
        return Err(config
            .unsupported("architecture", problem)
            .help("implemented are vit_<tiny|small|medium|base|large|huge>_patch<n>_<pixels>"));
    };
    Ok(Architecture { hidden: *hidden, layers: *layers, heads: *heads, patch, pixels })
}

/// A size that is one number or a list of two, such as `img_size`.
fn pair(config: &Config, field: &str, default: usize) -> Result<(usize, usize)> {
    let Some(Value::Array(list)) = config.get(field) else {
        let size = config.size_or(field, default)?;
        return Ok((size, size));
    };
    match list[..] {
        [ref height, ref width] => {
            let read = |v: &Value| v.as_u64().filter(|n| (1..1 << 20).contains(n));
            let sizes = read(height).zip(read(width));
            sizes.map(|(h, w)| (h as usize, w as usize))
        }
        _ => None,
    }
    .ok_or_else(|| config.wrong(field, "a size or a list of two sizes", &list.clone().into()))
}

fn describe(config: &Config, catalog: &Catalog) -> Result<Model> {
    let plain = architecture(config)?;
    let arguments =
        config.section("model_args")?.unwrap_or_else(|| Config::new(config.origin(), Map::new()));
    if let Some(strange) = arguments.json().keys().find(|k| !KNOWN_ARGUMENTS.contains(&k.as_str()))
    {
        let field = format!("model_args.{strange}");
        return Err(config.unsupported(&field, "this setting is not implemented"));
    }
    for section in [config, &arguments] {
        let pool = section.word_or("global_pool", "token")?;
        if pool != "token" {
            let problem = format!("pooling of type `{pool}` is not implemented");
            return Err(config.unsupported("global_pool", problem));
        }
    }
    let hidden = Dim::new(arguments.size_or("embed_dim", plain.hidden)?, "model_args.embed_dim");
    let heads = arguments.size_or("num_heads", plain.heads)?;
    let ratio = arguments.positive_or("mlp_ratio", 4.0)?;
    let inner = Dim::new((hidden.size as f64 * ratio) as usize, "embed_dim·mlp_ratio");
    if inner.size == 0 {
        return Err(Error::bad_input("it leaves no neuron")
            .at(config.origin())
            .field("model_args.mlp_ratio"));
    }
    let head_dim = head_size(config, hidden.size, heads, "model_args.num_heads")?;
    let sizes = Sizes {
        hidden: hidden.size,
        heads,
        kv_heads: heads,
        head_dim,
        intermediate: inner.size,
        layers: match arguments.get("depth") {
            Some(_) => arguments.layers("depth")?,
            None => plain.layers,
        },
        experts: None,
        norm_eps: None,
    };
    let pixels = pair(&arguments, "img_size", plain.pixels)?;
    let patch = pair(&arguments, "patch_size", plain.patch)?;
    if patch.0 != patch.1 {
        let problem = "patches that are no squares are not implemented";
        return Err(config.unsupported("model_args.patch_size", problem));
    }
    let channels = arguments.size_or("in_chans", 3)?;
    let default_classes = config.size_or("num_classes", 1000)?;
    let classes = Dim::new(arguments.size_or("num_classes", default_classes)?, "num_classes");
    let biased = arguments.flag_or("qkv_bias", true)?;
    let norm = |name: &str| Norm::layer(name, &hidden, NORM_EPS, None);
    let layer = |index: usize| {
        let name = format!("blocks.{index}");
        let part = |which: &str, output: &Dim, input: &Dim, bias: bool| {
            Linear::named(&format!("{name}.{which}"), output, input, bias)
        };
        let fused = part("attn.qkv", &hidden.times(3), &hidden, biased);
        let projections = [
            fused.rows(0, hidden.size),
            fused.rows(hidden.size, hidden.size),
            fused.rows(2 * hidden.size, hidden.size),
            part("attn.proj", &hidden, &hidden, true),
        ];
        let attention = Attention::plain(projections, heads, head_dim);
        let mlp = Mlp {
            up: part("mlp.fc1", &inner, &hidden, true),
            gate: None,
            down: part("mlp.fc2", &hidden, &inner, true),
            activation: Activation::GeluErf,
        };
        vec![
            Sublayer::pre_norm(norm(&format!("{name}.norm1")), Op::Attention(Box::new(attention))),
            Sublayer::pre_norm(norm(&format!("{name}.norm2")), Op::Mlp(Box::new(mlp))),
        ]
    };
    catalog.prefix(&[""], "blocks.0.attn.qkv.weight")?;
    let embedding = ImageNames {
        class_token: "cls_token".into(),
        positions: "pos_embed".into(),
        patch: "patch_embed.proj".into(),
    }
    .embedding(config, &hidden, channels, pixels, patch.0)?;
    let steps = vec![
        Step::Norm(norm("norm")),
        Step::Position(0),
        Step::Linear(Linear::named("head", &classes, &hidden, true)),
    ];
    Ok(Model {
        family: VIT_TIMM.name,
        embedding,
        layers: (0..sizes.layers).map(layer).collect(),
        encoder: None,
        outputs: vec![Output { name: "logits", steps, fixed: true }],
        aliases: Vec::new(),
        buffers: Vec::new(),
        sizes,
    })
}

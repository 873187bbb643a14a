//! The layers of T5's two stacks.

use super::super::activation;
use super::T5;
use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::*;

/// A greater distance than any model tells from those beyond: it is looked at distance by distance
/// which of them share a bucket.
const DISTANCE_LIMIT: usize = 1 << 16;

/// What all layers are made of.
pub(super) struct Parts {
    pub hidden: Dim,
    pub inner: Dim,
    pub heads: Dim,
    pub head_dim: Dim,
    pub eps: f64,
    activation: Activation,
    gated: bool,
    buckets: Dim,
    max_distance: usize,
}

impl Parts {
    /// Reads the sizes and settings.
    ///
    /// # Errors
    /// If a field has no usable value.
    pub fn read(config: &Config) -> Result<Parts> {
        let dim = |field: &str| Ok(Dim::new(config.size(field)?, field));
        let kind = config.word_or("feed_forward_proj", "relu")?;
        let name = match kind {
            "gated-gelu" => "gelu_new",
            _ => kind.strip_prefix("gated-").unwrap_or(kind),
        };
        let field = "relative_attention_num_buckets";
        let buckets = config.size_or(field, 32)?;
        let farthest = "relative_attention_max_distance";
        let max_distance = config.size_or(farthest, 128)?;
        if max_distance > DISTANCE_LIMIT {
            let expected = format!("at most {DISTANCE_LIMIT}");
            return Err(config.wrong(farthest, &expected, &max_distance.into()));
        }
        if buckets < 4 || max_distance <= buckets / 2 {
            let problem = format!("{buckets} buckets cannot part distances up to {max_distance}");
            return Err(Error::bad_input(problem).at(config.origin()).field(field));
        }
        Ok(Parts {
            hidden: dim("d_model")?,
            inner: dim("d_ff")?,
            heads: dim("num_heads")?,
            head_dim: dim("d_kv")?,
            eps: config.positive_or("layer_norm_epsilon", 1e-6)?,
            activation: activation(config, "dense_act_fn", name)?,
            gated: config.flag_or("is_gated_act", kind.starts_with("gated-"))?,
            buckets: Dim::new(buckets, field),
            max_distance,
        })
    }

    /// One of the norms.
    pub fn norm(&self, name: String) -> Norm {
        Norm::rms(&name, &self.hidden, self.eps, T5.fields.norm_eps)
    }

    fn attention(&self, name: &str) -> Attention {
        let channels = self.head_dim.product(self.heads.size, "num_heads");
        let read = |part| Linear::named(&format!("{name}.{part}"), &channels, &self.hidden, false);
        let output = Linear::named(&format!("{name}.o"), &self.hidden, &channels, false);
        let projections = [read("q"), read("k"), read("v"), output];
        let plain = Attention::plain(projections, self.heads.size, self.head_dim.size);
        Attention { scale: 1.0, ..plain }
    }

    fn mlp(&self, name: &str) -> Mlp {
        let read =
            |part| Linear::named(&format!("{name}.{part}"), &self.inner, &self.hidden, false);
        Mlp {
            up: read(if self.gated { "wi_1" } else { "wi" }),
            gate: self.gated.then(|| read("wi_0")),
            down: Linear::named(&format!("{name}.wo"), &self.hidden, &self.inner, false),
            activation: self.activation,
        }
    }

    /// The layers of `encoder` or `decoder`.
    pub fn layers(&self, stack: &str, count: usize) -> Vec<Vec<Sublayer>> {
        let decodes = stack == "decoder";
        let name = format!("{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight");
        let table = Lens::matrix(name, self.buckets.clone(), [self.heads.clone()]);
        let max_distance = self.max_distance;
        let relative = Box::new(RelativeBias { table, max_distance, two_sided: !decodes });
        let layer = |index: usize| {
            let block = format!("{stack}.block.{index}.layer");
            let mut ops = vec![Op::Attention(Box::new(Attention {
                causal: decodes,
                relative: Some(relative.clone()),
                ..self.attention(&format!("{block}.0.SelfAttention"))
            }))];
            if decodes {
                let cross = self.attention(&format!("{block}.1.EncDecAttention"));
                ops.push(Op::Attention(Box::new(Attention { reads_encoder: true, ..cross })));
            }
            ops.push(Op::Mlp(Box::new(self.mlp(&format!("{block}.{}.DenseReluDense", ops.len())))));
            let norm = |place: usize| self.norm(format!("{block}.{place}.layer_norm"));
            let placed = ops.into_iter().enumerate();
            placed.map(|(place, op)| Sublayer::pre_norm(norm(place), op)).collect()
        };
        (0..count).map(layer).collect()
    }
}

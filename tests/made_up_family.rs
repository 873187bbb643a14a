//! A family costs one file: here is one that nothing else has heard of, expanded, run and proven.

use lemon_check::certify::certify;
use lemon_check::checkpoint::{Checkpoint, Config, Dtype, Tensor};
use lemon_check::expand::{Options, Target, expand};
use lemon_check::forward::Input as Given;
use lemon_check::model::*;
use lemon_check::testing::models::{difference, run};
use lemon_check::testing::random::{Draw, generator};
use serde_json::json;
use std::collections::BTreeMap;

static LEMONADE: Family = Family {
    name: "lemonade",
    fields: Fields {
        hidden: "width",
        heads: "heads",
        intermediate: "neurons",
        layers: "depth",
        kv_heads: None,
        head_dim: Some("head_size"),
        norm_eps: Some("eps"),
    },
    describe: describe_lemonade,
    configure: |config, sizes, _| {
        config.set("width", sizes.hidden);
        config.set("heads", sizes.heads);
        config.set("head_size", sizes.head_dim);
        config.set("neurons", sizes.intermediate);
        config.set("depth", sizes.layers);
        if let Some(eps) = sizes.norm_eps {
            config.set("eps", eps);
        }
    },
};

fn describe_lemonade(config: &Config, _: &Catalog) -> lemon_check::Result<Model> {
    let dim = |field: &str| Ok::<Dim, lemon_check::Error>(Dim::new(config.size(field)?, field));
    let (hidden, inner, words) = (dim("width")?, dim("neurons")?, dim("words")?);
    let (heads, head_dim) = (config.size("heads")?, config.size("head_size")?);
    let (layers, eps) = (config.layers("depth")?, config.positive_or("eps", 1e-5)?);
    let mixed = Dim::new(heads * head_dim, "heads·head_size");
    let norm = |name: String| Norm::rms(&name, &hidden, eps, LEMONADE.fields.norm_eps);
    let layer = |index: usize| {
        let part = |name: &str, to: &Dim, from: &Dim| {
            Linear::named(&format!("{index}.{name}"), to, from, name == "squeeze")
        };
        let read = |name: &str| part(name, &mixed, &hidden);
        let projections = [read("q"), read("k"), read("v"), part("o", &hidden, &mixed)];
        let attention = Attention::plain(projections, heads, head_dim);
        let mlp = Mlp {
            up: part("squeeze", &inner, &hidden),
            gate: None,
            down: part("stir", &hidden, &inner),
            activation: Activation::Silu,
        };
        vec![
            Sublayer::pre_norm(norm(format!("{index}.a")), Op::Attention(Box::new(attention))),
            Sublayer::pre_norm(norm(format!("{index}.b")), Op::Mlp(Box::new(mlp))),
        ]
    };
    let table = Lens::matrix("words", words.clone(), [hidden.clone()]);
    let head = Step::Linear(Linear::named("head", &words, &hidden, false));
    Ok(Model {
        family: &LEMONADE,
        embedding: Embedding::of_tables(
            Input::Tokens { vocabulary: words.size, positions: None, types: 0 },
            vec![Table::plain(TableIndex::Token, table)],
        ),
        layers: (0..layers).map(layer).collect(),
        encoder: None,
        outputs: vec![Output {
            name: "logits",
            steps: vec![Step::Norm(norm("last".into())), head],
            fixed: true,
        }],
        aliases: Vec::new(),
        buffers: Vec::new(),
        sizes: Sizes {
            hidden: hidden.size,
            heads,
            kv_heads: heads,
            head_dim,
            intermediate: inner.size,
            layers,
            experts: None,
            norm_eps: Some(eps),
        },
    })
}

/// A model of that family with random weights.
fn source() -> Checkpoint {
    let json = json!({"width": 6, "heads": 2, "head_size": 3, "neurons": 5, "depth": 2,
                      "words": 7, "eps": 1e-3});
    let config = Config::new("lemonade.json", json.as_object().unwrap().clone());
    let nothing: [String; 0] = [];
    let catalog = Catalog::new(|_| false, |_| None, &nothing);
    let model = describe_lemonade(&config, &catalog).unwrap();
    let mut rng = generator(1);
    let mut tensors = BTreeMap::new();
    for lens in model.lenses() {
        let shape: Vec<usize> = lens.stored().iter().map(|dim| dim.size).collect();
        let values: Vec<f64> = (0..shape.iter().product()).map(|_| 0.5 * rng.normal()).collect();
        tensors.insert(lens.name().to_string(), Tensor::from_values(Dtype::F64, shape, values));
    }
    Checkpoint::in_memory("lemonade", config, tensors)
}

#[test]
fn a_family_that_nothing_else_knows_is_expanded_run_and_proven() {
    let small = source();
    let small_model = describe_as(&small, &LEMONADE).unwrap();
    let target = Target {
        hidden: Some(16),
        heads: Some(5),
        head_dim: Some(4),
        intermediate: Some(13),
        layers: Some(3),
        ..Target::default()
    };
    let options = Options { target, ..Options::default() };
    let large = expand(&small, &small_model, &options).unwrap();
    let large_model = describe_as(&large, &LEMONADE).unwrap();
    let found = certify((&small, &small_model), (&large, &large_model), &|_, _| ()).unwrap();
    assert!(found.proves_lossless(), "{:?} {:?}", found.failures.first(), found.unknown.first());
    let inputs = [Given::tokens([1, 5, 2, 0, 6]), Given::tokens([3])];
    let outputs = run(&small, &small_model, &inputs);
    assert!(difference(&outputs, &run(&large, &large_model, &inputs)) < 1e-12);
}

//! Random sources, and both oracles on a pair.

use crate::axis::Axis;
use crate::grow::Described;
use lemon_check::check::{Check, Verdict, check};
use lemon_check::checkpoint::Dtype;
use lemon_check::compare::Difference;
use lemon_check::forward::run_batch;
use lemon_check::model::{Attention, Mlp, Model, Op};
use lemon_check::testing::random::generator;
use lemon_check::testing::{Architecture, Editor, SourceCase, WeightStyle, inputs};

/// Families with a LayerNorm in front of each sublayer.
pub const PRE_LAYER_NORM: [Architecture; 3] =
    [Architecture::Gpt2, Architecture::Vit, Architecture::VitTimm];

pub const ALL: [Architecture; 5] = [
    Architecture::Gpt2,
    Architecture::Bert,
    Architecture::Llama,
    Architecture::Vit,
    Architecture::VitTimm,
];

/// A random source that is `wanted`, of at least four channels and two neurons. The same seed gives
/// the same one.
pub fn source(architecture: Architecture, seed: u64, wanted: fn(&Model) -> bool) -> Described {
    drawn(architecture, seed, |source| wanted(&source.model))
}

/// Like [`source`], one whose outputs show every difference: words or classes, in 32 bits or more.
pub fn telling(architecture: Architecture, seed: u64, wanted: fn(&Model) -> bool) -> Described {
    drawn(architecture, seed, |source| {
        let mut dtypes = source.checkpoint.tensors().values().filter_map(|t| t.dtype);
        dtypes.all(|dtype| [Dtype::F64, Dtype::F32].contains(&dtype))
            && source.model.outputs.iter().all(|output| output.fixed)
            && wanted(&source.model)
    })
}

/// Among repeated rows and zeros the words could speak of other copies; what tiny weights do may be
/// too small for outputs to show.
const ODD: [WeightStyle; 4] =
    [WeightStyle::Zeros, WeightStyle::Repeated, WeightStyle::Scales, WeightStyle::Tiny];

fn drawn(architecture: Architecture, seed: u64, wanted: impl Fn(&Described) -> bool) -> Described {
    let drawn = (0..1000).find_map(|attempt| {
        let mut rng = generator(1000 * seed + attempt);
        let mut case = SourceCase::random(architecture, &mut rng);
        if ODD.contains(&case.weights) {
            case.weights = WeightStyle::Random;
        }
        let source = Described::new(case.build().unwrap_or_else(|e| panic!("{e}")));
        let sizes = &source.model.sizes;
        let plain = sizes.hidden >= 4 && sizes.intermediate >= 2 && is_plain(&source.model);
        (plain && wanted(&source)).then_some(source)
    });
    drawn.expect("one in a thousand is wanted")
}

/// Whether a model has only parts that the published methods speak of.
fn is_plain(model: &Model) -> bool {
    let sublayers = || model.layers.iter().flatten();
    let post_norm = sublayers().all(|sublayer| sublayer.post_norm.is_some());
    model.embedding.norm.is_some() == post_norm
        && sublayers().flat_map(|sublayer| &sublayer.branches).all(|branch| {
            let plain = match &branch.op {
                Op::Attention(a) => a.head_norms.is_none() && a.window.is_none(),
                Op::Mlp(_) => true,
                Op::Experts(_) => false,
            };
            plain && branch.post_norm.is_none() && branch.scale.is_none()
        })
}

pub fn any(_: &Model) -> bool {
    true
}

/// The first attention of a model.
pub fn attention(model: &Model) -> &Attention {
    let ops = model.layers.iter().flatten().flat_map(|s| &s.branches).map(|branch| &branch.op);
    let found = ops.into_iter().find_map(|op| match op {
        Op::Attention(attention) => Some(attention),
        _ => None,
    });
    found.expect("a Transformer attends")
}

/// The feed-forward network of a layer.
pub fn mlp_of(model: &Model, layer: usize) -> &Mlp {
    let ops = model.layers[layer].iter().flat_map(|s| &s.branches).map(|branch| &branch.op);
    let found = ops.into_iter().find_map(|op| match op {
        Op::Mlp(mlp) => Some(mlp.as_ref()),
        _ => None,
    });
    found.expect("a layer has neurons")
}

/// The verdict of a check.
pub fn judge(source: &Described, expanded: &Described) -> Check {
    check(&source.checkpoint, &expanded.checkpoint, &|_, _| ()).unwrap_or_else(|e| panic!("{e}"))
}

/// Both oracles say lossless: the certificate, and, where numbers are f64, a forward pass. `hidden`
/// is how the channels grew.
pub fn lossless(source: &Described, expanded: &Described, hidden: &Axis, what: &str) -> Check {
    let found = judge(source, expanded);
    if found.verdict != Verdict::Lossless {
        panic!("{what}: {:#?}\n{:#?}", found.verdict, found.certificate);
    }
    if source.checkpoint.tensors().values().all(|t| t.dtype.is_none_or(|d| d == Dtype::F64)) {
        let apart = apart(source, expanded, hidden);
        assert!(apart < 1e-9, "{what}: outputs differ by {apart:e}");
    }
    found
}

/// The largest difference of outputs, relative to their spread. Hidden channels are compared with
/// those that they copy.
fn apart(source: &Described, expanded: &Described, hidden: &Axis) -> f64 {
    let inputs = inputs::random(&source.model, &mut generator(0));
    let run = |of: &Described| run_batch::<f64>(&of.checkpoint, &of.model, &inputs).unwrap();
    let (small, large) = (run(source), run(expanded));
    let mut worst = 0.0f64;
    for (small, large) in small.iter().zip(&large) {
        for (number, output) in source.model.outputs.iter().enumerate() {
            let (s, t) = (&small.outputs[number], &large.outputs[number]);
            let (mut expected, mut got) = (Vec::new(), Vec::new());
            for row in (0..s.meaningful.len()).filter(|row| s.meaningful[*row]) {
                for channel in 0..t.values.ncols() {
                    let of = if output.fixed { Some(channel) } else { hidden.of[channel] };
                    let Some(of) = of else { continue };
                    expected.push(s.values[[row, of]]);
                    got.push(t.values[[row, channel]]);
                }
            }
            worst = worst.max(Difference::between(&expected, &got).relative);
        }
    }
    worst
}

/// Whatever the source, the pair does not pass: few inputs, or coarse numbers, may show nothing.
pub fn never_lossless(source: &Described, expanded: &Described, what: &str) {
    let found = judge(source, expanded);
    assert_ne!(found.verdict, Verdict::Lossless, "{what}: {:#?}", found.certificate);
}

/// The pair is not lossless, with evidence.
pub fn lossy(source: &Described, expanded: &Described, what: &str) -> Check {
    let found = judge(source, expanded);
    if found.verdict != Verdict::NotLossless {
        panic!("{what}: {:#?}\n{:#?}", found.verdict, found.certificate);
    }
    found
}

/// Asserts that the words of a space (in all layers, where these differ) contain `part`.
pub fn told(found: &Check, space: &str, part: &str) {
    let maps: Vec<_> =
        found.certificate.maps.iter().filter(|map| map.space.starts_with(space)).collect();
    let right = |words: &str| words.contains(part);
    let all = !maps.is_empty() && maps.iter().all(|map| right(&map.words));
    assert!(all, "`{part}` is not told of {space}: {:#?}", found.certificate.maps);
}

/// A checkpoint with some numbers changed.
pub fn edited(of: &Described, change: impl FnOnce(&mut Editor, &Model)) -> Described {
    let mut editor = Editor::new(&of.checkpoint, &of.model);
    change(&mut editor, &of.model);
    Described::new(editor.finish())
}

//! Residual convolutional networks: expansions are proven and agree, mistakes are caught.

use lemon_check::certify::{Certificate, certify_convnets};
use lemon_check::check::{Verdict, check};
use lemon_check::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, Tensor, save};
use lemon_check::expand::{ConvTarget, Free, Options, expand_convnet};
use lemon_check::forward::{Real, Weights, run_convnet};
use lemon_check::model::convolutional::describe_convnet;
use lemon_check::report::{Demands, Report};
use ndarray::{Array1, Array3};
use std::path::{Path, PathBuf};

const CASES: [&str; 4] =
    ["resnet-basic", "resnet-bottleneck", "resnet-strided", "resnet-torchvision"];

fn folder(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn load(case: &str) -> Checkpoint {
    Checkpoint::open(&folder(case), None).unwrap()
}

fn certificate(source: &Checkpoint, expanded: &Checkpoint) -> Certificate {
    let nets = (describe_convnet(source).unwrap(), describe_convnet(expanded).unwrap());
    certify_convnets((source, &nets.0), (expanded, &nets.1)).unwrap()
}

/// Every stage wider, to sizes that the source's do not divide, and one block deeper.
fn target(case: &str, source: &Checkpoint) -> ConvTarget {
    let sizes = describe_convnet(source).unwrap().sizes;
    let basic = case == "resnet-basic";
    let wider: Vec<usize> = sizes.stages.iter().map(|stage| 2 * stage.outer + 5).collect();
    ConvTarget {
        // Without a shortcut, the first stage is as wide as the stem.
        stem: Some(if basic { wider[0] } else { 2 * sizes.stem + 1 }),
        stages: Some(wider),
        blocks: Some(sizes.stages.iter().map(|stage| stage.blocks + 1).collect()),
    }
}

fn expand(case: &str, options: &Options) -> (Checkpoint, Checkpoint) {
    let source = load(case);
    let net = describe_convnet(&source).unwrap();
    let expanded = expand_convnet(&source, &net, &target(case, &source), options).unwrap();
    (source, expanded)
}

/// The logits for an image without pattern, computed in `R`.
fn logits_in<R: Real>(checkpoint: &Checkpoint) -> Array1<f64> {
    let net = describe_convnet(checkpoint).unwrap();
    let pixels = Array3::from_shape_fn((net.colours, 19, 22), |(c, y, x)| {
        ((c * 31 + y * 17 + x * 7) as f64).sin() * 2.0
    });
    run_convnet::<R>(&Weights::new(checkpoint), &net, &pixels).unwrap().mapv(R::to_f64)
}

fn logits(checkpoint: &Checkpoint) -> Array1<f64> {
    logits_in::<f64>(checkpoint)
}

fn apart(source: &Checkpoint, expanded: &Checkpoint) -> f64 {
    let (a, b) = (logits(source), logits(expanded));
    let scale = 1.0 + a.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    (a - b).iter().fold(0.0f64, |m, v| m.max(v.abs())) / scale
}

#[test]
fn a_network_is_equal_to_itself() {
    for case in CASES {
        let certificate = certificate(&load(case), &load(case));
        assert!(certificate.proves_lossless() && certificate.exact, "{case}: {certificate:?}");
    }
}

#[test]
fn expansions_are_proven_and_agree() {
    for case in CASES {
        for (seed, free) in [Free::Projection, Free::Equal, Free::Zero].into_iter().enumerate() {
            let options = Options { free, seed: seed as u64, ..Options::default() };
            let (source, expanded) = expand(case, &options);
            let certificate = certificate(&source, &expanded);
            assert!(certificate.proves_lossless(), "{case} {free:?}: {certificate:?}");
            let apart = apart(&source, &expanded);
            println!("{case:20} {free:?} {apart:.1e}");
            assert!(apart < 1e-12, "{case} {free:?}: {apart:e}");
        }
    }
}

#[test]
fn an_expansion_has_a_counter_of_batches_wherever_its_source_has_one() {
    for case in CASES {
        let (_, expanded) = expand(case, &Options::default());
        let net = describe_convnet(&expanded).unwrap();
        assert_eq!(net.buffers.len(), net.convolutions().count(), "{case}");
        for convolution in net.convolutions() {
            let counter = &expanded.tensors()[&convolution.norm.counter()];
            assert!(counter.shape.is_empty(), "{case}");
        }
    }
}

fn expanded(source: &Checkpoint, target: &ConvTarget, options: &Options) -> Checkpoint {
    expand_convnet(source, &describe_convnet(source).unwrap(), target, options).unwrap()
}

#[test]
fn an_expansion_is_equal_to_itself_and_to_its_own_expansions() {
    for case in CASES {
        for free in [Free::Projection, Free::Equal, Free::Zero] {
            for dtype in [None, Some(Dtype::F32)] {
                let options = Options { free, seed: 7, dtype, ..Options::default() };
                let (first, source) = expand(case, &options);
                for other in [
                    edited(&source, &[]),
                    expanded(&source, &target(case, &source), &options),
                    expanded(&source, &targets(case, &source)[1], &options),
                    // Other free numbers: no copy looks as it did.
                    expanded(&first, &target(case, &first), &Options { seed: 8, ..options }),
                ] {
                    let found = certificate(&source, &other);
                    assert!(found.proves_lossless(), "{case} {free:?} {dtype:?}: {found:?}");
                }
            }
        }
    }
}

/// What becomes of a tensor's number at a place.
type Edit<'a> = &'a dyn Fn(usize, f64) -> f64;

/// The checkpoint with the numbers of some tensors changed.
fn edited(checkpoint: &Checkpoint, edits: &[(String, Edit)]) -> Checkpoint {
    let mut tensors = checkpoint.tensors().clone();
    for (name, edit) in edits {
        let old = tensors[name].clone();
        let dtype = old.dtype.unwrap();
        let values = (0..old.len()).map(|at| edit(at, dtype.get(old.bytes(), at)));
        tensors.insert(name.clone(), Tensor::from_values(dtype, old.shape.clone(), values));
    }
    Checkpoint::in_memory(checkpoint.path(), checkpoint.config().clone(), tensors)
}

/// Every norm's γ and β in {−1, 0, 1}; and two channels that are constant and equal.
#[test]
fn a_network_whose_channels_are_alike_is_equal_to_itself_and_to_its_expansion() {
    for case in CASES {
        let net = describe_convnet(&load(case)).unwrap();
        let norms: Vec<_> = net.convolutions().map(|convolution| &convolution.norm).collect();
        let round = |_: usize, value: f64| value.clamp(-1.0, 1.0).round();
        let gamma = |at: usize, value: f64| if at < 2 { 0.0 } else { value };
        let beta = |at: usize, value: f64| if at < 2 { 0.5 } else { value };
        for edits in [[&round as &dyn Fn(usize, f64) -> f64, &round], [&gamma, &beta]] {
            let pairs = norms.iter().flat_map(|norm| {
                let names = [&norm.weight, &norm.bias].map(|lens| lens.name().to_string());
                names.into_iter().zip(edits)
            });
            let source = edited(&load(case), &pairs.collect::<Vec<_>>());
            let large = expanded(&source, &target(case, &source), &Options::default());
            for other in [&source, &large] {
                let found = certificate(&source, other);
                assert!(found.proves_lossless(), "{case}: {found:?}");
                assert!(apart(&source, other) < 1e-12, "{case}");
            }
        }
    }
}

/// A copy within the source may be read instead of its original, but not twice.
#[test]
fn what_two_equal_channels_of_the_source_are_read_by_is_summed() {
    let (_, source) = expand("resnet-torchvision", &Options::default());
    let (name, small) = ("layer1.0.conv3.weight", load("resnet-torchvision"));
    let inner = describe_convnet(&small).unwrap().sizes.stages[0].inner;
    let reader = &source.tensors()[name];
    let width = reader.shape[1];
    let own = |at: usize| Dtype::F64.get(reader.bytes(), at);
    let moved = |at: usize, value: f64| match at % width {
        0 => value + own(at + inner),
        column if column == inner => 0.0,
        _ => value,
    };
    let right = edited(&source, &[(name.into(), &moved)]);
    let found = certificate(&source, &right);
    assert!(found.proves_lossless(), "{found:?}");
    assert!(apart(&source, &right) < 1e-12);

    let twice = |at: usize, value: f64| {
        if at.is_multiple_of(width) { value + own(at + inner) } else { value }
    };
    let wrong = edited(&source, &[(name.into(), &twice)]);
    assert!(!certificate(&source, &wrong).proves_lossless());
    assert!(apart(&source, &wrong) > 1e-6);
}

/// A positive factor passes through a ReLU to what reads the channel; a negative one does not.
#[test]
fn a_channel_times_a_positive_number_is_proven_where_its_reader_divides_by_it() {
    let (source, large) = expand("resnet-torchvision", &Options::default());
    let (name, reader) = ("layer1.0.bn2", "layer1.0.conv3.weight".to_string());
    let width = large.tensors()[&reader].shape[1];
    for (factor, right) in [(3.0, true), (-3.0, false)] {
        let factors = move |channel: usize| if channel % 2 == 1 { factor } else { 0.25 };
        let written = |at: usize, value: f64| value * factors(at);
        let read = |at: usize, value: f64| value / factors(at % width);
        let norm = ["weight", "bias"].map(|part| format!("{name}.{part}"));
        let half =
            edited(&edited(&large, &[(norm[0].clone(), &written)]), &[(norm[1].clone(), &written)]);
        assert!(!certificate(&source, &half).proves_lossless());
        let whole = edited(&half, &[(reader.clone(), &read)]);
        let found = certificate(&source, &whole);
        assert_eq!(found.proves_lossless(), right, "{found:?}");
        assert_eq!(apart(&source, &whole) < 1e-12, right);
    }
}

/// What is asked of a network: wider by no multiple, deeper, or both. There are no heads, and no
/// neurons but those that follow the channels; new blocks end in zeros and in nothing else.
fn targets(case: &str, source: &Checkpoint) -> [ConvTarget; 3] {
    let both = target(case, source);
    let wider = ConvTarget { blocks: None, ..both.clone() };
    let deeper = ConvTarget { blocks: both.blocks.clone(), ..ConvTarget::default() };
    [wider, deeper, both]
}

/// Writes an expansion, reads it again, and has the check judge it by its files.
fn from_file(source: &Checkpoint, target: &ConvTarget, path: &Path) -> Checkpoint {
    let net = describe_convnet(source).unwrap();
    let options = Options { seed: 3, ..Options::default() };
    let expanded = expand_convnet(source, &net, target, &options).unwrap();
    save(path, expanded.config(), expanded.tensors(), SHARD_LIMIT).unwrap();
    let expanded = Checkpoint::open(path, None).unwrap();
    let found = check(source, &expanded, &|_, _| ()).unwrap();
    assert_eq!(found.verdict, Verdict::Lossless, "{target:?}: {:?}", found.certificate);
    expanded
}

/// In f32 the measure is the source's own error; why, `tests/expand/files.rs` says.
#[test]
fn every_golden_network_is_lossless_from_the_files_and_in_f32_as_exact_as_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let norm = |numbers: Array1<f64>| numbers.dot(&numbers).sqrt();
    for case in CASES {
        let source = load(case);
        for (index, target) in targets(case, &source).iter().enumerate() {
            let path = |dtype: &str| folder.path().join(format!("{case}-{index}-{dtype}"));
            let expanded = from_file(&source, target, &path("f64"));
            assert!(apart(&source, &expanded) < 1e-9, "{case} {target:?}");

            let small = rounded(&source);
            let expanded = from_file(&small, target, &path("f32"));
            let wanted = logits(&small);
            let own = norm(logits_in::<f32>(&small) - &wanted);
            let error = norm(logits_in::<f32>(&expanded) - &wanted);
            let times = error / own.max(f32::UNIT_ROUNDOFF * norm(wanted));
            println!("{case} {target:?}: {times:.1} times the source's error");
            assert!(times <= 50.0, "{case} {target:?}: {times}");
        }
    }
}

/// The same network with weights rounded to f32.
fn rounded(checkpoint: &Checkpoint) -> Checkpoint {
    let tensors = checkpoint.tensors().iter().map(|(name, tensor)| {
        let Some(dtype) = tensor.dtype else { return (name.clone(), tensor.clone()) };
        let values = (0..tensor.len()).map(|at| dtype.get(tensor.bytes(), at));
        (name.clone(), Tensor::from_values(Dtype::F32, tensor.shape.clone(), values))
    });
    Checkpoint::in_memory("rounded", checkpoint.config().clone(), tensors.collect())
}

#[test]
fn an_expansion_stored_in_f32_is_equal_to_storage_rounding() {
    for case in CASES {
        let options = Options { dtype: Some(Dtype::F32), ..Options::default() };
        let (source, expanded) = expand(case, &options);
        let certificate = certificate(&source, &expanded);
        assert!(certificate.proves_lossless() && !certificate.exact, "{case}: {certificate:?}");
    }
}

/// The expansion of a case with `change` made to the numbers of one tensor.
fn spoiled(case: &str, name: &str, change: impl FnOnce(&mut Vec<f64>)) -> (Checkpoint, Checkpoint) {
    let (source, expanded) = expand(case, &Options::default());
    let mut tensors = expanded.tensors().clone();
    let tensor = &tensors[name];
    let (shape, count) = (tensor.shape.clone(), tensor.len());
    let mut values: Vec<f64> = (0..count).map(|at| Dtype::F64.get(tensor.bytes(), at)).collect();
    change(&mut values);
    tensors.insert(name.into(), Tensor::from_values(Dtype::F64, shape, values));
    let spoiled = Checkpoint::in_memory(expanded.path(), expanded.config().clone(), tensors);
    (source, spoiled)
}

#[test]
fn one_wrong_number_anywhere_is_caught_and_named() {
    let mut visible = 0;
    for name in [
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv2.weight",
        "layer1.0.bn2.weight",
        "layer1.0.bn2.running_mean",
        "layer1.0.bn2.bias",
        "layer1.1.conv3.weight",
        "layer1.0.bn3.weight",
        "layer2.0.downsample.0.weight",
        "layer2.0.downsample.1.running_mean",
        "layer4.0.bn3.running_var",
        "fc.weight",
        "fc.bias",
    ] {
        let (source, spoiled) = spoiled("resnet-torchvision", name, |values| {
            values[3] = values[3] * 1.001 + 1e-4;
        });
        let certificate = certificate(&source, &spoiled);
        assert!(!certificate.proves_lossless(), "{name}: {certificate:?}");
        let blamed = &certificate.failures[0];
        assert_eq!(blamed.tensor, name);
        let mut rest = 3;
        let mut index: Vec<usize> = Vec::new();
        for size in spoiled.tensors()[name].shape.iter().rev() {
            index.insert(0, rest % size);
            rest /= size;
        }
        // Which of the equal channels that it reads is not told.
        let told = |index: &[usize]| match *index {
            [row, _, ref taps @ ..] => [&[row], taps].concat(),
            _ => index.to_vec(),
        };
        assert_eq!(told(&blamed.index), told(&index), "{name}");
        visible += usize::from(apart(&source, &spoiled) > 1e-9);
    }
    // A ReLU may hide a channel from this one image.
    assert!(visible >= 11, "{visible}");
}

#[test]
fn a_new_block_that_adds_something_is_caught() {
    for name in ["layer1.2.bn3.bias", "layer3.1.bn3.weight"] {
        let (source, spoiled) = spoiled("resnet-torchvision", name, |values| values[2] = 1e-3);
        let certificate = certificate(&source, &spoiled);
        let blamed = &certificate.failures[0];
        assert_eq!((blamed.tensor.as_str(), &blamed.index[..]), (name, &[2][..]), "{blamed:?}");
        assert!(!certificate.proves_lossless() && apart(&source, &spoiled) > 1e-9, "{name}");
    }
}

#[test]
fn free_numbers_of_a_new_block_may_be_anything() {
    for name in ["layer1.2.conv1.weight", "layer3.1.bn3.running_mean", "layer3.1.bn1.bias"] {
        let (source, changed) = spoiled("resnet-torchvision", name, |values| values[2] = 7.0);
        assert!(certificate(&source, &changed).proves_lossless(), "{name}");
        assert!(apart(&source, &changed) < 1e-12, "{name}");
    }
}

#[test]
fn copies_that_are_not_split_are_caught() {
    let (source, spoiled) = spoiled("resnet-bottleneck", "classifier.1.weight", |values| {
        values.iter_mut().for_each(|value| *value *= 2.0);
    });
    let certificate = certificate(&source, &spoiled);
    assert_eq!(certificate.failures[0].tensor, "classifier.1.weight");
}

/// Turns the numbers of one tensor of `[channels, …]` round by one channel.
fn turned(tensor: &Tensor) -> Tensor {
    let count = tensor.len();
    let row = count / tensor.shape[0];
    let values = (0..count).map(|at| Dtype::F64.get(tensor.bytes(), (at + row) % count));
    Tensor::from_values(Dtype::F64, tensor.shape.clone(), values.collect::<Vec<_>>())
}

#[test]
fn channels_in_another_order_pass_where_every_reader_follows_and_not_where_one_does_not() {
    let (source, expanded) = expand("resnet-torchvision", &Options::default());
    let mut tensors = expanded.tensors().clone();
    let block = "layer2.0";
    for part in ["conv2.weight", "bn2.weight", "bn2.bias", "bn2.running_mean", "bn2.running_var"] {
        let name = format!("{block}.{part}");
        tensors.insert(name.clone(), turned(&tensors[&name]));
    }
    let checkpoint =
        |tensors| Checkpoint::in_memory(expanded.path(), expanded.config().clone(), tensors);
    let half = checkpoint(tensors.clone());
    assert!(!certificate(&source, &half).proves_lossless());
    assert!(apart(&source, &half) > 1e-6);

    let name = format!("{block}.conv3.weight");
    let reader = &tensors[&name];
    let width = reader.shape[1];
    let values = (0..reader.len()).map(|at| {
        let (row, column) = (at / width, at % width);
        Dtype::F64.get(reader.bytes(), row * width + (column + 1) % width)
    });
    let values: Vec<f64> = values.collect();
    let follows = Tensor::from_values(Dtype::F64, reader.shape.clone(), values);
    tensors.insert(name, follows);
    let whole = checkpoint(tensors);
    assert!(certificate(&source, &whole).proves_lossless());
    assert!(apart(&source, &whole) < 1e-12);
}

#[test]
fn a_channel_that_is_always_zero_is_read_by_anything() {
    let (source, expanded) = expand("resnet-torchvision", &Options::default());
    let mut tensors = expanded.tensors().clone();
    // The last channel inside the block is a copy: silence it and give its share to the first.
    let net = describe_convnet(&source).unwrap();
    let (small, last) = (net.sizes.stages[0].inner, tensors["layer1.0.bn2.bias"].len() - 1);
    for name in ["layer1.0.bn2.weight", "layer1.0.bn2.bias"] {
        let old = tensors[name].clone();
        let value = |at| if at == last { 0.0 } else { Dtype::F64.get(old.bytes(), at) };
        let values: Vec<f64> = (0..=last).map(value).collect();
        tensors.insert(name.into(), Tensor::from_values(Dtype::F64, old.shape.clone(), values));
    }
    let reader = tensors["layer1.0.conv3.weight"].clone();
    let width = reader.shape[1];
    let values = (0..reader.len()).map(|at| {
        let own = Dtype::F64.get(reader.bytes(), at);
        match at % width {
            column if column == last % small => {
                own + Dtype::F64.get(reader.bytes(), at / width * width + last)
            }
            _ => own,
        }
    });
    let values: Vec<f64> = values.collect();
    let name = "layer1.0.conv3.weight".to_string();
    tensors.insert(name, Tensor::from_values(Dtype::F64, reader.shape.clone(), values));
    let silent = Checkpoint::in_memory(expanded.path(), expanded.config().clone(), tensors);
    let certificate = certificate(&source, &silent);
    assert!(certificate.proves_lossless(), "{certificate:?}");
    assert!(apart(&source, &silent) < 1e-12);
}

#[test]
fn a_negative_running_variance_is_no_network() {
    let name = "layer1.0.bn2.running_var";
    let (source, spoiled) = spoiled("resnet-torchvision", name, |values| values[1] = -1.0);
    let nets = (describe_convnet(&source).unwrap(), describe_convnet(&spoiled).unwrap());
    let error = certify_convnets((&source, &nets.0), (&spoiled, &nets.1)).unwrap_err();
    assert!(error.to_string().contains(name), "{error}");
}

#[test]
fn smaller_sizes_and_new_projections_are_refused() {
    let refused = |case: &str, target: ConvTarget| {
        let source = load(case);
        let net = describe_convnet(&source).unwrap();
        let error = expand_convnet(&source, &net, &target, &Options::default());
        error.map(|_| ()).unwrap_err().to_string()
    };
    let stem = |stem| ConvTarget { stem: Some(stem), ..ConvTarget::default() };
    let stages = |stages| ConvTarget { stages: Some(stages), ..ConvTarget::default() };
    assert!(refused("resnet-strided", stem(5)).contains("smaller than the source's 6"));
    assert!(refused("resnet-strided", stages(vec![8])).contains("each of the 2 stages"));
    assert!(refused("resnet-basic", stem(7)).contains("keep embedding_size equal"));
}

#[test]
fn a_check_gives_the_verdict_and_an_image_that_shows_a_difference() {
    let judge = |(source, expanded): (Checkpoint, Checkpoint)| {
        let check = check(&source, &expanded, &|_, _| ()).unwrap();
        Report::new(check, Demands::default(), 0.0)
    };
    let right = judge(expand("resnet-bottleneck", &Options::default()));
    assert_eq!(right.verdict, Verdict::Lossless);
    assert!(right.effect.as_ref().unwrap().relative < 1e-12);
    assert!(right.text().contains("resnet: 29 channels, 7 inside a block, 6 blocks"));

    let wrong = judge(spoiled("resnet-bottleneck", "classifier.1.bias", |values| values[1] += 1.0));
    assert_eq!(wrong.verdict, Verdict::NotLossless);
    assert_eq!(wrong.failures[0].tensor, "classifier.1.bias");
    assert!(wrong.text().contains("the image random:0"), "{}", wrong.text());

    let block = "resnet.encoder.stages.0.layers.2.layer.2.normalization.bias";
    let grown = judge(spoiled("resnet-bottleneck", block, |values| values[1] = 5.0));
    assert_eq!(grown.verdict, Verdict::NotLossless, "{}", grown.text());
    assert!(grown.witness.is_some());
}

#[test]
fn pairs_that_cannot_be_source_and_expansion_are_refused() {
    let refused = |source: &Checkpoint, expanded: &Checkpoint| {
        check(source, expanded, &|_, _| ()).map(|_| ()).unwrap_err().to_string()
    };
    let (source, expanded) = expand("resnet-bottleneck", &Options::default());
    assert!(refused(&expanded, &source).contains("swapped"));
    assert!(refused(&source, &load("vit-hf")).contains("held against"));
    assert!(refused(&load("vit-hf"), &source).contains("held against"));
    assert!(refused(&source, &load("resnet-strided")).contains("1 colours"));
}

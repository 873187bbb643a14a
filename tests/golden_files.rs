//! Every golden model, expanded, written, read back and checked from the files: lossless.

use lemon_check::Class;
use lemon_check::check::{Verdict, check};
use lemon_check::checkpoint::{Checkpoint, SHARD_LIMIT, save};
use lemon_check::expand::{Options, Target, expand};
use lemon_check::model::{Model, describe};
use std::fs;
use std::path::Path;
use tempfile::tempdir;

/// Twice as wide, with more neurons and so many more layers.
fn target(model: &Model, layers: usize) -> Target {
    let sizes = &model.sizes;
    let heads_follow = model.family.fields.head_dim.is_none();
    Target {
        hidden: Some(2 * sizes.hidden),
        heads: heads_follow.then_some(2 * sizes.heads),
        intermediate: Some(2 * sizes.intermediate + 1),
        layers: Some(sizes.layers + layers),
        ..Target::default()
    }
}

#[test]
fn every_golden_model_expanded_and_written_is_lossless_from_the_files() {
    let folder = tempdir().unwrap();
    let (mut checked, mut deeper, mut refused) = (0, 0, Vec::new());
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() || path.to_string_lossy().contains("resnet") {
            continue;
        }
        let source = Checkpoint::open(&path, None).unwrap();
        let model = describe(&source).unwrap();
        // Where norms write the stream there is no new layer.
        let made = [1, 0].into_iter().find_map(|layers| {
            let options = Options { target: target(&model, layers), ..Options::default() };
            match expand(&source, &model, &options) {
                Ok(expanded) => Some((expanded, layers)),
                Err(error) => {
                    assert_eq!(error.class(), Class::Refused, "{error}");
                    None
                }
            }
        });
        let Some((expanded, layers)) = made else {
            refused.push(model.family.name);
            continue;
        };
        let file = folder.path().join(path.file_name().unwrap()).with_extension("safetensors");
        save(&file, expanded.config(), expanded.tensors(), SHARD_LIMIT).unwrap();
        let expanded = Checkpoint::open(&file, None).unwrap();
        let found = check(&source, &expanded, &|_, _| ()).unwrap();
        let shown = (found.certificate.failures.first(), found.certificate.unknown.first());
        assert_eq!(found.verdict, Verdict::Lossless, "{}: {shown:?}", path.display());
        (checked, deeper) = (checked + 1, deeper + layers);
    }
    // A tied head behind a norm without a weight.
    assert_eq!(refused, ["olmo"]);
    assert!(checked > 80 && deeper > 60, "{checked} checked, {deeper} of them deeper");
}

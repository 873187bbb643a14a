//! `lemon-check expand` of ResNets.

use super::{golden, printed, run};
use lemon_check::checkpoint::Checkpoint;
use lemon_check::model::convolutional::describe_convnet;
use tempfile::TempDir;

/// Expands and checks, as a folder and as a file.
fn lossless(case: &str, sizes: &[&str], words: &[&str]) {
    let folder = TempDir::new().unwrap();
    let source = golden(case);
    let source = source.to_str().unwrap();
    for name in ["large", "large.safetensors"] {
        let out = folder.path().join(name);
        let out = out.to_str().unwrap();
        let text = printed(run(&[&["expand", source, out], sizes].concat()), 0);
        words.iter().for_each(|word| assert!(text.contains(word), "{word:?} in {text}"));
        let verdict = printed(run(&[source, out]), 0);
        assert!(verdict.starts_with("lossless: for every input"), "{verdict}");
    }
    let written = Checkpoint::open(&folder.path().join("large"), None).unwrap();
    assert!(describe_convnet(&written).unwrap().strangers(&written).is_empty());
}

#[test]
fn bottlenecks_grow_in_width_and_depth() {
    let sizes = ["--embedding-size", "13", "--hidden-sizes", "21,29", "--depths", "3,4"];
    let words = ["stem 6 → 13", "channels 8, 12 → 21, 29", "inside 2, 3 → 5, 7", "2, 2 → 3, 4"];
    lossless("resnet-bottleneck", &sizes, &words);
    lossless("resnet-strided", &[&sizes[..], &["--seed", "3"]].concat(), &words);
}

#[test]
fn sizes_that_are_not_asked_for_stay() {
    lossless("resnet-bottleneck", &["--depths", "2,5"], &["blocks 2, 2 → 2, 5"]);
    lossless("resnet-bottleneck", &["--hidden-sizes", "8,24", "--free", "equal"], &["8, 24"]);
    lossless("resnet-bottleneck", &["--embedding-size", "7", "--free", "zero"], &["stem 6 → 7"]);
}

#[test]
fn torchvision_names_grow_too() {
    let sizes = ["--hidden-sizes", "16,20,8,33", "--depths", "2,2,1,3", "--dtype", "f32"];
    lossless("resnet-torchvision", &sizes, &["float64 → float32", "2, 1, 1, 1 → 2, 2, 1, 3"]);
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let refused = |case: &str, sizes: &[&str], code: i32, words: &[&str]| {
        let folder = TempDir::new().unwrap();
        let (source, out) = (golden(case), folder.path().join("large"));
        let front = ["expand", source.to_str().unwrap(), out.to_str().unwrap()];
        let text = printed(run(&[&front, sizes].concat()), code);
        words.iter().for_each(|word| assert!(text.contains(word), "{word:?} in {text}"));
        assert!(!out.exists());
    };
    let bottleneck = "resnet-bottleneck";
    refused(bottleneck, &["--hidden-sizes", "4,12"], 3, &["smaller than the source's 8", "help"]);
    refused(bottleneck, &["--depths", "3"], 3, &["one for each of the 2 stages"]);
    refused(bottleneck, &["--hidden-size", "64"], 2, &["is a ResNet", "--hidden-sizes"]);
    refused(bottleneck, &["--hidden-sizes", "8,x"], 2, &["--hidden-sizes"]);
    refused("resnet-basic", &["--embedding-size", "8"], 3, &["keep embedding_size equal"]);
    refused("gpt2-lm", &["--depths", "3,4"], 2, &["sizes of a ResNet", "--num-hidden-layers"]);
}

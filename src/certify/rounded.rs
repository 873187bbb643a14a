//! Weights that were rounded on the way: a coarser format's numbers, stored in a finer one.

use crate::checkpoint::{Checkpoint, Dtype};

/// Says so if all numbers of the expanded model, but not of the source, are those of a coarser
/// format, and the errors are as small as its rounding. `relative`: the root mean square of the
/// errors beside what they are errors of.
pub(super) fn rounded(source: &Checkpoint, expanded: &Checkpoint, relative: f64) -> Option<String> {
    let coarser = [Dtype::Bf16, Dtype::F16].into_iter().find(|coarse| {
        relative <= 2.0 * coarse.unit_roundoff()
            && only(*coarse, expanded)
            && !only(*coarse, source)
    })?;
    let name = coarser.config_name();
    let stored =
        expanded.tensors().values().filter_map(|tensor| tensor.dtype).next()?.config_name();
    Some(format!(
        "all its numbers are {name} numbers, stored as {stored}, and the source's are not: the \
         weights were rounded to {name} on the way"
    ))
}

/// Whether all numbers of a model are numbers of this format, though its tensors are of finer ones.
fn only(coarse: Dtype, checkpoint: &Checkpoint) -> bool {
    let mut bytes = Vec::new();
    let mut kept = |value: f64| {
        bytes.clear();
        coarse.put(&mut bytes, value);
        coarse.get(&bytes, 0) == value
    };
    let tensors = checkpoint.tensors().values();
    let mut finer = tensors.filter_map(|tensor| Some((tensor, tensor.dtype?)));
    finer.all(|(tensor, dtype)| {
        dtype.size() > coarse.size()
            && (0..tensor.len()).all(|at| kept(dtype.get(tensor.bytes(), at)))
    })
}

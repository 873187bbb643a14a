//! Does the jobs of a plan: reads, expands, and puts together the stored tensors.

use super::linear;
use super::memory;
use super::plan::{Job, Rule};
use super::random::Random;
use super::vectors;
use super::{Free, Options};
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::error::{Error, Result};
use crate::model::{Lens, Model};
use ndarray::Array2;
use rayon::prelude::*;
use std::collections::BTreeMap;

/// The tensors of `expanded`, each put together from its jobs; repetitions of tied tensors
/// included.
///
/// # Errors
/// If a tensor cannot be read, a number does not fit the number format, two jobs disagree about one
/// lens, or a tensor is not filled.
pub(super) fn tensors(
    source: &Checkpoint,
    expanded: &Model,
    jobs: &[Job],
    options: &Options,
) -> Result<BTreeMap<String, Tensor>> {
    let groups: Vec<(&str, Vec<&Job>)> = by_tensor(jobs)?.into_iter().collect();
    let sizes: Result<Vec<_>> = groups
        .iter()
        .map(|(_, jobs)| {
            let count = shape(jobs[0]).iter().map(|size| *size as u64).product::<u64>();
            Ok((count, memory::dtype_of(jobs[0], source, options.dtype)?))
        })
        .collect();
    memory::refuse(memory::needed(sizes?), memory::available())?;
    let made: Result<Vec<_>> = groups
        .into_par_iter()
        .map(|(name, jobs)| {
            let tensor = put_together(source, &jobs, options).map_err(|e| e.tensor(name))?;
            Ok((name.to_string(), tensor))
        })
        .collect();
    let mut tensors: BTreeMap<String, Tensor> = made?.into_iter().collect();
    if let Some(lens) = expanded.lenses().into_iter().find(|l| !tensors.contains_key(l.name())) {
        return Err(Error::unsupported("no rule makes it").tensor(lens.name()));
    }
    for alias in &expanded.aliases {
        if let Some(original) = tensors.get(&alias.of) {
            tensors.insert(alias.name.clone(), original.clone());
        }
    }
    Ok(tensors)
}

/// Jobs by the tensor that they write, each lens once: two outputs may share a norm.
fn by_tensor(jobs: &[Job]) -> Result<BTreeMap<&str, Vec<&Job>>> {
    let mut groups: BTreeMap<&str, Vec<&Job>> = BTreeMap::new();
    for job in jobs {
        let group = groups.entry(job.expanded.name()).or_default();
        match group.iter().find(|other| other.expanded == job.expanded) {
            None => group.push(job),
            Some(other) if other.rule == job.rule && other.source == job.source => {}
            Some(_) => {
                return Err(Error::unsupported("two parts of the model need it to be different")
                    .tensor(job.expanded.name()));
            }
        }
    }
    Ok(groups)
}

/// The stored shape of the tensor that a job writes to.
fn shape(job: &Job) -> Vec<usize> {
    job.expanded.stored().iter().map(|dim| dim.size).collect()
}

fn put_together(source: &Checkpoint, jobs: &[&Job], options: &Options) -> Result<Tensor> {
    let shape = shape(jobs[0]);
    let dtype = memory::dtype_of(jobs[0], source, options.dtype)?;
    let count = shape.iter().product();
    let mut values = memory::list(count)?;
    values.resize(count, f64::NAN);
    for job in jobs {
        let weight = job.source.read(source)?;
        job.expanded.write(&mut values, &apply(job, &weight, options)?);
    }
    if values.iter().any(|value| value.is_nan()) {
        return Err(Error::unsupported("no rule makes a part of it"));
    }
    check_range(&values, dtype)?;
    let mut bytes = memory::list(count * dtype.size())?;
    values.into_iter().for_each(|value| dtype.put(&mut bytes, value));
    Tensor::from_bytes(dtype.stored_name(), shape, bytes)
}

fn apply(job: &Job, weight: &Array2<f64>, options: &Options) -> Result<Array2<f64>> {
    let mut random = Random::new(options.seed, job.expanded.name(), place(&job.expanded));
    match &job.rule {
        Rule::Linear { ports, duty } => {
            let maps = (&*ports.write, &*ports.read);
            linear::expand(weight, maps, *duty, options.free, &mut random)
        }
        Rule::Vector { map, residue, offset } => {
            let random = (options.free == Free::Projection).then_some(&mut random);
            vectors::expand(weight, map, *residue, *offset, random)
        }
        Rule::Constant(number) => {
            let zeros = memory::zeros(job.expanded.rows(), job.expanded.cols())?;
            Ok(zeros + *number)
        }
        Rule::Given(numbers) => Ok(Array2::clone(numbers)),
        Rule::Table { map } => map.expand_columns(weight),
    }
}

/// Where a lens begins in its tensor; tells the parts of a fused tensor apart.
fn place(lens: &Lens) -> usize {
    lens.position(0, 0)
}

/// # Errors
/// If the largest number overflows `dtype`.
fn check_range(values: &[f64], dtype: Dtype) -> Result<()> {
    let largest = values.iter().fold(0f64, |most, value| most.max(value.abs()));
    let mut bytes = Vec::new();
    dtype.put(&mut bytes, largest);
    if dtype.get(&bytes, 0).is_finite() {
        return Ok(());
    }
    Err(Error::refused(format!("its number {largest:e} does not fit {}", dtype.config_name()))
        .help("choose a wider number format"))
}

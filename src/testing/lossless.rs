//! The check as an assertion.

use crate::check::check;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::report::{Demands, Report};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What names a model: a checkpoint, or the path of one as [`Checkpoint::open`] takes it.
pub trait ModelAt {
    /// The model; one that has to be opened is kept in `opened`.
    ///
    /// # Errors
    /// If it cannot be opened.
    fn model<'a>(&'a self, opened: &'a mut Option<Checkpoint>) -> Result<&'a Checkpoint>;
}

impl ModelAt for Checkpoint {
    fn model<'a>(&'a self, _opened: &'a mut Option<Checkpoint>) -> Result<&'a Checkpoint> {
        Ok(self)
    }
}

impl ModelAt for Path {
    fn model<'a>(&'a self, opened: &'a mut Option<Checkpoint>) -> Result<&'a Checkpoint> {
        Ok(opened.insert(Checkpoint::open(self, None)?))
    }
}

macro_rules! paths {
    ($($path:ty),*) => {
        $(impl ModelAt for $path {
            fn model<'a>(&'a self, opened: &'a mut Option<Checkpoint>) -> Result<&'a Checkpoint> {
                Path::new(self).model(opened)
            }
        })*
    };
}

paths!(PathBuf, str, String);

impl<T: ModelAt + ?Sized> ModelAt for &T {
    fn model<'a>(&'a self, opened: &'a mut Option<Checkpoint>) -> Result<&'a Checkpoint> {
        (**self).model(opened)
    }
}

/// Whether `expanded` is proven to compute what `source` computes, as a report.
///
/// # Errors
/// If a model cannot be opened, or there is no verdict: see [`check`].
pub fn report_on(source: &impl ModelAt, expanded: &impl ModelAt) -> Result<Report> {
    let start = Instant::now();
    let (mut first, mut second) = (None, None);
    let (source, expanded) = (source.model(&mut first)?, expanded.model(&mut second)?);
    let check = check(source, expanded, &|_, _| ())?;
    Ok(Report::new(check, Demands::default(), start.elapsed().as_secs_f64()))
}

/// What [`assert_lossless!`](crate::assert_lossless) does.
///
/// # Panics
/// With the report, unless the verdict is *lossless*; with the error, if there is no verdict.
#[track_caller]
pub fn assert_is_lossless(source: &impl ModelAt, expanded: &impl ModelAt) {
    match report_on(source, expanded) {
        Ok(report) if report.passed => {}
        Ok(report) => panic!("{}", report.text()),
        Err(error) => panic!("no verdict: {error}"),
    }
}

/// Panics with the report, unless the second model is proven to compute what the first computes.
///
/// Both are checkpoints, or paths as the command line takes them.
///
/// ```
/// use lemon_check::assert_lossless;
/// assert_lossless!("tests/data/source.safetensors", "tests/data/expanded.safetensors");
/// ```
///
/// ```should_panic
/// use lemon_check::assert_lossless;
/// assert_lossless!("tests/data/source.safetensors", "tests/data/broken.safetensors");
/// ```
#[macro_export]
macro_rules! assert_lossless {
    ($source:expr, $expanded:expr $(,)?) => {
        $crate::testing::lossless::assert_is_lossless(&$source, &$expanded)
    };
}

//! Memory, asked for before it is used: what does not fit is refused, not a crash.

use super::plan::Job;
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::{Error, Result};
use ndarray::Array2;

const ADVICE: &str = "ask for smaller sizes, for a smaller --dtype, or use a larger machine";

/// The number format that `job`'s tensor is stored in.
///
/// # Errors
/// If the source's tensor is missing or of another shape.
pub(super) fn dtype_of(job: &Job, source: &Checkpoint, wanted: Option<Dtype>) -> Result<Dtype> {
    let stored = job.source.check(source)?.dtype;
    Ok(wanted.or(stored).unwrap_or(Dtype::F32))
}

/// Bytes that the tensors need, each given as how many numbers and in which format: all as they are
/// stored, and the largest twice in f64 while it is made.
pub(super) fn needed(tensors: impl IntoIterator<Item = (u64, Dtype)>) -> u64 {
    let (mut stored, mut largest) = (0u64, 0);
    for (count, dtype) in tensors {
        stored = stored.saturating_add(count.saturating_mul(dtype.size() as u64));
        largest = largest.max(count);
    }
    stored.saturating_add(largest.saturating_mul(16))
}

/// Refuses to need more bytes than are available, where that is known.
///
/// # Errors
/// Says both.
pub(super) fn refuse(needed: u64, available: Option<u64>) -> Result<()> {
    match available {
        Some(available) if needed > available => {
            let gigabytes = |bytes: u64| bytes as f64 / 1e9;
            Err(Error::refused(format!(
                "the expansion needs {:.1} GB of memory, and {:.1} GB are available",
                gigabytes(needed),
                gigabytes(available)
            ))
            .help(ADVICE))
        }
        _ => Ok(()),
    }
}

/// Bytes of memory that the machine can give, on systems that say so (Linux).
pub(super) fn available() -> Option<u64> {
    available_in(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn available_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// An empty list with room for `count` entries.
///
/// # Errors
/// If the system does not give the memory.
pub(super) fn list<T>(count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| {
        let bytes = count.saturating_mul(size_of::<T>());
        Error::refused(format!("there is no memory for {bytes} bytes of it")).help(ADVICE)
    })?;
    Ok(list)
}

/// A matrix of zeros `[rows, columns]`.
///
/// # Errors
/// As [`list`].
pub(super) fn zeros(rows: usize, columns: usize) -> Result<Array2<f64>> {
    let count = rows.saturating_mul(columns);
    let mut values = list(count)?;
    values.resize(count, 0.0);
    Ok(Array2::from_shape_vec((rows, columns), values).expect("as many as the shape says"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_memory_is_refused_with_both_sizes() {
        let needed = needed([(1 << 30, Dtype::F32), (1 << 20, Dtype::F16)]);
        assert_eq!(needed, (4 << 30) + (2 << 20) + (16 << 30));
        assert!(refuse(needed, Some(needed)).is_ok() && refuse(needed, None).is_ok());
        let message = refuse(needed, Some(8_000_000_000)).unwrap_err().to_string();
        assert!(message.contains("needs 21.5 GB") && message.contains("8.0 GB are"), "{message}");
    }

    #[test]
    fn available_memory_is_read_where_the_system_says_it() {
        let text = "MemTotal:  24 kB\nMemAvailable:     12 kB\nBuffers: 1 kB\n";
        assert_eq!(available_in(text), Some(12 * 1024));
        assert_eq!(available_in("MemTotal: 24 kB\n"), None);
    }

    #[test]
    fn memory_that_the_system_does_not_give_is_an_error() {
        assert!(zeros(1 << 40, 1 << 40).is_err());
        assert!(list::<f64>(usize::MAX / 8).is_err());
        assert_eq!(zeros(2, 3).unwrap(), Array2::<f64>::zeros((2, 3)));
    }
}

//! Maps between activation spaces: `x_expanded = E x_source`.

use super::bounded::Bounded;
use super::words::from_to;
use ndarray::Axis;

/// What an expanded coordinate holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Entry {
    /// `sign ·` the source coordinate `of`; the sign is ±1.
    Copy { of: usize, sign: f64 },
    /// The mean of all source coordinates.
    Mean,
    /// Zero.
    Zero,
}

/// A structured linear map: every expanded coordinate is `scale` times an [`Entry`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Map {
    /// Source coordinates.
    pub source: usize,
    /// One for each expanded coordinate.
    pub entries: Vec<Entry>,
    /// Common factor s.
    pub scale: f64,
    /// Error of the factor, relative to it; zero where it is known.
    pub scale_error: f64,
}

impl Map {
    /// Expanded coordinates.
    pub fn expanded(&self) -> usize {
        self.entries.len()
    }

    /// How many copies each source coordinate has.
    pub fn copies(&self) -> Vec<usize> {
        let mut copies = vec![0; self.source];
        for entry in &self.entries {
            if let Entry::Copy { of, .. } = entry {
                copies[*of] += 1;
            }
        }
        copies
    }

    /// The number of copies if every source coordinate has as many, and at least one.
    pub fn even_copies(&self) -> Option<usize> {
        let copies = self.copies();
        let first = *copies.first()?;
        (first > 0 && copies.iter().all(|k| *k == first)).then_some(first)
    }

    /// By how much an image is longer than what it is of, at least.
    pub fn growth(&self) -> f64 {
        self.scale.abs() * (self.even_copies().unwrap_or(1) as f64).sqrt()
    }

    /// Whether the map loses nothing: every source coordinate has a copy.
    pub fn is_injective(&self) -> bool {
        self.copies().iter().all(|k| *k > 0)
    }

    /// `E · matrix`: `[source, n]` becomes `[expanded, n]`.
    pub fn image(&self, matrix: &Bounded) -> Bounded {
        let mut image = Bounded::zeros(self.expanded(), matrix.cols());
        let (mean, mean_variance) = matrix.mean_row();
        let s = self.scale;
        for (i, entry) in self.entries.iter().enumerate() {
            let mut value = image.value.index_axis_mut(Axis(0), i);
            let mut variance = image.variance.index_axis_mut(Axis(0), i);
            match entry {
                Entry::Copy { of, sign } => {
                    value.assign(&matrix.value.row(*of));
                    value *= s * sign;
                    variance.assign(&matrix.variance.row(*of));
                    variance *= s * s;
                }
                Entry::Mean => {
                    value.assign(&mean);
                    value *= s;
                    variance.assign(&mean_variance);
                    variance *= s * s;
                }
                Entry::Zero => {}
            }
        }
        image
    }

    /// `rows · Eᵀ`: `[n, source]` becomes `[n, expanded]`.
    pub fn image_of_rows(&self, rows: &Bounded) -> Bounded {
        let mut image = Bounded::zeros(rows.rows(), self.expanded());
        let (s, n) = (self.scale, self.source as f64);
        for row in 0..rows.rows() {
            let (value, variance) = (rows.value.row(row), rows.variance.row(row));
            let (mean, mean_variance) = (value.sum() / n, variance.sum() / (n * n));
            for (i, entry) in self.entries.iter().enumerate() {
                let (v, b) = match entry {
                    Entry::Copy { of, sign } => (sign * value[*of], variance[*of]),
                    Entry::Mean => (mean, mean_variance),
                    Entry::Zero => (0.0, 0.0),
                };
                image.value[[row, i]] = s * v;
                image.variance[[row, i]] = s * s * b;
            }
        }
        image
    }

    /// Such as `384 → 1000: every channel copied 2 times, 232 hold the mean`.
    pub fn words(&self) -> String {
        let copies = self.copies();
        let fewest = copies.iter().min().copied().unwrap_or(0);
        let most = copies.iter().max().copied().unwrap_or(0);
        let same = (fewest, most, self.expanded()) == (1, 1, self.source);
        let mut parts = match (fewest, most) {
            (1, 1) if same && !self.in_order() => Vec::new(),
            (1, 1) if same => vec!["as they are".to_string()],
            (1, 1) => vec!["every channel once".to_string()],
            both => vec![format!("every channel copied {} times", from_to(both))],
        };
        if !self.in_order() {
            parts.push("permuted".to_string());
        }
        let count = |kind: fn(&Entry) -> bool| self.entries.iter().filter(|e| kind(e)).count();
        let means = count(|e| matches!(e, Entry::Mean));
        let zeros = count(|e| matches!(e, Entry::Zero));
        let negative = count(|e| matches!(e, Entry::Copy { sign, .. } if *sign < 0.0));
        if means > 0 {
            parts.push(format!("{means} hold the mean"));
        }
        if zeros > 0 {
            parts.push(format!("{zeros} hold zero"));
        }
        if negative > 0 {
            parts.push(format!("{negative} with their sign turned"));
        }
        if self.scale != 1.0 {
            parts.push(format!("all times {:.6}", self.scale));
        }
        let sizes = match self.source == self.expanded() {
            true => self.source.to_string(),
            false => format!("{} → {}", self.source, self.expanded()),
        };
        format!("{sizes}: {}", parts.join(", "))
    }

    /// Whether copy `i` is of coordinate `i mod source`.
    fn in_order(&self) -> bool {
        self.entries.iter().enumerate().all(|(i, entry)| match entry {
            Entry::Copy { of, .. } => *of == i % self.source,
            _ => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn average(source: usize, expanded: usize) -> Map {
        let whole = expanded / source * source;
        let entry = |i| match i < whole {
            true => Entry::Copy { of: i % source, sign: 1.0 },
            false => Entry::Mean,
        };
        let entries = (0..expanded).map(entry).collect();
        Map { source, entries, scale: 1.0, scale_error: 0.0 }
    }

    #[test]
    fn words_count_copies_and_means() {
        let words = "384 → 1000: every channel copied 2 times, 232 hold the mean";
        assert_eq!(average(384, 1000).words(), words);
        assert_eq!(average(4, 4).words(), "4: as they are");
        assert_eq!(average(12, 20).words(), "12 → 20: every channel once, 8 hold the mean");
    }

    #[test]
    fn the_image_copies_and_averages() {
        let column = Bounded::stored(array![[1.0], [3.0]], 0.0, 0.0);
        assert_eq!(average(2, 3).image(&column).value, array![[1.0], [3.0], [2.0]]);
    }
}

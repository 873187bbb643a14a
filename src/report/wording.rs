//! Numbers in words.

/// A number to three or four digits: `0.001234`, `1.2e-9`, `35`.
pub(super) fn figure(number: f64) -> String {
    let size = number.abs();
    if number == 0.0 || !number.is_finite() {
        return format!("{number}");
    }
    if number.fract() == 0.0 && size < 1e6 {
        return format!("{number}");
    }
    if !(1e-3..1e5).contains(&size) {
        return format!("{number:.1e}");
    }
    let digits = (2 - size.log10().floor() as i32).max(0) as usize;
    format!("{number:.digits$}")
}

/// A factor to four digits, or as what it differs from 1 by: `1.414`, `1 + 2.0e-5`.
pub(super) fn factor(number: f64) -> String {
    let off = number - 1.0;
    match off.abs() < 1e-3 {
        true => format!("1 {} {}", if off < 0.0 { '-' } else { '+' }, figure(off.abs())),
        false => format!("{number:.4}"),
    }
}

/// A number in full, as it reads back; [`f64::MAX`] stands for no limit.
pub(super) fn full(number: f64) -> String {
    let size = number.abs();
    if size == f64::MAX {
        "none".to_string()
    } else if size != 0.0 && !(1e-5..1e9).contains(&size) {
        format!("{number:e}")
    } else {
        number.to_string()
    }
}

/// A count with its digits in groups: `22 713 216`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 entry`, `2 entries`.
pub(super) fn plural(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_keep_three_digits() {
        let shown = [0.0, 35.0, 1.15470, 0.0012345, 1.23e-9, 123456.7].map(figure);
        assert_eq!(shown, ["0", "35", "1.15", "0.00123", "1.2e-9", "1.2e5"]);
    }

    #[test]
    fn factors_near_one_say_by_how_much() {
        assert_eq!([2.0, 1.29099, -0.5].map(factor), ["2.0000", "1.2910", "-0.5000"]);
        assert_eq!([1.00002, 0.9995].map(factor), ["1 + 2.0e-5", "1 - 5.0e-4"]);
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(count(22713216), "22 713 216");
        assert_eq!(plural(1, "entry", "entries"), "1 entry");
    }
}

//! Conditions on the configuration: ε, windows, how many experts are active, and whatever else both
//! models must do alike in code.

use super::bounded::UNITS;
use super::certificate::{Failure, Reach};
use super::channels::Equations;
use super::map::Map;
use super::side::unit;
use super::squares::{Ledger, Residual};
use super::stream::eta_squared;
use super::sublayer::Network;
use crate::checkpoint::{Config, Dtype};
use crate::model::{Attention, Experts, Norm, Op, Window};
use serde_json::Value;

impl Network<'_> {
    /// `ε_T = η² ε_S`, to the precision in which norms are computed.
    pub fn epsilon(&self, map: &Map, norms: (&Norm, &Norm), place: &str, ledger: &mut Ledger) {
        let (s, t) = norms;
        let Some(eta_squared) = eta_squared(map, s.kind) else { return };
        let expected = eta_squared * s.eps;
        // ε is a number of the configuration, exact to f64; but every framework that computes in
        // 32 bits or less adds it as an f32.
        let file = unit(Dtype::F32).min(self.expanded.unit_of_gamma(t));
        let bound = expected * (file + 2.0 * map.scale_error);
        let difference = t.eps - expected;
        let units = if difference == 0.0 { 0.0 } else { difference.abs() / bound };
        let mut residual = Residual::new(0.0);
        (residual.expected, residual.got, residual.units) = (expected, t.eps, units);
        residual.entries = 1;
        residual.exact = units <= 1e-6;
        if units <= UNITS {
            return ledger.hold(&residual);
        }
        let ratio = t.eps / s.eps;
        let eta = eta_squared.sqrt();
        let near = |x: f64| (ratio / x - 1.0).abs() < 1e-3;
        let known = match () {
            _ if near(1.0) => "ε is not scaled",
            _ if near(eta) => "ε is scaled by eta, not by its square",
            _ if near(1.0 / eta_squared) => "ε is scaled by the inverse",
            _ => "ε is not the source's times eta squared",
        };
        let field = t.eps_field.unwrap_or(FIXED_EPS);
        ledger.fail(Failure {
            rule: "ε of a norm must be the source's times eta squared".into(),
            place: place.into(),
            tensor: field.into(),
            source_tensor: s.eps_field.unwrap_or("ε").into(),
            index: Vec::new(),
            expected,
            got: t.eps,
            units,
            relative: (difference / expected).abs(),
            wrong: 1,
            entries: 1,
            cause: Some(format!("{known}: it must be {expected:e}")),
            doubtful: units <= 2.0 * UNITS,
            reach: Reach::Epsilon,
        });
    }

    /// `ε_T/n_T² = ε_S/n_S²` for norms of queries and keys, `n` the size of the rows in front of
    /// them: the worst head is told.
    pub fn head_epsilons(
        &self,
        (found, ambiguous): (&Equations, bool),
        op: &Op,
        place: &str,
        ledger: &mut Ledger,
    ) {
        let Op::Attention(attention) = op else { return };
        let Some(norms) = &attention.head_norms else { return };
        for (which, norm) in [&norms.query, &norms.key].into_iter().enumerate() {
            let faults = found.agreement.head_epsilons.iter().filter(|e| e.which == which);
            let Some(worst) = faults.max_by(|a, b| a.units.total_cmp(&b.units)) else { continue };
            let (expected, got) = (worst.expected, worst.got);
            let what = ["queries", "keys"][which];
            let cause = format!(
                "the rows in front of the norm of {what} demand {expected:e}; where one ε serves \
                 all norms, multiply these rows by {:.6}",
                (got / expected).sqrt()
            );
            ledger.fail(Failure {
                rule: format!("ε of the norm of {what} must grow as the square of their rows"),
                wrong: 1,
                cause: Some(cause),
                units: worst.units,
                doubtful: ambiguous || worst.units <= 2.0 * UNITS,
                reach: Reach::Epsilon,
                ..of_field(norm.eps_field.unwrap_or(FIXED_EPS), place, (expected, got))
            });
        }
    }
}

/// A step that the two models do differently in code.
pub(super) struct OtherCode {
    /// What differs, in words.
    pub reason: String,
    /// The fields that may say so.
    pub fields: &'static [&'static str],
}

impl Network<'_> {
    /// Books that a step differs: as a failure of the field that says so, if there is one that is
    /// not the source's. Whether it shows, a forward pass tells.
    pub fn other_code(&self, other: OtherCode, place: &str, ledger: &mut Ledger) {
        let configs = (self.source.checkpoint.config(), self.expanded.checkpoint.config());
        match other.failure(configs, place) {
            Some(failure) => ledger.fail(failure),
            None => ledger.unknown(place, other.reason),
        }
    }
}

impl OtherCode {
    /// The failure of the first of the fields that differs.
    pub fn failure(&self, (s, t): (&Config, &Config), place: &str) -> Option<Failure> {
        let field = self.fields.iter().find(|field| value(s, field) != value(t, field))?;
        let number = |config| value(config, field).and_then(Value::as_f64).unwrap_or(f64::NAN);
        Some(Failure {
            rule: "both models must do the same with the same numbers".into(),
            cause: Some(self.reason.clone()),
            relative: 1.0,
            ..of_field(field, place, (number(s), number(t)))
        })
    }
}

/// A field, wherever a configuration has it (timm's are in a section).
fn value<'a>(config: &'a Config, field: &str) -> Option<&'a Value> {
    config.get(field).or_else(|| config.get("model_args")?.get(field))
}

const FIXED_EPS: &str = "ε (fixed in the family's code)";

/// A number of the configuration that is not what it must be.
pub(super) fn of_field(field: &str, place: &str, (expected, got): (f64, f64)) -> Failure {
    Failure {
        rule: String::new(),
        place: place.into(),
        tensor: field.into(),
        source_tensor: field.into(),
        index: Vec::new(),
        expected,
        got,
        units: f64::MAX,
        relative: ((got - expected) / expected).abs(),
        wrong: 1,
        entries: 1,
        cause: None,
        doubtful: false,
        reach: Reach::Any,
    }
}

/// A layer sees as far back as the source's, or the softmax runs over other positions: window sizes
/// must be equal. A difference shows on inputs longer than the smaller one alone.
pub(super) fn window(source: &Attention, expanded: &Attention, place: &str, ledger: &mut Ledger) {
    let size = |window: &Option<Window>| window.map(|window| window.size);
    let (s, t) = (size(&source.window), size(&expanded.window));
    if s == t {
        return;
    }
    let Some(which) = expanded.window.or(source.window).map(|window| window.field) else { return };
    // Both see a window: it is the size that differs.
    let (field, advice) = match s.is_some() && t.is_some() {
        true => ("sliding_window", "it must stay as it is"),
        false => {
            (which, "a list with an entry for each layer must follow the layers that were inserted")
        }
    };
    let words = |size: Option<usize>| match size {
        Some(size) => format!("a window of {size} positions"),
        None => "no window".to_string(),
    };
    let cause = format!("the source's layer has {}, this one {}: {advice}", words(s), words(t));
    let number = |size: Option<usize>| size.map_or(f64::MAX, |size| size as f64);
    let smaller = s.into_iter().chain(t).min().unwrap_or(0);
    ledger.fail(Failure {
        rule: "a layer must see as many positions as the source's".into(),
        cause: Some(cause),
        relative: 1.0,
        doubtful: false,
        reach: Reach::Longer(smaller),
        ..of_field(field, place, (number(s), number(t)))
    });
}

/// With every expert copied m times, a token must go to m times as many.
pub(super) fn active(
    source: &Experts,
    expanded: &Experts,
    copies: usize,
    place: &str,
    ledger: &mut Ledger,
) {
    let (expected, got) = (copies * source.active, expanded.active);
    if expected == got {
        let mut residual = Residual::zero(1);
        (residual.expected, residual.got) = (expected as f64, got as f64);
        return ledger.hold(&residual);
    }
    ledger.fail(Failure {
        rule: "a token must go to every copy of an expert that the source sends it to".into(),
        cause: Some(format!(
            "there are {copies} times as many experts, so {copies} times as many must be active"
        )),
        ..of_field("num_experts_per_tok", place, (expected as f64, got as f64))
    });
}

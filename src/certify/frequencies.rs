//! A base of the rotary frequencies that is not the source's: a mistake of the configuration, which
//! looks like one in every query and key.
//!
//! Where the expanded model lacks a frequency of the source, its equations are held once more with
//! the base that would bring it back. If they all hold then, the base is all that is wrong.

use super::certificate::{Certificate, Failure};
use super::fields::of_field;
use super::{Method, held};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::Result;
use crate::model::{Attention, Model, Op, describe_as};
use serde_json::Value;

const RULE: &str = "heads must turn at the source's frequencies";

/// Where configurations keep the base: a section, if it is in one, and the field.
const PLACES: [(Option<&str>, &str); 4] = [
    (Some("rope_parameters"), "rope_theta"),
    (Some("rope_scaling"), "rope_theta"),
    (None, "rope_theta"),
    (None, "rotary_emb_base"),
];

type Place = (Option<&'static str>, &'static str);

/// The failure of the base alone, if that is all that `found` comes from.
///
/// # Errors
/// If a tensor cannot be read.
pub(super) fn base_fault(
    source: (&Checkpoint, &Model),
    expanded: (&Checkpoint, &Model),
    found: &Certificate,
) -> Result<Option<Failure>> {
    let Some(attentions) = turned(source.1).zip(turned(expanded.1)) else { return Ok(None) };
    if found.failures.is_empty() || has_all(attentions) {
        return Ok(None);
    }
    let Some((place, theirs)) = base(source.0.config()) else { return Ok(None) };
    let (place, mine) = match base(expanded.0.config()) {
        Some((place, base)) => (place, Some(base)),
        None => (place, None),
    };
    // In larger heads the same frequencies come back at other places, or at the same ones.
    let growth = attentions.1.head_dim as f64 / attentions.0.head_dim as f64;
    let mut candidates = vec![theirs, theirs.powf(growth)];
    candidates.dedup();
    for wanted in candidates.into_iter().filter(|base| Some(*base) != mine) {
        let config = with_base(expanded.0.config(), place, wanted);
        let tensors = expanded.0.tensors().clone();
        let checkpoint = Checkpoint::in_memory(expanded.0.path(), config, tensors);
        let Ok(model) = describe_as(&checkpoint, expanded.1.family) else { continue };
        let complete = turned(&model).is_some_and(|attention| has_all((attentions.0, attention)));
        if complete
            && held(Method::Streamed, source, (&checkpoint, &model), &|_, _| ())?.proves_lossless()
        {
            let got = mine.map_or("left to its default".to_string(), |base| format!("{base}"));
            let field = place.1;
            let cause = format!("`{field}` is {got}: with {wanted} every equation holds");
            return Ok(Some(Failure {
                rule: RULE.into(),
                cause: Some(cause),
                ..of_field(place.1, "rotary positions", (wanted, mine.unwrap_or(f64::NAN)))
            }));
        }
    }
    Ok(None)
}

/// The first attention with rotary positions.
fn turned(model: &Model) -> Option<&Attention> {
    let mut branches = model.layers.iter().flatten().flat_map(|sublayer| &sublayer.branches);
    branches.find_map(|branch| match &branch.op {
        Op::Attention(attention) if attention.rotary.is_some() => Some(&**attention),
        _ => None,
    })
}

/// Whether the expanded model turns at all frequencies of the source.
fn has_all((source, expanded): (&Attention, &Attention)) -> bool {
    let of = |attention: &Attention| attention.rotary.as_ref().map(|r| r.frequencies.to_vec());
    let (Some(source), Some(expanded)) = (of(source), of(expanded)) else { return true };
    let has = |wanted: &f64| expanded.iter().any(|f| (f - wanted).abs() <= 1e-12 * wanted.abs());
    source.iter().all(has)
}

fn base(config: &Config) -> Option<(Place, f64)> {
    PLACES.into_iter().find_map(|place| {
        let within = match place.0 {
            Some(section) => config.get(section)?.get(place.1)?,
            None => config.get(place.1)?,
        };
        Some((place, within.as_f64()?))
    })
}

fn with_base(config: &Config, (section, field): Place, base: f64) -> Config {
    let mut config = config.clone();
    match section.and_then(|section| Some((section, config.get(section)?.as_object()?.clone()))) {
        Some((section, mut inner)) => {
            inner.insert(field.into(), base.into());
            config.set(section, Value::Object(inner));
        }
        None => config.set(field, base),
    }
    config
}

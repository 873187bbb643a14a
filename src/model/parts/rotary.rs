//! Rotary positions as configurations write them: `rope_parameters` (transformers version 5), or
//! `rope_theta` and `rope_scaling` (version 4).

use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::Rotary;
use serde_json::Value;
use std::f64::consts::TAU;

/// What holds where the configuration says nothing.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct RotaryDefaults {
    /// The base of the frequencies.
    pub theta: f64,
    /// The share of a head's channels that is turned; `None` where the family turns all of them,
    /// whatever the configuration says.
    pub partial: Option<f64>,
}

/// Reads the frequencies of heads with `head_dim` channels.
///
/// # Errors
/// If a setting is not implemented or unusable, or an odd number of channels is to be turned.
pub(in crate::model) fn rotary(
    config: &Config,
    head_dim: usize,
    defaults: RotaryDefaults,
) -> Result<Rotary> {
    let (field, section) = section(config)?;
    let kind = section.word_or("rope_type", section.word_or("type", "default")?)?;
    let theta = config.positive_or("rope_theta", defaults.theta)?;
    let theta = section.positive_or("rope_theta", theta)?;
    let scaling = match kind {
        "default" => Scaling::None,
        "linear" => Scaling::Linear(needed(&section, "factor")?),
        "llama3" => Scaling::Llama3(Llama3::read(config, &section)?),
        _ => {
            let problem = format!("rotary scaling of type `{kind}` is not implemented");
            let help = "implemented are: default, linear, llama3";
            return Err(config.unsupported(field, problem).help(help));
        }
    };
    let turned = turned_channels(config, &section, head_dim, defaults.partial)?;
    let pair = |pair: usize| theta.powf(-2.0 * pair as f64 / turned as f64);
    Ok(Rotary { frequencies: (0..turned / 2).map(|i| scaling.apply(pair(i))).collect() })
}

/// The settings and the field that they are in; none are an empty object.
fn section(config: &Config) -> Result<(&'static str, Config)> {
    let is_something = |section: &Config| !section.json().is_empty();
    let new = config.section("rope_parameters")?.filter(is_something);
    let old = config.section("rope_scaling")?.filter(is_something);
    let (field, section) = match (new, old) {
        (Some(new), Some(old)) if new.json() != old.json() => {
            let problem = "it differs from `rope_parameters`, another name of it";
            let error = Error::bad_input(problem).at(config.origin()).field("rope_scaling");
            return Err(error.help("remove one of the two"));
        }
        (Some(new), _) => ("rope_parameters", new),
        (None, Some(old)) => ("rope_scaling", old),
        (None, None) => ("rope_parameters", Config::new(config.origin(), Default::default())),
    };
    if section.json().values().any(|value| value.is_object()) {
        let problem = "rotary positions that differ by the type of layer are not implemented";
        return Err(config.unsupported(field, problem));
    }
    Ok((field, section))
}

/// How many channels of a head are turned: `int(head_dim · partial_rotary_factor)`, truncated.
fn turned_channels(
    config: &Config,
    section: &Config,
    head_dim: usize,
    default: Option<f64>,
) -> Result<usize> {
    const FIELD: &str = "partial_rotary_factor";
    let written = config.positive_or(FIELD, default.unwrap_or(1.0))?;
    let share = section.positive_or(FIELD, written)?;
    if share != 1.0 && default.is_none() {
        let problem = "partial rotary positions are not implemented for this family";
        return Err(config.unsupported(FIELD, problem));
    }
    let turned = (head_dim as f64 * share) as usize;
    if turned == 0 || turned > head_dim || turned % 2 == 1 {
        let problem = format!(
            "rotary positions turn pairs of channels, but {turned} of {head_dim} are to be turned"
        );
        let field = if share == 1.0 { "head_dim" } else { FIELD };
        return Err(Error::bad_input(problem).at(config.origin()).field(field));
    }
    Ok(turned)
}

/// Writes the factor with which heads of `head_dim` channels turn as many as those of `before`
/// did: the channels that are added then pass unchanged.
pub(in crate::model) fn keep_turned_channels(
    config: &mut Config,
    before: usize,
    head_dim: usize,
    default: f64,
) {
    const FIELD: &str = "partial_rotary_factor";
    let in_section = ["rope_parameters", "rope_scaling"].into_iter().find(|field| {
        config.get(field).and_then(|section| section.get(FIELD)).is_some_and(|v| !v.is_null())
    });
    let written = match in_section {
        Some(field) => config.get(field).and_then(|section| section.get(FIELD)),
        None => config.get(FIELD),
    };
    let share = written.map_or(Some(default), |value| value.as_f64()).unwrap_or(default);
    let turned = (before as f64 * share) as usize;
    if before == head_dim {
        return;
    }
    // The quotient may fall short of the whole number when it is multiplied again: then half a
    // channel more, so that truncation cannot lose one.
    let exact = turned as f64 / head_dim as f64;
    let kept = (head_dim as f64 * exact) as usize == turned;
    let share = if kept { exact } else { (turned as f64 + 0.5) / head_dim as f64 };
    let section = in_section.and_then(|field| Some((field, config.section(field).ok()??)));
    match section {
        Some((field, mut section)) => {
            section.set(FIELD, share);
            config.set(field, section.json().clone());
        }
        None => config.set(FIELD, share),
    }
}

/// Writes the base with which heads of `after` channels have all frequencies of heads of `before`,
/// θ^(after/before), and lower ones; `default` is θ where the configuration has none. At a multiple
/// θ stays, with which every m-th frequency is one of before.
pub(in crate::model) fn keep_frequencies(
    config: &mut Config,
    before: usize,
    after: usize,
    default: f64,
) {
    const FIELD: &str = "rope_theta";
    if after.is_multiple_of(before) || after < before {
        return;
    }
    let grown = |theta: f64| theta.powf(after as f64 / before as f64);
    let theta_of = |json: Option<&Value>| json.and_then(Value::as_f64).filter(|t| *t > 0.0);
    let outside = theta_of(config.get(FIELD));
    let mut inside = None;
    for field in ["rope_parameters", "rope_scaling"] {
        let Ok(Some(mut section)) = config.section(field) else { continue };
        // Where version 5 keeps all settings, a default belongs there too.
        let own = theta_of(section.get(FIELD));
        let unwritten = outside.is_none() && field == "rope_parameters";
        if let Some(theta) = own.or(unwritten.then_some(default)) {
            section.set(FIELD, grown(theta));
            config.set(field, section.json().clone());
            inside = Some(theta);
        }
    }
    // One that a section overrules stays, unless it is the same.
    if inside.is_none() || inside == outside {
        config.set(FIELD, grown(outside.unwrap_or(default)));
    }
}

/// A positive number that must be there.
fn needed(section: &Config, field: &str) -> Result<f64> {
    match section.get(field) {
        Some(_) => section.positive_or(field, 1.0),
        None => Err(section.missing(field)),
    }
}

/// What is done to the frequencies.
enum Scaling {
    None,
    /// Division by a factor.
    Linear(f64),
    Llama3(Llama3),
}

impl Scaling {
    fn apply(&self, frequency: f64) -> f64 {
        match self {
            Scaling::None => frequency,
            Scaling::Linear(factor) => frequency / factor,
            Scaling::Llama3(llama3) => llama3.apply(frequency),
        }
    }
}

/// Llama 3.1: low frequencies are divided by a factor, high ones stay, and between them there is a
/// smooth change.
struct Llama3 {
    factor: f64,
    /// Below so many turns within the context of pre-training a frequency is low.
    low: f64,
    /// Above so many turns it is high.
    high: f64,
    /// Positions of the context of pre-training.
    context: f64,
}

impl Llama3 {
    fn read(config: &Config, section: &Config) -> Result<Llama3> {
        const CONTEXT: &str = "original_max_position_embeddings";
        let context = needed(section, CONTEXT)?;
        if config.positive_or(CONTEXT, context)? != context {
            let problem = format!("it differs from that of the rotary settings, {context}");
            return Err(Error::bad_input(problem).at(config.origin()).field(CONTEXT));
        }
        let (low, high) =
            (needed(section, "low_freq_factor")?, needed(section, "high_freq_factor")?);
        if low >= high {
            let problem = format!("it must be above `low_freq_factor`, {low}, and is {high}");
            let error = Error::bad_input(problem).at(config.origin());
            return Err(error.field("high_freq_factor"));
        }
        Ok(Llama3 { factor: needed(section, "factor")?, low, high, context })
    }

    fn apply(&self, frequency: f64) -> f64 {
        let turns = self.context * frequency / TAU;
        let share = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        (1.0 - share) * frequency / self.factor + share * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ALL: RotaryDefaults = RotaryDefaults { theta: 10_000.0, partial: None };
    const QUARTER: RotaryDefaults = RotaryDefaults { theta: 10_000.0, partial: Some(0.25) };

    fn config(json: Value) -> Config {
        Config::new("config.json", json.as_object().unwrap().clone())
    }

    fn frequencies(json: Value, head_dim: usize, defaults: RotaryDefaults) -> Vec<f64> {
        rotary(&config(json), head_dim, defaults).unwrap().frequencies.to_vec()
    }

    #[test]
    fn both_versions_of_the_settings_are_read() {
        for settings in [
            json!({ "rope_theta": 100.0 }),
            json!({ "rope_theta": 100.0, "rope_scaling": null }),
            json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 100.0 } }),
            json!({ "rope_theta": 5.0, "rope_parameters": { "rope_theta": 100.0 } }),
        ] {
            assert_eq!(frequencies(settings, 4, ALL), [1.0, 0.1]);
        }
        let linear =
            json!({ "rope_theta": 100.0, "rope_scaling": { "type": "linear", "factor": 4 } });
        assert_eq!(frequencies(linear, 4, ALL), [0.25, 0.025]);
    }

    #[test]
    fn the_number_of_turned_channels_is_truncated() {
        for (head_dim, count) in [(8, 1), (16, 2), (19, 2)] {
            assert_eq!(frequencies(json!({}), head_dim, QUARTER).len(), count);
        }
        let half = json!({ "partial_rotary_factor": 0.5 });
        assert_eq!(frequencies(half, 8, QUARTER).len(), 2);
        let section = json!({
            "partial_rotary_factor": 0.5, "rope_parameters": { "partial_rotary_factor": 1.0 }
        });
        assert_eq!(frequencies(section, 8, QUARTER).len(), 4);
    }

    #[test]
    fn larger_heads_keep_their_turned_channels() {
        for settings in [
            json!({}),
            json!({ "partial_rotary_factor": 0.25 }),
            json!({ "partial_rotary_factor": 1.0 }),
            json!({ "rope_parameters": { "partial_rotary_factor": 0.25, "rope_theta": 100.0 } }),
        ] {
            let before = frequencies(settings.clone(), 16, QUARTER);
            for head_dim in [17, 20, 49, 64] {
                let mut changed = config(settings.clone());
                keep_turned_channels(&mut changed, 16, head_dim, 0.25);
                let after = rotary(&changed, head_dim, QUARTER).unwrap().frequencies;
                assert_eq!(*after, *before, "{head_dim}");
            }
        }
    }

    #[test]
    fn larger_heads_keep_every_frequency_with_another_base() {
        let llama3 = json!({
            "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 2.0, "original_max_position_embeddings": 16
        });
        for settings in [
            json!({}),
            json!({ "rope_theta": 100.0 }),
            json!({ "rope_theta": 100.0, "rope_scaling": { "type": "linear", "factor": 4.0 } }),
            json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 100.0 } }),
            json!({ "rope_parameters": { "rope_type": "default" } }),
            json!({ "rope_theta": 5.0, "rope_parameters": { "rope_theta": 100.0 } }),
            json!({ "rope_parameters": llama3 }),
        ] {
            let before = frequencies(settings.clone(), 8, ALL);
            for head_dim in [8, 10, 14, 16, 22] {
                let mut changed = config(settings.clone());
                keep_frequencies(&mut changed, 8, head_dim, 10_000.0);
                let after = rotary(&changed, head_dim, ALL).unwrap().frequencies;
                let has = |f: &f64| after.iter().any(|g| (f - g).abs() <= 1e-14 * f);
                assert!(before.iter().all(has), "{head_dim}: {before:?} {after:?} {settings}");
            }
        }
    }

    #[test]
    fn a_base_that_two_places_say_is_changed_in_both() {
        let both = json!({ "rope_theta": 100.0, "rope_parameters": { "rope_theta": 100.0 } });
        let mut changed = config(both);
        keep_frequencies(&mut changed, 4, 6, 10_000.0);
        assert_eq!(changed.get("rope_theta"), Some(&json!(1000.0)));
        assert_eq!(changed.get("rope_parameters").unwrap()["rope_theta"], json!(1000.0));
    }

    #[test]
    fn what_is_not_implemented_or_contradictory_is_refused_by_its_field() {
        for (settings, words) in [
            (json!({ "rope_scaling": { "type": "dynamic", "factor": 2.0 } }), "`dynamic`"),
            (json!({ "rope_scaling": { "type": "dynamic" } }), "implemented are: default, linear"),
            (json!({ "rope_scaling": { "rope_type": "yarn", "factor": 2.0 } }), "rope_scaling"),
            (json!({ "rope_parameters": { "rope_type": "longrope" } }), "rope_parameters"),
            (json!({ "rope_parameters": { "full_attention": {} } }), "differ by the type"),
            (json!({ "rope_parameters": { "rope_type": "linear" } }), "`factor`"),
            (json!({ "partial_rotary_factor": 0.5 }), "partial_rotary_factor"),
            (
                json!({ "rope_parameters": { "rope_theta": 1 }, "rope_scaling": { "a": 1 } }),
                "remove",
            ),
        ] {
            let message = rotary(&config(settings), 4, ALL).unwrap_err().to_string();
            assert!(message.contains(words), "{words}: {message}");
        }
        let message = rotary(&config(json!({})), 5, ALL).unwrap_err().to_string();
        assert!(message.contains("head_dim") && message.contains("5 of 5"), "{message}");
    }
}

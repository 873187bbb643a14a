//! Rotary positions that turn a part of each head's channels.

use crate::checkpoint::Config;
use crate::error::{Error, Result};
use crate::model::Rotary;
use serde_json::Value;

/// Where a family's configuration says how many of a head's channels are turned, and how fast.
///
/// Version 5 of Hugging Face's library writes `rope_parameters` with `rope_theta` and
/// `partial_rotary_factor`; version 4 wrote fields of its own for each family.
pub(in crate::model) struct PartialRotary {
    /// Version 4's fields for the base of the frequencies; 10000 where there is none.
    pub base: &'static [&'static str],
    /// Version 4's fields for the part of the channels that is turned.
    pub part: &'static [&'static str],
    /// The part where there is no field.
    pub default_part: f64,
}

/// The two names of the section; version 5 reads both.
const SECTIONS: [&str; 2] = ["rope_parameters", "rope_scaling"];
/// The field of the part inside a section.
const PART: &str = "partial_rotary_factor";

impl PartialRotary {
    /// The embedding of heads of `head_dim` channels.
    ///
    /// # Errors
    /// If the type is not implemented, two fields contradict each other, or the turned channels
    /// are none, an odd number, or more than there are.
    pub fn read(&self, config: &Config, head_dim: usize) -> Result<Rotary> {
        let turned = self.turned(config, head_dim)?;
        if turned == 0 || turned > head_dim || !turned.is_multiple_of(2) {
            let problem = format!(
                "it turns {turned} of {head_dim} channels; an even number from 2 to {head_dim} is \
                 implemented"
            );
            return Err(config.unsupported(self.part[0], problem));
        }
        let base = value(config, "rope_theta", self.base, 10_000.0)?;
        let frequency = |pair: usize| base.powf(-2.0 * pair as f64 / turned as f64);
        Ok(Rotary { frequencies: (0..turned / 2).map(frequency).collect() })
    }

    /// How many channels of a head are turned: the product truncated, as the library does it.
    fn turned(&self, config: &Config, head_dim: usize) -> Result<usize> {
        let part = value(config, PART, self.part, self.default_part)?;
        Ok((head_dim as f64 * part) as usize)
    }

    /// Changes the part so that heads that grow from `from` to `to` channels turn as many as
    /// before.
    pub fn keep_turned(&self, config: &mut Config, from: usize, to: usize) {
        let Ok(turned) = self.turned(config, from) else { return };
        if self.turned(config, to).is_ok_and(|same| same == turned) {
            return;
        }
        // The quotient may fall short of the whole number when it is multiplied again.
        let exact = turned as f64 / to as f64;
        let kept = (to as f64 * exact) as usize == turned;
        let part = if kept { exact } else { (turned as f64 + 0.5) / to as f64 };
        let mut fields: Vec<&str> =
            self.part.iter().copied().filter(|field| config.get(field).is_some()).collect();
        for name in SECTIONS {
            let Some(Value::Object(section)) = config.get(name) else { continue };
            if section.get(PART).is_some_and(|old| !old.is_null()) {
                let mut section = section.clone();
                section.insert(PART.into(), part.into());
                config.set(name, section);
                fields.push(name);
            }
        }
        if fields.is_empty() {
            fields.push(self.part[0]);
        }
        for field in fields.into_iter().filter(|field| !SECTIONS.contains(field)) {
            config.set(field, part);
        }
    }
}

/// The one section that is there.
fn section(config: &Config) -> Result<Option<Config>> {
    let mut found: Option<Config> = None;
    for name in SECTIONS {
        let Some(section) = config.section(name)?.filter(|s| !s.json().is_empty()) else {
            continue;
        };
        let kind = section.word_or("rope_type", section.word_or("type", "default")?)?;
        if kind != "default" {
            let problem = format!("rotary positions of type `{kind}` are not implemented");
            return Err(config.unsupported(name, problem));
        }
        if section.json().values().any(Value::is_object) {
            let problem = "rotary positions that differ between layers are not implemented";
            return Err(config.unsupported(name, problem));
        }
        if found.replace(section).is_some() {
            let problem = "it stands beside `rope_parameters`, which says the same thing";
            let error = Error::bad_input(problem).at(config.origin()).field(name);
            return Err(error.help("remove one of the two"));
        }
    }
    Ok(found)
}

/// A number that stands in the section as `inside`, or in the configuration as one of `outside`.
fn value(config: &Config, inside: &str, outside: &[&str], default: f64) -> Result<f64> {
    let section = section(config)?;
    let places = section.iter().map(|section| (section, inside));
    let places = places.chain(outside.iter().map(|field| (config, *field)));
    let mut found: Option<(&str, f64)> = None;
    for (place, field) in places.filter(|(place, field)| place.get(field).is_some()) {
        let value = place.positive_or(field, default)?;
        match found {
            Some((first, other)) if other != value => {
                let problem =
                    format!("it is {value}, but `{first}` of the same meaning is {other}");
                let error = Error::bad_input(problem).at(config.origin()).field(field);
                return Err(error.help("remove the one that is wrong"));
            }
            _ => found = Some((field, value)),
        }
    }
    Ok(found.map_or(default, |(_, value)| value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const NEOX: PartialRotary =
        PartialRotary { base: &["rotary_emb_base"], part: &["rotary_pct"], default_part: 0.25 };

    fn config(text: &str) -> Config {
        Config::parse(Path::new("config.json"), text).unwrap()
    }

    #[test]
    fn the_turned_channels_stay_when_heads_grow() {
        for text in [
            r#"{"rotary_pct": 0.5}"#,
            r#"{}"#,
            r#"{"rope_parameters": {"rope_theta": 10000, "partial_rotary_factor": 0.5}}"#,
            r#"{"rotary_pct": 0.5, "rope_parameters": {"partial_rotary_factor": 0.5}}"#,
        ] {
            for to in 16..200 {
                let mut grown = config(text);
                let before = NEOX.read(&grown, 16).unwrap();
                NEOX.keep_turned(&mut grown, 16, to);
                assert_eq!(NEOX.read(&grown, to).unwrap(), before, "{text}, {to}");
            }
        }
    }

    #[test]
    fn truncation_is_not_rounding() {
        // 49·(4/49) is a little less than 4.
        let part = 4.0 / 49.0;
        assert_eq!(NEOX.turned(&config(&format!("{{\"rotary_pct\": {part}}}")), 49).unwrap(), 3);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, words) in [
            (r#"{"rotary_pct": 0.2}"#, "it turns 3 of 16 channels"),
            (r#"{"rotary_pct": 0.01}"#, "it turns 0 of 16 channels"),
            (r#"{"rotary_pct": 1.5}"#, "it turns 24 of 16 channels"),
            (r#"{"rope_scaling": {"type": "linear", "factor": 2}}"#, "type `linear`"),
            (r#"{"rope_parameters": {"rope_type": "yarn"}}"#, "type `yarn`"),
            (r#"{"rope_parameters": {"full_attention": {}}}"#, "differ between layers"),
            (
                r#"{"rope_parameters": {"rope_theta": 1}, "rope_scaling": {"rope_theta": 1}}"#,
                "stands beside",
            ),
            (
                r#"{"rotary_emb_base": 500, "rope_parameters": {"rope_theta": 10000}}"#,
                "it is 500, but `rope_theta` of the same meaning is 10000",
            ),
        ] {
            let message = NEOX.read(&config(text), 16).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
        }
    }
}

//! JSON objects in which a name may appear once only.
//!
//! Of two values under one name, a JSON reader keeps either, silently. In a header or an index that
//! would hide a tensor, so that here it is an error.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// A JSON object without duplicate names.
pub(super) struct Unique<V>(pub BTreeMap<String, V>);

/// Adds an entry to `map`.
///
/// # Errors
/// If there is one of that name.
pub(super) fn insert<V, E: Error>(
    map: &mut BTreeMap<String, V>,
    name: String,
    value: V,
) -> Result<(), E> {
    if map.contains_key(&name) {
        return Err(E::custom(format!("the name {name:?} appears twice")));
    }
    map.insert(name, value);
    Ok(())
}

struct Reader<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Reader<V> {
    type Value = Unique<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((name, value)) = access.next_entry()? {
            insert(&mut map, name, value)?;
        }
        Ok(Unique(map))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Reader(PhantomData))
    }
}

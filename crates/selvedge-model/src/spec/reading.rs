//! Reading a [`LayerSpec`] from a table whose key `layer` names it.
//!
//! The derived code knows every layer but the activations, whose names are those of [`Activation`]. [`LayerTable`] stands
//! between the format and the derived code. It replaces the name of an activation by `flatten`, another layer without options,
//! so that the derived code refuses every other key; the activation takes its place afterwards. The error for an unknown name
//! lists all names, those of the derived code and of the activations.

use std::fmt;

use selvedge_compute::activation::Activation;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, de::Error as _};

use crate::spec::layer::LayerSpec;

/// The key that names a layer.
const TAG: &str = "layer";

/// A layer without options.
const WITHOUT_OPTIONS: &str = "flatten";

/// Reads a map inside a visitor, not around one, so that errors happen where the format knows the line of this layer.
/// (Serde's own code for tagged enums reads the map to its end before it finds errors.)
impl<'de> Deserialize<'de> for LayerSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LayerVisitor;

        impl<'de> Visitor<'de> for LayerVisitor {
            type Value = LayerSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a layer such as { layer = \"relu\" }")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<LayerSpec, A::Error> {
                let mut activation = None;
                let table = LayerTable { map, at_tag: false, activation: &mut activation };
                let layer = LayerSpec::deserialize(MapAccessDeserializer::new(table))?;
                Ok(activation.map_or(layer, LayerSpec::Activation))
            }
        }

        deserializer.deserialize_map(LayerVisitor)
    }
}

/// The keys and values of a layer, with the name of an activation replaced by [`WITHOUT_OPTIONS`].
struct LayerTable<'a, A> {
    map: A,
    /// Whether the last key was [`TAG`].
    at_tag: bool,
    activation: &'a mut Option<Activation>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for LayerTable<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.map.next_key::<String>()? else { return Ok(None) };
        self.at_tag = key == TAG;
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        if !self.at_tag {
            return self.map.next_value_seed(seed);
        }
        let name: String = self.map.next_value()?;
        *self.activation = Activation::from_name(&name);
        let known = if self.activation.is_some() { WITHOUT_OPTIONS } else { &name };
        seed.deserialize(StrDeserializer::<KnownLayers>::new(known)).map_err(|KnownLayers(layers)| {
            let names = layers.iter().copied().chain(Activation::ALL.map(Activation::name));
            let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
            A::Error::custom(format_args!("unknown layer `{name}`, expected one of {}", names.join(", ")))
        })
    }
}

/// The error of the derived code for a name that it does not know: the names that it knows.
#[derive(Debug)]
struct KnownLayers(&'static [&'static str]);

impl de::Error for KnownLayers {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_: &str, known: &'static [&'static str]) -> Self {
        Self(known)
    }
}

impl std::error::Error for KnownLayers {}

impl fmt::Display for KnownLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected one of {:?}", self.0)
    }
}

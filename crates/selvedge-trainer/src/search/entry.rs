//! The entries of the tables `set` and `values`: keys of the recipe with their values, which know their lines.

use std::fmt::Display;

use serde::Deserialize;
use toml::de::DeValue;
use toml::{Spanned, Table, Value};

use super::error::SearchError;
use super::space::{Choice, Dimension, Domain};
use crate::recipe::place;

/// The text of a file, and what errors call it.
pub(super) struct Text<'a> {
    pub(super) origin: &'a str,
    pub(super) text: &'a str,
}

impl Text<'_> {
    pub(super) fn refuse(&self, key: &str, problem: impl Into<String>) -> SearchError {
        SearchError::Value { place: self.place(key), key: key.to_owned(), problem: problem.into() }
    }

    /// The file and the line of a key.
    pub(super) fn place(&self, key: &str) -> String {
        match place::line_of(self.text, key) {
            Some(line) => self.at_line(line),
            None => self.origin.to_owned(),
        }
    }

    fn place_at(&self, byte: usize) -> String {
        self.at_line(place::line_and_column(self.text, byte).0)
    }

    fn at_line(&self, line: impl Display) -> String {
        format!("{}, line {line}", self.origin)
    }

    /// The entries of a table, in the order of the file. `descends` decides by a table, and by whether its key is written
    /// with a dot after it, whether the entries are inside.
    pub(super) fn collect(
        &self,
        spanned: Option<&Spanned<DeValue<'_>>>,
        table: &Table,
        prefix: &str,
        entries: &mut Vec<Entry>,
        descends: &impl Fn(&Table, bool) -> bool,
    ) {
        let Some(DeValue::Table(members)) = spanned.map(Spanned::get_ref) else { return };
        let mut members: Vec<_> = members.iter().collect();
        members.sort_by_key(|(key, _)| key.span().start);
        for (name, value) in members {
            let key = format!("{prefix}{}", name.get_ref());
            let Some(plain) = table.get(name.get_ref().as_ref()) else { continue };
            let dotted = self.text.get(name.span().end..).is_some_and(|rest| rest.trim_start().starts_with('.'));
            match plain {
                Value::Table(inner) if descends(inner, dotted) => {
                    self.collect(Some(value), inner, &format!("{key}."), entries, descends);
                }
                plain => {
                    let elements = match value.get_ref() {
                        DeValue::Array(elements) => {
                            elements.iter().map(|element| self.place_at(element.span().start)).collect()
                        }
                        _ => Vec::new(),
                    };
                    entries.push(Entry {
                        key,
                        value: plain.clone(),
                        place: self.place_at(name.span().start),
                        elements,
                    });
                }
            }
        }
    }
}

/// Whether a table in `values` is a range, and not one with keys of the recipe.
pub(super) fn is_range(table: &Table) -> bool {
    table.contains_key("min") || table.contains_key("max")
}

/// A key of the recipe in `set` or `values`, as a dotted path, with its value.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Value,
    /// The file and the line of the key.
    pub(super) place: String,
    /// The file and the line of each element, if the value is a list.
    elements: Vec<String>,
}

/// The table of a range.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeKeys {
    min: Value,
    max: Value,
    #[serde(default)]
    log: bool,
}

impl Entry {
    pub(super) fn refuse(&self, problem: impl Into<String>) -> SearchError {
        SearchError::Value { place: self.place.clone(), key: self.key.clone(), problem: problem.into() }
    }

    /// The entry as a searched key; a grid has no ranges.
    pub(super) fn dimension(self, is_grid: bool) -> Result<Dimension, SearchError> {
        let domain = match &self.value {
            Value::Array(list) => self.choices(list)?,
            Value::Table(_) if is_grid => {
                return Err(self.refuse("a grid needs a list of values; ranges are for method = \"random\""));
            }
            Value::Table(table) => self.range(table)?,
            other => {
                let expected =
                    "expected a list of values such as [0.1, 0.2], or a range such as { min = 0.1, max = 0.5 }";
                return Err(self.refuse(format!("{other} is not possible: {expected}")));
            }
        };
        Ok(Dimension { key: self.key, place: self.place, domain })
    }

    fn choices(&self, list: &[Value]) -> Result<Domain, SearchError> {
        if list.is_empty() {
            return Err(self.refuse("the list is empty: name at least one value"));
        }
        if let Some(i) = (1..list.len()).find(|&i| list[..i].contains(&list[i])) {
            return Err(self.refuse(format!("{} is there twice: a trial would only be repeated", list[i])));
        }
        let place = |i: usize| self.elements.get(i).unwrap_or(&self.place).clone();
        Ok(Domain::Choices(
            list.iter().enumerate().map(|(i, value)| Choice { value: value.clone(), place: place(i) }).collect(),
        ))
    }

    fn range(&self, table: &Table) -> Result<Domain, SearchError> {
        let RangeKeys { min, max, log } = RangeKeys::deserialize(table.clone())
            .map_err(|error| self.refuse(error.message().replace("unknown field", "unknown key")))?;
        let number = |value: &Value| match value {
            Value::Integer(integer) => Some(*integer as f64),
            Value::Float(float) => Some(*float).filter(|float| float.is_finite()),
            _ => None,
        };
        let (Some(least), Some(most)) = (number(&min), number(&max)) else {
            return Err(self.refuse(format!("min = {min}, max = {max} is not possible: two numbers")));
        };
        if least >= most {
            return Err(self.refuse(format!("min = {min}, max = {max} is not possible: min must be below max")));
        }
        if log && least <= 0.0 {
            return Err(self.refuse(format!("min = {min} is not possible with log = true: a number above 0")));
        }
        Ok(match (min, max) {
            (Value::Integer(min), Value::Integer(max)) => Domain::Integers { min, max, log },
            _ => Domain::Numbers { min: least, max: most, log },
        })
    }
}

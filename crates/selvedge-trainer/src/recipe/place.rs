//! Finds the key that a deserialisation error is about, and the line of a key.
//!
//! serde reports neither inside a tagged enum such as a layer or an optimizer. But a recipe is small and deserialises fast,
//! so the key is found by experiment: remove a key, and see whether the error changes.

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// Keys that select the variant of a table: the meaning of its other keys depends on them.
const TAGS: [&str; 3] = ["kind", "layer", "op"];

/// The dotted path of the key that makes `T` refuse the document with `message`; empty for the document itself.
///
/// Deserialisation stops at the first error, so keys after the culprit cannot change the message: the culprit is the last of
/// the keys that do, or lies inside it. A tag changes the meaning of the keys beside it, and is blamed only if none of them
/// is. A missing key belongs to the table that accepts it.
pub(crate) fn blame<T: DeserializeOwned>(document: &Table, message: &str) -> String {
    let document = Value::Table(document.clone());
    let message_after = |change: &dyn Fn(&mut Value)| {
        let mut changed = document.clone();
        change(&mut changed);
        changed.try_into::<T>().err().map(|error| error.message().to_owned()).unwrap_or_default()
    };
    if let Some(key) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        let mut tables = Vec::new();
        collect_tables(&document, &mut Vec::new(), &mut tables);
        let lacks = |path: &&Vec<String>| {
            let new = message_after(&|document| insert(document, path, key));
            new != message && !new.starts_with("unknown field")
        };
        return tables.iter().find(lacks).map(|path| path.join(".")).unwrap_or_default();
    }
    let mut path: Vec<String> = Vec::new();
    while let Some(value) = descend(&document, &path) {
        let matters = |segment: &&String| {
            let child: Vec<String> = path.iter().chain([*segment]).cloned().collect();
            message_after(&|document| remove(document, &child)) != message
        };
        let (tags, keys): (Vec<String>, Vec<String>) =
            segments(value).into_iter().partition(|segment| TAGS.contains(&segment.as_str()));
        let Some(next) = keys.iter().rev().find(matters).or_else(|| tags.iter().find(matters)) else { break };
        path.push(next.clone());
    }
    path.join(".")
}

fn segments(value: &Value) -> Vec<String> {
    match value {
        Value::Table(table) => table.keys().cloned().collect(),
        Value::Array(array) => (0..array.len()).map(|index| index.to_string()).collect(),
        _ => Vec::new(),
    }
}

fn descend<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, segment| match value {
        Value::Table(table) => table.get(segment),
        Value::Array(array) => array.get(segment.parse::<usize>().ok()?),
        _ => None,
    })
}

fn collect_tables(value: &Value, path: &mut Vec<String>, tables: &mut Vec<Vec<String>>) {
    if value.is_table() {
        tables.push(path.clone());
    }
    for segment in segments(value) {
        path.push(segment);
        if let Some(child) = descend(value, &path[path.len() - 1..]) {
            collect_tables(child, path, tables);
        }
        path.pop();
    }
}

fn insert(value: &mut Value, path: &[String], key: &str) {
    match (value, path.split_first()) {
        (Value::Table(table), None) => {
            table.entry(key).or_insert(Value::Boolean(true));
        }
        (Value::Table(table), Some((first, rest))) => {
            table.get_mut(first).into_iter().for_each(|child| insert(child, rest, key));
        }
        (Value::Array(array), Some((first, rest))) => {
            let index = first.parse::<usize>().unwrap_or(usize::MAX);
            array.get_mut(index).into_iter().for_each(|child| insert(child, rest, key));
        }
        _ => {}
    }
}

fn remove(value: &mut Value, path: &[String]) {
    let Some((first, rest)) = path.split_first() else { return };
    let index = first.parse::<usize>().unwrap_or(usize::MAX);
    match value {
        Value::Table(table) if rest.is_empty() => {
            table.remove(first);
        }
        Value::Array(array) if rest.is_empty() && index < array.len() => {
            array.remove(index);
        }
        Value::Table(table) => table.get_mut(first).into_iter().for_each(|child| remove(child, rest)),
        Value::Array(array) => array.get_mut(index).into_iter().for_each(|child| remove(child, rest)),
        _ => {}
    }
}

/// The line, counted from 1, of the value at a dotted path, or of the longest part of the path that exists.
pub(crate) fn line_of(text: &str, path: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let mut value = DeValue::Table(document.into_inner());
    let mut start = None;
    for segment in path.split('.') {
        let next = match value {
            DeValue::Table(table) => table
                .into_iter()
                .find(|(key, _)| key.get_ref() == segment)
                .map(|(key, value)| (key.span().start, value)),
            DeValue::Array(array) => {
                segment.parse().ok().and_then(|i| array.into_iter().nth(i)).map(|value| (value.span().start, value))
            }
            _ => None,
        };
        let Some((at, found)) = next else { break };
        start = Some(at);
        value = found.into_inner();
    }
    start.map(|start| line_and_column(text, start).0)
}

/// Line and column of a byte of the text, both counted from 1.
pub(crate) fn line_and_column(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

//! [`SearchFile`]: the TOML file of a search, its keys, and the checks that need no recipe.

use std::path::Path;
use std::{fs, io};

use serde::Deserialize;
use toml::de::DeTable;
use toml::{Table, Value};

use super::entry::{Entry, Text, is_range};
use super::error::SearchError;
use super::space::{Dimension, Domain};
use crate::recipe::place;
use crate::recipe::{Override, RecipeSource, Validation};

/// The most trials of a search: each is checked before the first is trained.
const MAX_TRIALS: usize = 10_000;
/// A search is a page of text: a file of more bytes is something else.
const MAX_BYTES: u64 = 1 << 20;

/// The keys of the file of a search.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// The recipe that the trials change: a built-in one, or a file; a relative path begins at the folder of this file.
    recipe: String,
    /// How many of the training images are held out to compare the trials on, as a number or a share: more than 0.
    validation: Validation,
    /// The seeds that each trial is trained with. With `halving`, all rungs but the last use the first seed alone.
    #[serde(default = "one_seed")]
    seeds: Vec<u64>,
    /// How the trials are made from `values`.
    #[serde(default)]
    method: Method,
    /// The number of random trials.
    trials: Option<usize>,
    /// The seed that random values are drawn with; 1 by default.
    seed: Option<u64>,
    /// Successive halving. Without it, all trials are trained for the epochs of the recipe.
    halving: Option<Halving>,
    /// Changes to the recipe that all trials have in common.
    #[serde(default)]
    set: Table,
    /// The values of each searched key.
    values: Table,
}

/// How trials are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    /// All combinations of the lists.
    #[default]
    Grid,
    /// A value of each key, drawn independently.
    Random,
}

/// Successive halving (Jamieson and Talwalkar, arXiv 1502.07943): all trials are trained for a few epochs, the best of them
/// for more, and so on. Each rung trains from the start, with a schedule of its own length: the end of a short schedule
/// tells more about a long one than the middle of the long one does.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Halving {
    /// The epochs of each rung, rising.
    pub(super) rungs: Vec<u64>,
    /// The share of the trials that go on to the next rung, above 0 and below 1, rounded up.
    #[serde(default = "a_third")]
    pub(super) keep: f64,
}

fn one_seed() -> Vec<u64> {
    vec![1]
}

fn a_third() -> f64 {
    1.0 / 3.0
}

/// A checked file: what to train, as overrides of a recipe whose origin is a line of the file.
#[derive(Debug)]
pub(super) struct SearchFile {
    /// The text of the file.
    pub(super) text: String,
    pub(super) recipe: RecipeSource,
    /// `validation` and what `set` changes.
    pub(super) common: Vec<Override>,
    pub(super) dimensions: Vec<Dimension>,
    pub(super) sampling: Sampling,
    pub(super) seeds: Vec<u64>,
    pub(super) halving: Option<Halving>,
    /// What errors call the file.
    pub(super) origin: String,
    /// The lines of what the search itself sets.
    pub(super) origins: Origins,
}

/// How many trials to make, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampling {
    Grid,
    Random { trials: usize, seed: u64 },
}

/// Where the values that the search itself sets come from, for messages.
#[derive(Clone, Debug)]
pub(super) struct Origins {
    pub(super) trials: String,
    pub(super) seeds: String,
    pub(super) rungs: String,
}

impl SearchFile {
    /// Reads and checks a file. `recipe` is the text to use instead of the recipe that the file names.
    pub(super) fn read(path: &Path, recipe: Option<RecipeSource>) -> Result<Self, SearchError> {
        let text = read_text(path).map_err(|source| SearchError::Read { path: path.to_owned(), source })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&path.display().to_string(), text, |name| match recipe {
            Some(recipe) => Ok(recipe),
            None => RecipeSource::find_from(name, folder).map_err(|error| error.to_string()),
        })
    }

    /// Checks a text that errors call `origin`; `find` turns the name of a recipe into its text.
    fn parse(
        origin: &str,
        text: String,
        find: impl FnOnce(&str) -> Result<RecipeSource, String>,
    ) -> Result<Self, SearchError> {
        let file = Text { origin, text: &text };
        let spanned = DeTable::parse(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let (line, column) = place::line_and_column(&text, start);
            let place = format!("{origin}, line {line}, column {column}");
            SearchError::Value { place, key: String::new(), problem: error.message().to_owned() }
        })?;
        let table = text.parse::<Table>().map_err(|error| file.refuse("", error.message()))?;
        let keys = Keys::deserialize(table.clone()).map_err(|error| {
            let key = place::blame::<Keys>(&table, error.message());
            file.refuse(&key, error.message().replace("unknown field", "unknown key"))
        })?;
        let recipe = find(&keys.recipe).map_err(|problem| file.refuse("recipe", problem))?;
        check_counts(&keys, &file)?;
        let sampling = sampling(&keys, &file)?;

        let member =
            |key: &str| spanned.get_ref().iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value);
        let (mut set, mut values) = (Vec::new(), Vec::new());
        file.collect(member("set"), &keys.set, "", &mut set, &|_, dotted| dotted);
        file.collect(member("values"), &keys.values, "", &mut values, &|table, _| !is_range(table));
        if values.is_empty() {
            return Err(file.refuse("values", "the table is empty: name a key of the recipe and its values"));
        }
        check_entries(&set, &values, keys.halving.is_some())?;
        let dimensions: Vec<Dimension> =
            values.into_iter().map(|entry| entry.dimension(sampling == Sampling::Grid)).collect::<Result<_, _>>()?;
        let combinations = dimensions.iter().try_fold(1usize, |product, dimension| match &dimension.domain {
            Domain::Choices(choices) => product.checked_mul(choices.len()),
            _ => Some(product),
        });
        if sampling == Sampling::Grid && combinations.is_none_or(|count| count > MAX_TRIALS) {
            return Err(
                file.refuse("values", format!("the lists have more than {MAX_TRIALS} combinations: draw at random"))
            );
        }

        let at = |key: &str| file.place(key);
        let validation = match keys.validation {
            Validation::Count(count) => Value::Integer(i64::try_from(count).unwrap_or(i64::MAX)),
            Validation::Fraction(share) => Value::Float(share),
        };
        let mut common = vec![Override::new("validation", validation, &at("validation"))];
        common.extend(set.into_iter().map(|entry| Override::new(&entry.key, entry.value, &entry.place)));
        let origins = Origins { trials: at("trials"), seeds: at("seeds"), rungs: at("halving.rungs") };
        let Keys { seeds, halving, .. } = keys;
        Ok(Self { origin: origin.to_owned(), recipe, common, dimensions, sampling, seeds, halving, origins, text })
    }
}

impl SearchFile {
    /// The error that the number of trials is not possible.
    pub(super) fn refuse_trials(&self, problem: String) -> SearchError {
        SearchError::Value { place: self.origins.trials.clone(), key: "trials".to_owned(), problem }
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let bytes = fs::metadata(path)?.len();
    if bytes > MAX_BYTES {
        let problem = format!("it has {bytes} bytes, a search has at most {MAX_BYTES}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    fs::read_to_string(path)
}

fn check_counts(keys: &Keys, file: &Text<'_>) -> Result<(), SearchError> {
    if matches!(keys.validation, Validation::Count(0) | Validation::Fraction(0.0)) {
        let problem =
            "0 is not possible: trials are compared on images that are held out of the training images, 1 or more";
        return Err(file.refuse("validation", problem));
    }
    if keys.seeds.is_empty() {
        return Err(file.refuse("seeds", "the list is empty: name at least one seed, such as [1]"));
    }
    if let Some(i) = (1..keys.seeds.len()).find(|&i| keys.seeds[..i].contains(&keys.seeds[i])) {
        let problem = format!("{} is there twice: a trial would only be repeated", keys.seeds[i]);
        return Err(file.refuse(&format!("seeds.{i}"), problem));
    }
    let Some(halving) = &keys.halving else { return Ok(()) };
    if halving.rungs.is_empty() {
        return Err(file.refuse("halving.rungs", "the list is empty: name the epochs of each rung, such as [2, 6, 18]"));
    }
    if let Some(i) = (1..halving.rungs.len()).find(|&i| halving.rungs[i] <= halving.rungs[i - 1]) {
        let problem = format!("{} is not possible: each rung has more epochs than the one before", halving.rungs[i]);
        return Err(file.refuse(&format!("halving.rungs.{i}"), problem));
    }
    if !(halving.keep > 0.0 && halving.keep < 1.0) {
        let problem = format!("{} is not possible: a share above 0 and below 1", halving.keep);
        return Err(file.refuse("halving.keep", problem));
    }
    Ok(())
}

fn sampling(keys: &Keys, file: &Text<'_>) -> Result<Sampling, SearchError> {
    match (keys.method, keys.trials, keys.seed) {
        (Method::Grid, None, None) => Ok(Sampling::Grid),
        (Method::Grid, trials, _) => {
            let key = if trials.is_some() { "trials" } else { "seed" };
            Err(file.refuse(
                key,
                "only random trials have it: a grid trains all combinations of the lists. Set method = \"random\"",
            ))
        }
        (Method::Random, None, _) => {
            Err(file.refuse("method", "random needs the number of trials: set `trials`, for example trials = 40"))
        }
        (Method::Random, Some(trials), _) if !(1..=MAX_TRIALS).contains(&trials) => {
            Err(file.refuse("trials", format!("{trials} is not possible: from 1 to {MAX_TRIALS}")))
        }
        (Method::Random, Some(trials), seed) => Ok(Sampling::Random { trials, seed: seed.unwrap_or(1) }),
    }
}

/// Refuses keys that the search sets itself, and keys that change the same value twice.
fn check_entries(set: &[Entry], values: &[Entry], has_rungs: bool) -> Result<(), SearchError> {
    for entry in set.iter().chain(values) {
        let owner = match entry.key.as_str() {
            "seed" => Some("`seeds` sets it"),
            "validation" => Some("`validation` at the top of the file sets it"),
            "epochs" if has_rungs => Some("`halving.rungs` sets it"),
            _ => None,
        };
        if let Some(owner) = owner {
            return Err(entry.refuse(format!("{owner}: remove it here")));
        }
    }
    if let Some(entry) = values.iter().find(|entry| entry.key == "dataset") {
        return Err(entry.refuse("trials are compared on the same images: put the data set into `set`"));
    }
    let all: Vec<&Entry> = set.iter().chain(values).collect();
    for (i, entry) in all.iter().enumerate() {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some(other) =
            all[..i].iter().find(|other| within(&entry.key, &other.key) || within(&other.key, &entry.key))
        {
            return Err(
                entry.refuse(format!("`{}` ({}) changes the same value: keep one of them", other.key, other.place))
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

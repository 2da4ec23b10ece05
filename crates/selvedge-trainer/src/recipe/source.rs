//! Loads a recipe: its text and overrides become a checked [`Recipe`]; errors name the file, the line and the key.

use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use serde::Deserialize;
use thiserror::Error;
use toml::{Table, Value};

use crate::data::TrainingData;
use crate::download;

use super::adapt::adapt;
use super::spec::Recipe;
use super::{builtin, place, validate};

/// A recipe is a page of text: a file of more bytes is something else.
const MAX_BYTES: u64 = 1 << 20;

/// Why a recipe cannot be used.
#[derive(Debug, Error)]
pub enum RecipeError {
    /// Neither a built-in recipe nor a file.
    #[error("recipe {asked:?} is neither built in nor a file; built in: {}", builtin::names())]
    Unknown {
        /// The name as given.
        asked: String,
    },
    /// The file cannot be read.
    #[error("recipe {path} cannot be read: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The text is not TOML.
    #[error("{origin}, line {line}, column {column}: {problem}")]
    Syntax {
        /// The file, or the built-in recipe's name.
        origin: String,
        /// Line, counted from 1.
        line: usize,
        /// Column, counted from 1.
        column: usize,
        /// What is wrong.
        problem: String,
    },
    /// A key is unknown, or a value not possible.
    #[error("{place}: {}{problem}", if key.is_empty() { String::new() } else { format!("{key}: ") })]
    Value {
        /// The file and the line, or the command-line option.
        place: String,
        /// The key, as a dotted path.
        key: String,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// An override is not `key=value`, or its key does not exist.
    #[error("{origin}: {problem}")]
    Override {
        /// The option as given.
        origin: String,
        /// What is wrong.
        problem: String,
    },
}

/// A value that replaces the one in a recipe's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    key: String,
    value: Value,
    /// The command-line option, for messages.
    origin: String,
}

impl Override {
    /// Replaces the value at `key`, a dotted path such as `optimizer.learning_rate` or `model.layers.3.rate`.
    pub fn new(key: &str, value: impl Into<Value>, origin: &str) -> Self {
        Self { key: key.to_owned(), value: value.into(), origin: origin.to_owned() }
    }

    /// Reads `key=value`. A value that is not TOML is taken as a string, so that quotes can be left out.
    ///
    /// # Errors
    /// [`RecipeError::Override`] without `=` or without a key.
    pub fn parse(text: &str) -> Result<Self, RecipeError> {
        let origin = format!("--set {text}");
        let (key, value) = match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => (key.trim(), value.trim()),
            _ => {
                let problem = "expected key=value, for example optimizer.learning_rate=0.001".to_owned();
                return Err(RecipeError::Override { origin, problem });
            }
        };
        let parsed = format!("value = {value}").parse::<Table>().ok().filter(|table| table.len() == 1);
        let value = parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::from(value));
        Ok(Self { key: key.to_owned(), value, origin })
    }

    /// The dotted path.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The new value.
    pub(crate) fn value(&self) -> &Value {
        &self.value
    }

    fn apply(&self, table: &mut Table) -> Result<(), RecipeError> {
        let fail = |problem: String| RecipeError::Override { origin: self.origin.clone(), problem };
        let mut segments: Vec<&str> = self.key.split('.').collect();
        let Some(last) = segments.pop() else { return Err(fail("the key is empty".to_owned())) };
        let mut node = Node::Table(table);
        for segment in segments {
            node = node.step(segment).map_err(fail)?;
        }
        node.set(last, self.value.clone()).map_err(fail)
    }

    fn covers(&self, key: &str) -> bool {
        key.strip_prefix(&self.key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    fn is_inside(&self, key: &str) -> bool {
        self.key.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// The part of a document that a dotted path leads to.
enum Node<'a> {
    Table(&'a mut Table),
    Array(&'a mut Vec<Value>),
}

impl<'a> Node<'a> {
    fn step(self, segment: &str) -> Result<Self, String> {
        let value = match self {
            Node::Table(table) => table.entry(segment).or_insert_with(|| Value::Table(Table::new())),
            Node::Array(array) => element(array, segment)?,
        };
        match value {
            Value::Table(table) => Ok(Node::Table(table)),
            Value::Array(array) => Ok(Node::Array(array)),
            other => Err(format!("`{segment}` is a {}: it has no keys", other.type_str())),
        }
    }

    fn set(self, segment: &str, value: Value) -> Result<(), String> {
        match self {
            Node::Table(table) => {
                table.insert(segment.to_owned(), value);
            }
            Node::Array(array) => *element(array, segment)? = value,
        }
        Ok(())
    }
}

fn element<'a>(array: &'a mut [Value], segment: &str) -> Result<&'a mut Value, String> {
    let len = array.len();
    let index = segment.parse::<usize>().ok().filter(|&index| index < len);
    let problem = || format!("`{segment}` is not the number of an element: there are {len}, counted from 0");
    index.and_then(|index| array.get_mut(index)).ok_or_else(problem)
}

/// The text of a recipe and where it came from.
#[derive(Clone, Debug)]
pub struct RecipeSource {
    origin: String,
    text: String,
    /// The folder of the file, which relative paths in it count from.
    folder: Option<PathBuf>,
}

impl RecipeSource {
    /// A text; errors call it `origin`.
    pub fn from_text(origin: impl Into<String>, text: impl Into<String>) -> Self {
        Self { origin: origin.into(), text: text.into(), folder: None }
    }

    /// A built-in recipe by its name, or a file. A name that ends in `.toml` or contains a folder is a file.
    ///
    /// # Errors
    /// [`RecipeError::Unknown`] and [`RecipeError::Read`].
    pub fn find(name_or_file: &str) -> Result<Self, RecipeError> {
        Self::find_from(name_or_file, Path::new(""))
    }

    /// Like [`RecipeSource::find`]; a relative path begins at `folder`.
    pub(crate) fn find_from(name_or_file: &str, folder: &Path) -> Result<Self, RecipeError> {
        if let Some(text) = builtin::find(name_or_file) {
            return Ok(Self::from_text(format!("built-in recipe {name_or_file}"), text));
        }
        let given = Path::new(name_or_file);
        let is_path = given.extension().is_some_and(|extension| extension == "toml") || given.components().count() > 1;
        let path = folder.join(given);
        if !is_path && !path.is_file() {
            return Err(RecipeError::Unknown { asked: name_or_file.to_owned() });
        }
        Self::read(&path)
    }

    /// The text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A file in UTF-8, with or without a byte-order mark. A relative path of a data set in it counts from the file's folder, or
    /// from the current folder where there is no such folder.
    ///
    /// # Errors
    /// [`RecipeError::Read`] if it cannot be read, is not UTF-8, or is larger than a recipe can be.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let error = |source| RecipeError::Read { path: path.to_owned(), source };
        let invalid = |problem: String| error(io::Error::new(io::ErrorKind::InvalidData, problem));
        let bytes = fs::metadata(path).map_err(error)?.len();
        if bytes > MAX_BYTES {
            return Err(invalid(format!("it has {bytes} bytes, a recipe has at most {MAX_BYTES}")));
        }
        let text = decode(fs::read(path).map_err(error)?).map_err(invalid)?;
        let folder = path.parent().map(Path::to_owned);
        Ok(Self { origin: path.display().to_string(), text, folder })
    }

    /// Applies the overrides in order and checks every value.
    ///
    /// # Errors
    /// [`RecipeError::Syntax`], [`RecipeError::Override`], and [`RecipeError::Value`] for the first key or value that
    /// is not possible.
    pub fn load(self, overrides: &[Override]) -> Result<LoadedRecipe, RecipeError> {
        let mut table = self.text.parse::<Table>().map_err(|error| self.syntax(&error))?;
        for change in overrides {
            change.apply(&mut table)?;
        }
        let origin = Origin { source: self, overrides: overrides.to_vec() };
        let mut recipe = Recipe::deserialize(table.clone()).map_err(|error| {
            let key = place::blame::<Recipe>(&table, error.message());
            origin.error(&key, error.message().replace("unknown field", "unknown key"))
        })?;
        validate::validate(&recipe).map_err(|refusal| origin.error(&refusal.key, refusal.problem))?;
        if let Some(dataset) = origin.dataset_beside_file(&recipe.dataset) {
            recipe.dataset = dataset;
        }
        Ok(LoadedRecipe { recipe, origin })
    }

    fn syntax(&self, error: &toml::de::Error) -> RecipeError {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = place::line_and_column(&self.text, start);
        RecipeError::Syntax { origin: self.origin.clone(), line, column, problem: error.message().to_owned() }
    }
}

/// The text of a file, without a byte-order mark.
fn decode(bytes: Vec<u8>) -> Result<String, String> {
    let marks = [[0xff, 0xfe], [0xfe, 0xff]];
    // Without a mark, UTF-16 gives itself away by the zeros in each character of a recipe.
    if marks.iter().any(|mark| bytes.starts_with(mark)) || bytes.contains(&0) {
        return Err("it is UTF-16 text, as `>` writes it in Windows PowerShell, and a recipe is UTF-8: save it as UTF-8, there \
                    with `| Out-File -Encoding utf8 FILE` in place of `> FILE`"
            .to_owned());
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("byte {at} (counted from 0) is not UTF-8, as a recipe is: save it as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[derive(Clone, Debug)]
struct Origin {
    source: RecipeSource,
    overrides: Vec<Override>,
}

impl Origin {
    /// The path of a data set's folder that the recipe's file names relative to itself.
    fn dataset_beside_file(&self, dataset: &str) -> Option<String> {
        let folder = self.source.folder.as_ref()?;
        if download::find(dataset).is_some() || self.overrides.iter().any(|change| change.covers("dataset")) {
            return None;
        }
        // A recipe is UTF-8: where a parent folder's name is not, the path stays as it is.
        Some(folder.join(dataset)).filter(|path| path.is_dir())?.into_os_string().into_string().ok()
    }

    fn error(&self, key: &str, problem: impl Into<String>) -> RecipeError {
        let changed = self.overrides.iter().rev().find(|change| change.covers(key));
        let mut place = match (changed, place::line_of(&self.source.text, key)) {
            (Some(change), _) => change.origin.clone(),
            (None, Some(line)) => format!("{}, line {line}", self.source.origin),
            (None, None) => self.source.origin.clone(),
        };
        if changed.is_none() {
            // The culprit may be a value inside, such as one of a layer where `model.layers` is refused.
            let inside = self.overrides.iter().filter(|change| change.is_inside(key));
            inside.for_each(|change| place += &format!(", changed by {}", change.origin));
        }
        RecipeError::Value { place, key: key.to_owned(), problem: problem.into() }
    }
}

/// A checked recipe that knows where its values come from.
#[derive(Clone, Debug)]
pub struct LoadedRecipe {
    /// The recipe.
    pub recipe: Recipe,
    origin: Origin,
}

impl LoadedRecipe {
    /// The error that the value at `key` is not possible. It names the file and the line, or the command-line option, that set
    /// the value.
    pub fn error(&self, key: &str, problem: impl fmt::Display) -> RecipeError {
        self.origin.error(key, problem.to_string())
    }

    /// Fits the recipe to a data set with other images than those it was tuned on, and says what that changed. Values that
    /// overrides gave stay as they are.
    pub(crate) fn adapt(&mut self, data: &TrainingData) -> Vec<String> {
        let overrides = &self.origin.overrides;
        adapt(&mut self.recipe, data, |key| overrides.iter().any(|change| change.covers(key)))
    }

    /// The command-line options that changed the recipe, in order.
    pub fn changes(&self) -> impl Iterator<Item = &str> {
        self.origin.overrides.iter().map(|change| change.origin.as_str())
    }

    /// The text that the recipe was read from, without overrides.
    pub fn source_text(&self) -> &str {
        &self.origin.source.text
    }

    /// The recipe as TOML, with every default filled in.
    ///
    /// ```
    /// use selvedge_trainer::recipe::RecipeSource;
    /// let recipe = RecipeSource::find("seed")?.load(&[])?;
    /// let again = RecipeSource::from_text("copy", recipe.to_toml()).load(&[])?;
    /// assert_eq!(again.recipe, recipe.recipe);
    /// # Ok::<(), selvedge_trainer::recipe::RecipeError>(())
    /// ```
    pub fn to_toml(&self) -> String {
        // Every value of a checked recipe has a TOML form: tables, finite numbers and strings.
        toml::to_string(&self.recipe).unwrap_or_else(|error| unreachable!("a checked recipe is TOML: {error}"))
    }
}

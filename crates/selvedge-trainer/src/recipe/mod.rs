//! A recipe: everything that decides what a training run computes, as a TOML file a person can read.
//!
//! [`RecipeSource`] finds the text (built in or a file) and applies overrides, [`LoadedRecipe`] is the checked
//! [`Recipe`] that still knows which line each value came from, so that later checks (the batch against the data)
//! can name it too. The whole recipe with every default filled in is written into the run's folder; training from
//! that file repeats the run.

mod builtin;
mod place;
mod source;
mod spec;
#[cfg(test)]
mod tests;
mod validate;

pub use builtin::BUILT_IN;
pub use source::{LoadedRecipe, Override, RecipeError, RecipeSource};
pub use spec::{
    EarlyStoppingSpec, ModelTable, Monitor, Normalisation, OfflineCopies, PrecisionChoice, Recipe,
    ReduceLrOnPlateauSpec, ScheduleSpec, Validation, WarmupSpec,
};

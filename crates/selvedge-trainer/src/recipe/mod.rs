//! A recipe: a TOML file that decides everything a training run computes.
//!
//! [`RecipeSource`] finds the text, built in or in a file, and applies overrides. [`LoadedRecipe`] is the checked [`Recipe`];
//! it knows which line each value came from, so that later checks, such as the batch size against the data, can name the line
//! too. The run's folder gets the recipe with every default filled in; training from that file repeats the run.

mod adapt;
mod builtin;
mod class_weights;
pub(crate) mod place;
mod source;
mod spec;
#[cfg(test)]
mod tests;
mod validate;

pub use builtin::BUILT_IN;
pub(crate) use builtin::names as built_in_names;
pub use class_weights::ClassWeights;
pub use source::{LoadedRecipe, Override, RecipeError, RecipeSource};
pub use spec::{
    EarlyStoppingSpec, GradientClipping, ModelTable, Monitor, Normalisation, OfflineCopies, PrecisionChoice, Recipe,
    ReduceLrOnPlateauSpec, ScheduleSpec, TunedOn, Validation, WarmupSpec,
};

//! The recipes that are part of the program, each a file in the crate's `recipes` folder.

/// Name and text of every built-in recipe.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("seed", include_str!("../../recipes/seed.toml")),
    ("seed-notebook", include_str!("../../recipes/seed-notebook.toml")),
];

/// The text of a built-in recipe.
pub(super) fn find(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

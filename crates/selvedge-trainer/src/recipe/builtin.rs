//! The built-in recipes: the files of the crate's `recipes` folder. To add one, name its file here.

/// Name and text of every built-in recipe.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("fast", include_str!("../../recipes/fast.toml")),
    ("quick", include_str!("../../recipes/quick.toml")),
    ("seed", include_str!("../../recipes/seed.toml")),
    ("seed-notebook", include_str!("../../recipes/seed-notebook.toml")),
    ("resnet9", include_str!("../../recipes/resnet9.toml")),
];

/// The text of a built-in recipe.
pub(super) fn find(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The names of all built-in recipes, for messages.
pub(crate) fn names() -> String {
    BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

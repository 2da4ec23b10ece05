//! `train`, `evaluate` and the other commands of the program `selvedge`, run as a release build.
//!
//! The commands are not listed here: they are the files of the trainer's `commands/` that begin with
//! `//! The subcommand`, and the line of help beside each is the first line of its `…Args` documentation, which
//! `selvedge --help` prints too. So a new command is known to `cargo xtask` without a change to this crate.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::workspace::{cargo, hand_over, root};

/// A command of `selvedge`: its name and one line of help.
#[derive(Debug, PartialEq)]
pub(crate) struct Subcommand {
    pub(crate) name: String,
    pub(crate) summary: String,
}

/// The commands of `selvedge`, sorted by name.
pub(crate) fn subcommands() -> Vec<Subcommand> {
    let folder = root().join("crates").join("selvedge-trainer").join("src").join("commands");
    let mut found: Vec<Subcommand> =
        rust_files(&folder).filter_map(|path| parse(&fs::read_to_string(path).ok()?)).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn rust_files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
}

/// The command that a source file implements, if it is the file of a command.
fn parse(text: &str) -> Option<Subcommand> {
    let name = text.strip_prefix("//! The subcommand `")?.split('`').next()?;
    let lines: Vec<&str> = text.lines().collect();
    let args = lines.iter().position(|line| line.contains("struct ") && line.contains("Args {"))?;
    // The documentation ends at the first attribute of the struct.
    let documented = lines[..args].iter().rposition(|line| line.starts_with("///"))?;
    let before = lines[..documented].iter().rposition(|line| !line.starts_with("///"))?;
    let summary = lines[before + 1].trim_start_matches('/').trim();
    Some(Subcommand { name: name.to_owned(), summary: summary.to_owned() })
}

/// Builds `selvedge` with optimisations and becomes it.
///
/// The working folder stays the caller's, so paths mean what they say. SELVEDGE_DATA names the repository's data sets,
/// unless the user has set it to another folder.
pub(crate) fn run(subcommand: &str, args: &[OsString]) -> ExitCode {
    let mut command = cargo("run");
    command.args(["--release", "--package", "selvedge-trainer", "--bin", "selvedge", "--", subcommand]);
    command.args(args);
    if env::var_os("SELVEDGE_DATA").is_none_or(|folder| folder.is_empty()) {
        command.env("SELVEDGE_DATA", root().join("data"));
    }
    hand_over(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_of_selvedge_are_found_in_its_source() {
        let names: Vec<String> = subcommands().into_iter().map(|command| command.name).collect();
        for name in ["download", "evaluate", "predict", "preview", "profile", "search", "train"] {
            assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
        }
    }

    #[test]
    fn a_commands_summary_is_the_first_line_of_its_arguments_documentation() {
        let source = "//! The subcommand `train`.\n\nuse x;\n\n/// A constant.\nconst A: u8 = 1;\n\n/// Train a network\n///\n\
            /// At length.\n#[derive(Debug)]\n#[command(after_help = \"\\\n/ no\")]\npub(super) struct TrainArgs {\n}\n";
        let expected = Subcommand { name: "train".to_owned(), summary: "Train a network".to_owned() };
        assert_eq!(parse(source), Some(expected));
        assert_eq!(parse("//! How many threads.\n"), None);
    }
}

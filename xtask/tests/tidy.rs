//! Rules that no compiler checks, as tests over every source file, manifest and page.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a source file beyond which it should be cut.
const MOST_LINES: usize = 600;

/// Words of an earlier draft with those of the field (glossary in CONTRIBUTING.md), in lower case.
const GLOSSARY: [(&str, &str); 14] = [
    ("first cache", "L1"),
    ("second cache", "L2"),
    ("asked for ahead", "prefetched"),
    ("winners", "argmax"),
    ("regroup", "repack"),
    ("turned round", "rotated by 180°"),
    ("rows of taps", "kernel rows"),
    ("in turn with", "interleaved with"),
    ("behind a relu", "post-ReLU"),
    ("in any company", "for any batch composition"),
    ("met once", "read once"),
    ("logistic", "sigmoid"),
    ("inverse deviation", "reciprocal standard deviation"),
    ("images a second", "images per second"),
];

/// Which of the crates each crate may depend on: the table of docs/architecture.md.
const ARROWS: [(&str, &[&str]); 7] = [
    ("selvedge-atomic-file", &[]),
    ("selvedge-idx", &["selvedge-atomic-file"]),
    ("selvedge-augment", &["selvedge-compute"]),
    ("selvedge-compute", &[]),
    ("selvedge-model", &["selvedge-atomic-file", "selvedge-compute"]),
    (
        "selvedge-trainer",
        &["selvedge-atomic-file", "selvedge-idx", "selvedge-augment", "selvedge-compute", "selvedge-model"],
    ),
    ("xtask", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn packages() -> Vec<PathBuf> {
    let mut packages: Vec<PathBuf> =
        fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect();
    packages.push(root().join("xtask"));
    packages.sort();
    packages
}

fn name(package: &Path) -> String {
    package.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Every file below a folder that ends in `.extension`.
fn collect(dir: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // `target` may lie in a crate of its own workspace, such as the fuzz targets.
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, extension, files);
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
}

/// Applies a rule to every source file; a rule answers with what is wrong, at which line.
fn every_file(rule: impl Fn(&Path, &str) -> Vec<(usize, String)>) {
    let mut complaints = Vec::new();
    for folder in packages().into_iter().chain([root().join("examples")]) {
        let mut files = Vec::new();
        collect(&folder, "rs", &mut files);
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            for (line, complaint) in rule(&path, &text) {
                let shown = path.strip_prefix(root()).unwrap().display();
                complaints.push(format!("{shown}:{line}: {complaint}"));
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The lines with their numbers, comments and string contents taken out.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    text.lines().enumerate().map(|(index, line)| (index + 1, code_of(line)))
}

fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut in_string = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            // A quote as a character, '"', opens no string.
            '"' if !(code.ends_with('\'') && chars.peek() == Some(&'\'')) => in_string = !in_string,
            '/' if !in_string && chars.peek() == Some(&'/') => break,
            _ if !in_string => code.push(c),
            _ => {}
        }
    }
    code
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
}

#[test]
fn every_file_says_what_it_is_for() {
    every_file(|_, text| {
        let told = text.starts_with("//! ") || text.starts_with("#![doc = include_str!(\"../README.md\")]");
        if told { vec![] } else { vec![(1, "does not begin with a line `//! …`".to_owned())] }
    });
}

#[test]
fn no_file_is_too_long() {
    every_file(|_, text| {
        let lines = text.lines().count();
        if lines <= MOST_LINES { vec![] } else { vec![(lines, format!("more than {MOST_LINES} lines"))] }
    });
}

#[test]
fn nothing_is_left_undone() {
    let macros = ["todo", "unimplemented", "dbg"];
    // Spelled so that this file does not find itself.
    let marks = [concat!("FIX", "ME"), concat!("XX", "X:"), concat!("TO", "DO")];
    every_file(|_, text| {
        let calls = code_lines(text).flat_map(|(line, code)| {
            macros
                .into_iter()
                .filter(move |name| code.contains(&format!("{name}!")))
                .map(move |name| (line, format!("{name}! is left in")))
        });
        let notes = text.lines().enumerate().flat_map(|(index, line)| {
            marks
                .into_iter()
                .filter(move |mark| line.contains(mark))
                .map(move |mark| (index + 1, format!("{mark} is left in")))
        });
        calls.chain(notes).collect()
    });
}

#[test]
fn only_the_compute_crate_is_unsafe() {
    let compute = root().join("crates").join("selvedge-compute");
    every_file(|path, text| {
        if path.starts_with(&compute) {
            return vec![];
        }
        code_lines(text)
            .filter(|(_, code)| has_word(code, "unsafe"))
            .map(|(line, _)| (line, "unsafe outside selvedge-compute".to_owned()))
            .collect()
    });
    for package in packages().iter().filter(|package| **package != compute) {
        for target in ["src/lib.rs", "src/main.rs"] {
            let Ok(text) = fs::read_to_string(package.join(target)) else { continue };
            assert!(
                text.contains("#![forbid(unsafe_code)]"),
                "{}/{target} lacks #![forbid(unsafe_code)]",
                name(package)
            );
        }
    }
}

#[test]
fn arrows_between_crates_go_one_way() {
    for package in packages() {
        let name = name(&package);
        let (_, allowed) = ARROWS
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("{name} is not in the table of arrows: which crates may it know?"));
        let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let dependency = line.split(['.', '=', ' ']).next().unwrap_or("");
            if section.contains("dependencies") && dependency.starts_with("selvedge-") {
                assert!(allowed.contains(&dependency), "{name} may not depend on {dependency}");
            }
        }
    }
}

#[test]
fn every_package_keeps_to_the_workspace() {
    for package in packages() {
        let name = name(&package);
        let manifest = fs::read_to_string(package.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} does not inherit the workspace's lints");
        assert!(!manifest.contains("git = "), "{name} has a git dependency");
        if name != "xtask" {
            assert!(package.join("README.md").is_file(), "{name} has no README.md");
        }
    }
}

/// Targets of `[text](target)` and `![picture](target)` that are neither addresses nor places in the same page.
fn link_targets(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://") && !target.contains('\n'))
}

/// The pages beside README.md and below `docs`.
fn front_pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    collect(&root().join("docs"), "md", &mut pages);
    pages
}

#[test]
fn links_of_pages_lead_to_files() {
    let mut pages = front_pages();
    ["data", "crates"].iter().for_each(|folder| collect(&root().join(folder), "md", &mut pages));
    let mut broken = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        let missing = link_targets(&text).filter(|target| !page.with_file_name(target).exists());
        broken.extend(missing.map(|target| format!("{}: {target}", page.display())));
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
    let targets: Vec<&str> = link_targets("[a](b.md#c) ![d](e/f.png) [g](#h) [i](https://j.example)").collect();
    assert_eq!(targets, ["b.md", "e/f.png"]);
}

/// The text of a page in lower case, on one line, without blocks and spans of code.
fn prose(page: &str) -> String {
    let outside: Vec<&str> = page.split("\n```").step_by(2).collect();
    let prose: Vec<&str> = outside.iter().flat_map(|part| part.split('`').step_by(2)).collect();
    prose.join(" ").split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[test]
fn pages_use_the_words_of_the_field() {
    let mut found = Vec::new();
    for page in front_pages() {
        let text = prose(&fs::read_to_string(&page).unwrap());
        let words = GLOSSARY.iter().filter(|(word, _)| text.contains(word));
        found.extend(words.map(|(word, term)| format!("{}: say {term:?}, not {word:?}", page.display())));
    }
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    assert_eq!(prose("The First\ncache `a`.\n```text\nb\n```\nc"), "the first cache . c");
}

#[test]
fn code_in_the_readme_is_code_that_tests_run() {
    let mut pages = Vec::new();
    collect(&root().join("crates"), "md", &mut pages);
    let tested: String = pages.iter().map(|page| fs::read_to_string(page).unwrap()).collect();
    let tested: Vec<&str> = tested.lines().collect();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next());
    for line in blocks.flat_map(str::lines) {
        assert!(tested.contains(&line), "README.md: no README of a crate, whose code is tested, has the line {line:?}");
    }
}

#[test]
fn comments_and_strings_are_not_code() {
    assert_eq!(code_of("let x = \"unsafe // no\"; // unsafe"), "let x = ; ");
    assert_eq!(code_of("let q = '\"'; f()"), "let q = '\"'; f()");
    assert_eq!(code_of("g(\"a\\\"b unsafe\")"), "g()");
    assert!(has_word("unsafe { }", "unsafe") && !has_word("unsafe_code", "unsafe"));
}

//! The house rules that a compiler does not know, checked on the text of `src/`.
//!
//! A module names only modules of a lower layer; the core knows no clock, no generator, no file and no runtime; files stay
//! short. Every failure names file and line.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// Modules and their layers, in tenths: a module may name only modules of a lower number, so that siblings are strangers.
const LAYERS: [(&str, u32); 13] = [
    ("diag", 0),
    ("model", 0),
    ("rules", 10),
    ("plan", 10),
    ("rollout", 10),
    ("metrics", 10),
    ("config", 20),
    ("store", 30),
    ("export", 30),
    // Above `export`, because shards write the access log; a stranger to `store`, as the exceptions below say.
    ("proxy", 35),
    ("control", 40),
    ("cli", 50),
    ("main", 60),
];
/// Pairs that the numbers alone would allow.
const STRANGERS: [(&str, &str); 1] = [("proxy", "store")];
/// The highest layer that is pure.
const PURE: u32 = 20;
/// What the pure layers never name.
const IMPURE: [&str; 7] = ["async", "tokio", "hyper::", "std::fs", "std::env", "now()", "rand"];
/// The most lines of a file.
const MOST_LINES: usize = 600;

/// A violation: the line, from 1, and what is wrong there.
type Violation = (usize, String);

/// The layer of a module; `None` where the list does not know it.
fn layer(module: &str) -> Option<u32> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// All violations in a file of a module.
fn scan(module: &str, source: &str) -> Vec<Violation> {
    let Some(own) = layer(module) else { return vec![(1, format!("`{module}` has no layer in this test"))] };
    let mut found = Vec::new();
    if source.lines().count() > MOST_LINES {
        found.push((MOST_LINES + 1, format!("the file has more than {MOST_LINES} lines")));
    }
    let code = without_comments_and_strings(source);
    let tests_from = tests_from(&code);
    for (at, line) in code.lines().enumerate() {
        let mut add = |what: String| found.push((at + 1, what));
        if line.contains("super::super") {
            add("`super::super` hides which module is named".into());
        }
        if line.contains("crate::{") {
            add("`crate::{` hides which modules are named".into());
        }
        for name in modules_named(line) {
            if !may_name(module, own, &name) {
                add(format!("`{module}` names `{name}`, which is not of a lower layer"));
            }
        }
        if own <= PURE && at < tests_from {
            for word in IMPURE.into_iter().filter(|word| contains_word(line, word)) {
                add(format!("`{word}` in `{module}`, which is pure"));
            }
        }
    }
    found
}

/// The line, from 0, at which the file's module of tests begins; it is always the last item.
fn tests_from(code: &str) -> usize {
    let lines: Vec<_> = code.lines().map(str::trim).collect();
    let opens =
        |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].contains('{');
    lines.windows(2).position(opens).unwrap_or(usize::MAX)
}

/// Whether a module may name another of the crate.
fn may_name(module: &str, own: u32, name: &str) -> bool {
    let lower = layer(name).is_some_and(|other| other < own);
    name == module || (lower && !STRANGERS.contains(&(module, name)))
}

/// The modules that a line names by `crate::`, and the program by the crate's own name.
fn modules_named(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for path in ["crate::", "gradual::"] {
        for (at, _) in line.match_indices(path) {
            let before = line[..at].chars().next_back();
            let name: String = line[at + path.len()..].chars().take_while(|&c| is_word(c)).collect();
            if !before.is_some_and(|c| is_word(c) || c == '$') && !name.is_empty() {
                names.push(name);
            }
        }
    }
    names
}

/// Whether a text stands in a line other than as a part of a longer word; `fastrand` counts as `rand`.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(is_word);
        let after = line[at + word.len()..].chars().next().is_some_and(is_word);
        let longer = after && word.ends_with(is_word);
        let whole = !before && !longer;
        whole || (word == "rand" && line[..at].ends_with("fast"))
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The source with comments and the insides of strings blanked, line for line.
fn without_comments_and_strings(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => string_length(&rest[1..]) + 1,
            'r' if raw_string(rest).is_some() && !code.ends_with(is_word) => raw_string(rest).unwrap(),
            '\'' if rest.starts_with("'\"'") => 3,
            '\'' if rest.starts_with("'\\") => rest[2..].find('\'').map_or(1, |end| end + 3),
            c => {
                code.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
        };
        code.extend(rest[..length].chars().filter(|&c| c == '\n'));
        rest = &rest[length..];
    }
    code
}

/// The length of a string after its first quote, the last quote included.
fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// The length of a raw string that starts here; `None` where none does.
fn raw_string(rest: &str) -> Option<usize> {
    let hashes = rest[1..].bytes().take_while(|&byte| byte == b'#').count();
    let inside = rest[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(inside.find(&end).map_or(rest.len(), |at| 2 + hashes + at + end.len()))
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All Rust files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The top module that a file belongs to.
fn module_of(path: &Path) -> String {
    let first = path.strip_prefix(source_folder()).unwrap().components().next().unwrap();
    Path::new(first.as_os_str()).file_stem().unwrap().to_string_lossy().into_owned()
}

#[test]
fn modules_name_only_lower_layers_and_the_core_is_pure_and_files_are_short() {
    let files: Vec<_> =
        files(&source_folder()).into_iter().filter(|path| !path.ends_with("lib.rs")).collect();
    assert!(files.len() >= 10, "only {} files were found", files.len());
    let mut report = String::new();
    for path in &files {
        for (line, what) in scan(&module_of(path), &fs::read_to_string(path).unwrap()) {
            let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            report.push_str(&format!("{}:{line}: {what}\n", path.display()));
        }
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn the_library_and_the_program_forbid_unsafe_code() {
    for file in ["lib.rs", "main.rs"] {
        let text = fs::read_to_string(source_folder().join(file)).unwrap();
        assert!(text.lines().any(|line| line == "#![forbid(unsafe_code)]"), "{file}");
    }
}

#[test]
fn every_module_of_the_library_has_a_layer() {
    let text = fs::read_to_string(source_folder().join("lib.rs")).unwrap();
    let modules: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(modules.len() >= 5);
    for module in modules {
        assert!(layer(module).is_some(), "{module}");
    }
}

#[test]
fn planted_violations_are_found_with_their_line() {
    for (module, source, line) in [
        ("model", "use crate::config::Config;", 1),
        ("metrics", "//! x\nuse crate::config::Config;", 2),
        ("model", "fn f() { crate::diag::x(); }", 1),
        ("diag", "use crate::model::share::Share;", 1),
        ("store", "use crate::export::access;", 1),
        ("export", "use crate::proxy::Shards;", 1),
        ("proxy", "use crate::store::file;", 1),
        ("proxy", "use crate::control::x;", 1),
        ("control", "pub(crate) use crate::cli;", 1),
        ("cli", "use super::super::config;", 1),
        ("cli", "use crate::{config, model};", 1),
        ("cli", "use crate::unknown::x;", 1),
        ("config", "\n\nasync fn f() {}", 3),
        ("config", "use tokio::sync;", 1),
        ("model", "fn f(r: hyper::Request<()>) {}", 1),
        ("model", "let x = std::fs::read(p);", 1),
        ("model", "let x = std::env::var(p);", 1),
        ("metrics", "let x = Instant::now();", 1),
        ("model", "let x = fastrand::u64(..);", 1),
        ("model", "use rand::Rng;", 1),
        ("model", "let s = r#\"\"quoted\"\"#; crate::cli::x();", 1),
        ("model", "let c = '\"'; crate::cli::x(); let d = '\"';", 1),
        ("model", "let s = \"\\\"\"; crate::cli::x();", 1),
        ("model", "/* a\nb */ use crate::cli::x;", 2),
        ("model", "#[cfg(test)]\nmod tests;\nuse rand::Rng;", 3),
        ("nowhere", "", 1),
    ] {
        let lines: Vec<_> = scan(module, source).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, [line], "{module}: {source}");
    }
    let long = "\n".repeat(MOST_LINES + 1);
    assert_eq!(scan("cli", &long).len(), 1);
}

#[test]
fn what_is_allowed_is_not_reported() {
    for (module, source) in [
        ("model", "use crate::model::share::Share; // crate::cli and tokio in a comment"),
        ("model", "let s = \"crate::cli::x async std::fs now()\";"),
        ("model", "/// `std::fs`\nlet operand = brand; // rand"),
        ("model", "fn f() {}\n#[cfg(test)]\nmod tests { fn g() { std::env::var(\"x\"); } }"),
        ("metrics", "use crate::model::share::Share;"),
        ("config", "use crate::diag::Span;"),
        ("proxy", "use crate::export::access::AccessLog; async fn f() { std::env::var(\"x\"); }"),
        ("cli", "use crate::store::file;\nuse crate::proxy::Shards;"),
        ("main", "fn main() -> std::process::ExitCode { gradual::cli::main() }"),
        ("model", "let life: &'static str = \"x\"; let c = '\\''; let d = '\\\\';"),
    ] {
        assert_eq!(scan(module, source), [], "{module}: {source}");
    }
}

//! docs/rules.md: every example in it gives what stands beside it.

use std::path::Path;

use super::{Sample, get};

const MANUAL: &str = include_str!("../../../docs/rules.md");
const MINIMAL: &str = include_str!("../../../config/minimal.toml");

/// The code blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let open = format!("```{language}\n");
    let parts = MANUAL.split(&open).skip(1);
    parts.map(|part| part.split("```").next().unwrap()).collect()
}

/// The request that the manual speaks of.
fn request() -> Sample {
    let request = get("/asset/Logo.PNG?lang=en&tag=a&tag=b");
    let lines = blocks("http")[0].lines().skip(1).filter_map(|line| line.split_once(": "));
    lines
        .filter(|(name, _)| *name != "Host")
        .fold(request, |request, (name, value)| request.with(&name.to_lowercase(), value))
}

#[test]
fn every_example_of_the_manual_gives_what_stands_beside_it() {
    let mut count = 0;
    for line in blocks("txt").into_iter().flat_map(str::lines).filter(|line| !line.is_empty()) {
        let (expression, result) = line.split_once("==>").unwrap_or_else(|| panic!("no result: {line}"));
        assert_eq!(request().shows(expression.trim()), result.trim(), "{line}");
        count += 1;
    }
    assert!(count >= 40, "{count} examples");
}

#[test]
fn every_file_of_the_manual_is_good() {
    let blocks = blocks("toml");
    assert!(!blocks.is_empty());
    for block in blocks {
        let source = MINIMAL.replacen("[[worker.version]]", &format!("{block}\n[[worker.version]]"), 1);
        assert_ne!(source, MINIMAL);
        let (config, _) = gradual::config::parse("gradual.toml", &source, Path::new("/"))
            .unwrap_or_else(|report| panic!("{}", report.render(false)));
        assert!(!config.workers[0].rules.is_empty());
    }
}

//! How commands end: with a result, for people or for machines, or with why there is none.

use std::io;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use crate::cli::check::json_text;
use crate::cli::{color, complain, say};
use crate::control::release::{Kind, Refusal};
use crate::diag::{Report, Severity, visible};

/// What a command has to say.
#[derive(Debug)]
pub(crate) struct Said {
    /// For people, with its line breaks.
    pub(crate) text: String,
    /// For machines.
    pub(crate) json: Value,
    /// Whether it is certain that what was asked for is done.
    pub(crate) certain: bool,
    /// Whether something was changed, so that it counts as done even where nobody takes the result.
    pub(crate) made: bool,
}

impl Said {
    /// A result.
    pub(crate) fn new(text: impl Into<String>, json: Value) -> Self {
        Self { text: text.into(), json, certain: true, made: false }
    }
}

/// Why a command has not done what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: &'static str,
    title: String,
    help: Option<String>,
    report: Option<Box<Report>>,
    code: u8,
}

impl Failure {
    /// A refusal of a kind, which is part of the public interface: exit code 1.
    pub(crate) fn new(kind: &'static str, title: impl Into<String>) -> Self {
        Self { kind, title: title.into(), help: None, report: None, code: 1 }
    }

    /// Arguments that mean nothing, whatever the file says: exit code 2.
    pub(crate) fn usage(kind: &'static str, title: impl Into<String>) -> Self {
        Self { code: 2, ..Self::new(kind, title) }
    }

    /// The same with what to do.
    #[must_use]
    pub(crate) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// What is wrong, in a sentence.
    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    fn to_text(&self, color: bool) -> String {
        if let Some(report) = self.report.as_ref().filter(|_| self.kind == BAD_FILE) {
            return report.render(color);
        }
        let (red, plain) = paint(color, RED);
        let mut text = format!("{red}error{plain}: {}\n", clean(&self.title));
        if let Some(help) = &self.help {
            text.push_str(&format!("  = help: {}\n", clean(help).replace('\n', "\n          ")));
        }
        text
    }

    fn to_json(&self) -> Value {
        let mut error = json!({ "kind": self.kind, "message": self.title, "help": self.help });
        if let Some(report) = &self.report {
            error["report"] = report.to_json();
        }
        json!({ "error": error })
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let kind = refusal.kind();
        let help = match (refusal.help(), refusal.report()) {
            (Some(help), _) => Some(help.to_owned()),
            (None, Some(report)) => in_short(report),
            (None, None) if kind == Kind::BadTotal => Some(REST.to_owned()),
            (None, None) => None,
        };
        // Only a file that is there has places to show: what was drafted is in no file.
        let report = refusal.report().filter(|_| kind == Kind::BadFile).cloned().map(Box::new);
        Self { kind: kind.as_str(), title: refusal.to_string(), help, report, code: 1 }
    }
}

/// The kind of failures that are about what the file says.
const BAD_FILE: &str = "bad-file";

const REST: &str = "a version that is named without a percentage gets what the others leave";

/// What to do about the first mistake of a text.
fn in_short(report: &Report) -> Option<String> {
    let first = report.diagnostics.iter().find(|one| one.severity == Severity::Error)?;
    let expected = first.expected.as_ref().map(|expected| format!("expected {expected}"));
    let lines: Vec<_> = expected.into_iter().chain(first.help.clone()).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        let title = report.summary();
        Self { report: Some(Box::new(report)), ..Self::new(BAD_FILE, title) }
    }
}

/// Prints a result or why there is none: text on standard output and standard error; with `json`, one JSON value on
/// standard output in either case, and the text of a failure besides.
pub(crate) fn conclude(result: Result<Said, Failure>, json: bool) -> ExitCode {
    let (printed, code) = match result {
        Ok(said) => {
            let text = if json { format!("{}\n", json_text(&said.json)) } else { said.text };
            let printed = say(&text);
            if !printed {
                let made = if said.made { "; what was asked for is done" } else { "" };
                complain(&format!("error: the result cannot be written to standard output{made}\n"));
            }
            (printed || said.made, u8::from(!said.certain))
        }
        Err(failure) => {
            complain(&failure.to_text(color(&io::stderr())));
            let printed = !json || say(&format!("{}\n", json_text(&failure.to_json())));
            (printed, failure.code)
        }
    };
    ExitCode::from(if printed { code } else { code.max(1) })
}

/// Says to machines that the arguments cannot be parsed.
pub(crate) fn say_usage(what: &str) {
    let failure =
        Failure::usage("usage", what).help("`gradual help` shows all commands, `--help` the options of one");
    say(&format!("{}\n", json_text(&failure.to_json())));
}

/// Errors, and what should make people think twice.
pub(crate) const RED: Style = AnsiColor::Red.on_default().bold();
/// Warnings.
pub(crate) const YELLOW: Style = AnsiColor::Yellow.on_default().bold();

/// The sequences before and behind a text of a style; empty without colours.
pub(crate) fn paint(color: bool, style: Style) -> (String, String) {
    if color { (style.render().to_string(), style.render_reset().to_string()) } else { Default::default() }
}

/// Says what should be known besides the result, on standard error.
pub(crate) fn warn(text: &str) {
    let (yellow, plain) = paint(color(&io::stderr()), YELLOW);
    complain(&format!("{yellow}warning{plain}: {}\n", clean(text)));
}

/// A text of some lines that is safe on a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

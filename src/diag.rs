//! What is wrong, and where: spans of a source text, diagnostics, and reports rendered as rustc renders them.

use std::ops::Range;

/// Bytes of a source text, half-open.
pub type Span = Range<usize>;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The text is refused.
    Error,
    /// The text is taken, but probably does not do what its author wants.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub title: String,
    /// The text at fault.
    pub span: Span,
    /// What stands under the text at fault; may be empty.
    pub label: String,
    /// What was expected there.
    pub expected: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error with a title and the text at fault.
    pub fn error(title: impl Into<String>, span: Span) -> Self {
        Self {
            severity: Severity::Error,
            title: title.into(),
            span,
            label: String::new(),
            expected: None,
            help: None,
        }
    }

    /// A warning with a title and the text at fault.
    pub fn warning(title: impl Into<String>, span: Span) -> Self {
        Self { severity: Severity::Warning, ..Self::error(title, span) }
    }

    /// The same, with what stands under the text at fault.
    #[must_use]
    pub fn label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// The same, with what was expected there.
    #[must_use]
    pub fn expected(self, expected: impl Into<String>) -> Self {
        Self { expected: Some(expected.into()), ..self }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// All that is to say about one source text, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The name of the text, as its author knows it.
    pub file: String,
    /// The text.
    pub source: String,
    /// What is to say, in the order of the spans.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// The report as text for people.
    pub fn render(&self, _color: bool) -> String {
        let lines: Vec<_> = self.diagnostics.iter().map(|one| format!("error: {}\n", one.title)).collect();
        lines.concat()
    }

    /// The report as JSON for machines.
    pub fn to_json(&self) -> serde_json::Value {
        let diagnostics: Vec<_> =
            self.diagnostics.iter().map(|one| serde_json::json!({ "title": one.title })).collect();
        serde_json::json!({ "file": self.file, "diagnostics": diagnostics })
    }

    /// Whether the text is refused.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|one| one.severity == Severity::Error)
    }

    /// One line.
    pub fn summary(&self) -> String {
        format!("{}: {} errors", self.file, self.diagnostics.len())
    }
}

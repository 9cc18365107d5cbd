//! What is wrong with an expression, and where.

use crate::diag::{Diagnostic, Span};

/// What is wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The bytes of the expression at fault.
    pub span: Span,
    /// What is wrong, in one line.
    pub title: String,
    /// What stands under the text at fault; may be empty.
    pub label: String,
    /// What was expected there.
    pub expected: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Mistake {
    /// A mistake with a title and the bytes at fault.
    pub(super) fn new(title: impl Into<String>, span: Span) -> Self {
        Self { span, title: title.into(), label: String::new(), expected: None, help: None }
    }

    /// The same, with what stands under the text at fault.
    #[must_use]
    pub(super) fn label(self, label: impl Into<String>) -> Self {
        Self { label: label.into(), ..self }
    }

    /// The same, with what was expected there.
    #[must_use]
    pub(super) fn expected(self, expected: impl Into<String>) -> Self {
        Self { expected: Some(expected.into()), ..self }
    }

    /// The same, with what to do about it.
    #[must_use]
    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The same as a diagnostic about the text that the expression stands in, where its bytes are at `span`.
    pub fn diagnostic(self, span: Span) -> Diagnostic {
        let Self { title, label, expected, help, .. } = self;
        Diagnostic { expected, help, ..Diagnostic::error(title, span).label(label) }
    }
}

//! What is wrong, and where: spans of a source text, diagnostics, and reports rendered as rustc renders them.

mod words;

use std::borrow::Cow;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

pub use words::{nearest, quoted};

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

impl Severity {
    /// The word for it: `error` or `warning`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
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
    /// A report about a source text; the diagnostics are put in the order of the text.
    pub fn new(file: impl Into<String>, source: impl Into<String>, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
        Self { file: file.into(), source: source.into(), diagnostics }
    }

    /// A report of one error about a file whose text is not at hand: missing, unreadable, not text.
    pub fn without_source(file: impl Into<String>, title: impl Into<String>, help: Option<String>) -> Self {
        let diagnostic = Diagnostic { help, ..Diagnostic::error(title, 0..0) };
        Self { file: file.into(), source: String::new(), diagnostics: vec![diagnostic] }
    }

    /// The same, with more diagnostics about the same text.
    #[must_use]
    pub fn with(self, more: impl IntoIterator<Item = Diagnostic>) -> Self {
        let diagnostics = self.diagnostics.into_iter().chain(more).collect();
        Self::new(self.file, self.source, diagnostics)
    }

    /// Whether the text is refused.
    pub fn has_errors(&self) -> bool {
        self.errors() > 0
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.count(Severity::Error)
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.count(Severity::Warning)
    }

    fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// One line such as `gradual.toml: 2 errors, 1 warning`, safe to print.
    pub fn summary(&self) -> String {
        let file = visible(&self.file);
        let (errors, warnings) = (counted(self.errors(), "error"), counted(self.warnings(), "warning"));
        match (self.errors(), self.warnings()) {
            (0, 0) => format!("{file}: ok"),
            (0, _) => format!("{file}: {warnings}"),
            (_, 0) => format!("{file}: {errors}"),
            _ => format!("{file}: {errors}, {warnings}"),
        }
    }

    /// The line and the column of a byte of the text, both from 1, the column in characters. A byte behind the text
    /// is taken for its end, one inside a character for the character.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        Lines::new(&self.source).line_column(offset)
    }

    /// All diagnostics as rustc writes them, for people; with ANSI colours or without. Control characters of the text
    /// are replaced, so that nothing of a file is obeyed by a terminal.
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        let lines = Lines::new(&self.source);
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            text.push_str(&renderer.render(&[self.group(&lines, diagnostic)]));
            text.push_str("\n\n");
        }
        text.truncate(text.trim_end().len());
        text + if self.diagnostics.is_empty() { "" } else { "\n" }
    }

    fn group<'a>(&'a self, lines: &Lines<'_>, diagnostic: &'a Diagnostic) -> Group<'a> {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(visible(&diagnostic.title));
        let origin = Origin::path(visible(&self.file));
        let mut group = if self.source.is_empty() {
            title.element(origin)
        } else {
            let (line, column) = lines.line_column(diagnostic.span.start);
            let excerpt = lines.excerpt(&diagnostic.span);
            let mark = AnnotationKind::Primary.span(excerpt.span);
            let label = Some(visible(&diagnostic.label)).filter(|label| !label.is_empty());
            let snippet =
                Snippet::source(excerpt.text).line_start(excerpt.line).annotation(mark.label(label));
            if excerpt.cut {
                // The column of what is left of the line would be wrong.
                title.element(origin.line(line).char_column(column)).element(snippet)
            } else {
                title.element(snippet.path(visible(&self.file)))
            }
        };
        if let Some(expected) = &diagnostic.expected {
            group = group.element(Level::NOTE.message(format!("expected {}", visible(expected))));
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(visible(help)));
        }
        group
    }

    /// All diagnostics for machines, as [`Findings`] has them.
    pub fn to_json(&self) -> Value {
        // What holds texts and numbers alone can always be written.
        serde_json::to_value(self.findings()).unwrap_or_default()
    }

    /// All diagnostics for machines.
    pub fn findings(&self) -> Findings {
        let lines = Lines::new(&self.source);
        Findings {
            file: self.file.clone(),
            errors: self.errors(),
            warnings: self.warnings(),
            diagnostics: self.diagnostics.iter().map(|one| self.finding(&lines, one)).collect(),
        }
    }

    fn finding(&self, lines: &Lines<'_>, diagnostic: &Diagnostic) -> Finding {
        let span = lines.clamp(&diagnostic.span);
        let text = self.source.get(span.clone()).unwrap_or_default();
        let place =
            (!self.source.is_empty()).then(|| (lines.line_column(span.start), lines.line_column(span.end)));
        Finding {
            severity: diagnostic.severity.as_str(),
            title: diagnostic.title.clone(),
            line: place.map(|(start, _)| start.0),
            column: place.map(|(start, _)| start.1),
            end_line: place.map(|(_, end)| end.0),
            end_column: place.map(|(_, end)| end.1),
            text: text.to_owned(),
            label: diagnostic.label.clone(),
            expected: diagnostic.expected.clone(),
            help: diagnostic.help.clone(),
        }
    }
}

/// A report for machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Findings {
    /// The name of the text.
    pub file: String,
    /// How many errors there are.
    pub errors: usize,
    /// How many warnings there are.
    pub warnings: usize,
    /// What is to say, in the order of the text.
    pub diagnostics: Vec<Finding>,
}

/// What is to say about a place of a file. Lines and columns count from 1, columns in characters, the end exclusive; all four
/// are null where there is no text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// `error` or `warning`.
    pub severity: &'static str,
    /// What is wrong, in one line.
    pub title: String,
    /// The line at which the text at fault begins.
    pub line: Option<usize>,
    /// The column at which it begins.
    pub column: Option<usize>,
    /// The line at which it ends.
    pub end_line: Option<usize>,
    /// The column at which it ends.
    pub end_column: Option<usize>,
    /// The text at fault.
    pub text: String,
    /// What is wrong there.
    pub label: String,
    /// What was expected.
    pub expected: Option<String>,
    /// What to do about it.
    pub help: Option<String>,
}

/// The lines of a text, found once and asked often.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    source: &'a str,
    /// Where each line starts.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    /// The lines of a text.
    pub fn new(source: &'a str) -> Self {
        let starts = [0].into_iter().chain(source.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { source, starts }
    }

    /// The line of a byte, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset.min(self.source.len()))
    }

    /// The line and the column of a byte, as [`Report::line_column`].
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let offset = self.source.floor_char_boundary(offset);
        let line = self.line(offset);
        let start = self.start(line);
        (line, self.source.get(start..offset).map_or(0, |before| before.chars().count()) + 1)
    }

    /// Where a line, counted from 1, starts; the end of the text for lines behind it.
    fn start(&self, line: usize) -> usize {
        self.starts.get(line.saturating_sub(1)).copied().unwrap_or(self.source.len())
    }

    /// Where a line ends, without its line break.
    fn end(&self, line: usize) -> usize {
        let next = self.start(line + 1).max(self.start(line));
        let text = self.source.get(self.start(line)..next).unwrap_or_default();
        self.start(line) + text.trim_end_matches(['\n', '\r']).len()
    }

    /// The span within the text and between characters.
    fn clamp(&self, span: &Span) -> Span {
        let start = self.source.floor_char_boundary(span.start);
        start..self.source.ceil_char_boundary(span.end).max(start)
    }

    /// The lines of a span, fit to be shown; of a long span or line, its beginning.
    fn excerpt(&self, span: &Span) -> Excerpt {
        let Span { start, mut end } = self.clamp(span);
        let line = self.line(start);
        let mut last = self.line(end.saturating_sub(1).max(start));
        if last - line > MOST_LINES {
            (last, end) = (line, self.end(line).max(start));
        }
        let (mut from, mut to) = (self.start(line), self.end(last).max(end));
        if to - from > MOST_BYTES {
            from = self.source.ceil_char_boundary(from.max(start.saturating_sub(AROUND)));
            to = self.source.floor_char_boundary(self.end(line).max(start).min(start + AROUND)).max(from);
            end = end.min(to);
        }
        let cut = from != self.start(line);
        let part = |range: Span| visible_lines(self.source.get(range).unwrap_or_default());
        let (before, within, after) = (part(from..start), part(start..end), part(end..to));
        let span = before.len()..before.len() + within.len();
        Excerpt { text: before + &within + &after, line, span, cut }
    }
}

/// A span of more lines is shown by its first line only.
const MOST_LINES: usize = 12;
/// Of a longer part of the text, only what stands around the fault is shown, in bytes.
const MOST_BYTES: usize = 1000;
/// How many bytes of a very long line are shown on either side of where the fault begins.
const AROUND: usize = 60;

/// Some lines of a text as they are shown.
struct Excerpt {
    text: String,
    /// The number of the first line.
    line: usize,
    /// What is underlined, in bytes of `text`.
    span: Span,
    /// Whether the first line is shown from elsewhere than its start.
    cut: bool,
}

/// A number and what is counted: `1 error`, `2 errors`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A text that is safe on a terminal, in one line: control characters are shown as symbols, and what would hide or
/// reorder other characters as U+FFFD.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().all(|c| symbol(c) == c) {
        return Cow::Borrowed(text);
    }
    text.chars().map(symbol).collect()
}

/// As [`visible`], but line breaks and tabs stay, and a carriage return before a line break goes.
fn visible_lines(text: &str) -> String {
    let keep = |c: char| if matches!(c, '\n' | '\t') { c } else { symbol(c) };
    text.replace("\r\n", "\n").chars().map(keep).collect()
}

/// What is shown for a character.
fn symbol(c: char) -> char {
    match c {
        // The block of control pictures has one for each, in their order.
        '\0'..='\x1f' => char::from_u32(0x2400 + u32::from(c)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}' => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(source: &str, diagnostics: Vec<Diagnostic>) -> Report {
        Report::new("gradual.toml", source, diagnostics)
    }

    #[test]
    fn a_report_is_rendered_as_rustc_does() {
        let mistake = Diagnostic::error("unknown key `prot`", 4..8)
            .label("not a key of `[server]`")
            .expected("one of `port`, `threads`")
            .help("did you mean `port`?");
        let expected = "\
error: unknown key `prot`
 --> gradual.toml:2:1
  |
2 | prot = 1
  | ^^^^ not a key of `[server]`
  |
  = note: expected one of `port`, `threads`
  = help: did you mean `port`?
";
        assert_eq!(report("[x]\nprot = 1\n", vec![mistake]).render(false), expected);
    }

    #[test]
    fn diagnostics_stand_in_the_order_of_the_text() {
        let report = report("abc", vec![Diagnostic::error("b", 1..2), Diagnostic::warning("a", 0..1)]);
        assert_eq!(report.diagnostics[0].title, "a");
        assert_eq!(report.summary(), "gradual.toml: 1 error, 1 warning");
        assert!(report.has_errors());
    }

    #[test]
    fn lines_and_columns_count_from_one_in_characters() {
        let report = report("aé\nöx", vec![]);
        let places: Vec<_> = [0, 1, 2, 3, 4, 6, 99].map(|offset| report.line_column(offset)).into();
        assert_eq!(places, [(1, 1), (1, 2), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]);
    }

    #[test]
    fn no_span_makes_rendering_panic() {
        for source in ["", "é", "a\r\né\tx\n", "\n\n", &"é".repeat(2000), &"x\n".repeat(100)] {
            let n = source.len();
            for start in [0, 1, 2, 3, 5, n.saturating_sub(1), n, n + 1, usize::MAX] {
                for end in [0, 1, 2, 4, n.saturating_sub(1), n, n + 1, usize::MAX] {
                    let report = report(source, vec![Diagnostic::error("x", start..end).label("y")]);
                    assert!(report.render(true).contains('x'));
                    assert_eq!(report.to_json()["errors"], 1);
                }
            }
        }
    }

    #[test]
    fn nothing_of_a_file_is_obeyed_by_a_terminal() {
        let source = "x = '\u{1b}[31m\u{9b}2J\u{202e}\u{7}'\r\n";
        let mistake = Diagnostic::error(source, 0..source.len()).label(source).help(source).expected(source);
        let text = Report::new(source, source, vec![mistake]).render(false);
        let bad = |c: &char| c.is_control() && *c != '\n' || *c == '\u{202e}';
        assert_eq!(text.chars().find(bad), None, "{text}");
    }

    #[test]
    fn a_report_without_source_names_the_file_and_why() {
        let report = Report::without_source("gradual.toml", "there is no such file", None);
        assert_eq!(report.render(false), "error: there is no such file\n--> gradual.toml\n");
        assert_eq!(report.to_json()["diagnostics"][0]["line"], Value::Null);
    }

    #[test]
    fn machines_get_the_place_and_the_text_at_fault() {
        let json = report("a\nbé c\n", vec![Diagnostic::warning("t", 2..5)]).to_json();
        let found = &json["diagnostics"][0];
        assert_eq!((&found["severity"], &found["text"]), (&json!("warning"), &json!("bé")));
        let place = ["line", "column", "end_line", "end_column"].map(|key| found[key].as_u64());
        assert_eq!(place, [Some(2), Some(1), Some(2), Some(3)]);
    }
}

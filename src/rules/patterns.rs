//! Regular expressions, wildcards, and what is put in their place.

use bumpalo::collections::Vec as BumpVec;
use regex::bytes::{Regex, RegexBuilder};
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::util::syntax;
use regex_automata::{Input, meta};
use regex_syntax::ParserBuilder;

use super::context::Context;
use super::mistake::Mistake;
use super::scan::Text;
use crate::diag::Span;

/// The most memory that a compiled regular expression may take, and of each thread's cache for it.
const MOST_REGEX_BYTES: usize = 256 * 1024;
/// How deep a regular expression may be nested.
const MOST_REGEX_NESTING: u32 = 64;
/// The most references in a replacement, as with Cloudflare.
const MOST_REFERENCES: usize = 8;

/// A regular expression in Rust's syntax, over bytes: without `(?u)`, a class such as `\w` means ASCII.
pub(super) fn regex(text: &Text) -> Result<Regex, Mistake> {
    compile(valid(text)?, text)
}

/// A regular expression as text, if it is valid.
fn valid(text: &Text) -> Result<&str, Mistake> {
    let pattern = text.as_str()?;
    // The other parser says the same, but only this one where.
    let mut parser = ParserBuilder::new().utf8(false).unicode(false).nest_limit(MOST_REGEX_NESTING).build();
    if let Err(error) = parser.parse(pattern) {
        let (what, span) = match &error {
            regex_syntax::Error::Parse(error) => (error.kind().to_string(), error.span()),
            regex_syntax::Error::Translate(error) => (error.kind().to_string(), error.span()),
            _ => (
                error.to_string(),
                &regex_syntax::ast::Span::splat(regex_syntax::ast::Position::new(0, 1, 1)),
            ),
        };
        let place = text.place(&(span.start.offset..span.end.offset));
        return Err(Mistake::new("the regular expression is not valid", place).label(what));
    }
    Ok(pattern)
}

fn compile(pattern: &str, text: &Text) -> Result<Regex, Mistake> {
    let mut builder = RegexBuilder::new(pattern);
    builder.unicode(false).nest_limit(MOST_REGEX_NESTING);
    builder.size_limit(MOST_REGEX_BYTES).dfa_size_limit(MOST_REGEX_BYTES).build().map_err(|error| {
        let mistake = Mistake::new("the regular expression is too big", text.span.clone());
        match error {
            regex::Error::CompiledTooBig(_) => {
                let most = MOST_REGEX_BYTES / 1024;
                mistake
                    .label(format!("compiled, it takes more than {most} KiB"))
                    .help("make repetitions such as `{1000}` smaller, or use fewer of them")
            }
            error => Mistake { title: "the regular expression is not valid".into(), ..mistake }
                .label(error.to_string().lines().last().unwrap_or_default()),
        }
    })
}

/// A regular expression that says where its groups have matched. It is the same engine as [`Regex`], which would ask the heap
/// for memory for each search.
#[derive(Clone, Debug)]
pub(super) struct Pattern(meta::Regex);

impl Pattern {
    /// A regular expression.
    pub(super) fn regex(text: &Text) -> Result<Self, Mistake> {
        Self::compile(valid(text)?, text)
    }

    /// A wildcard; its stars are the groups.
    pub(super) fn wildcard(text: &Text, strict: bool) -> Result<Self, Mistake> {
        Self::compile(&regex_of(text, strict)?, text).map_err(|_| too_big(text))
    }

    /// After the checks of [`compile`], and with its limits.
    fn compile(pattern: &str, text: &Text) -> Result<Self, Mistake> {
        compile(pattern, text)?;
        let limits = meta::Config::new()
            .utf8_empty(false)
            .nfa_size_limit(Some(MOST_REGEX_BYTES))
            .hybrid_cache_capacity(MOST_REGEX_BYTES);
        let bytes = syntax::Config::new().utf8(false).unicode(false).nest_limit(MOST_REGEX_NESTING);
        let built = meta::Builder::new().configure(limits).syntax(bytes).build(pattern);
        built.map(Self).map_err(|error| {
            Mistake::new("the regular expression is not valid", text.span.clone()).label(error.to_string())
        })
    }

    /// How many groups it has, without the whole match.
    pub(super) fn groups(&self) -> usize {
        self.0.captures_len().saturating_sub(1)
    }

    /// The first match, if there is one; `None` where it would be too much work.
    pub(super) fn captures<'s>(&self, context: &Context<'s>, text: &'s [u8]) -> Option<Option<Captures<'s>>> {
        let count = self.0.captures_len().saturating_mul(2);
        let mut places: BumpVec<'s, Place> = context.list(count)?;
        places.resize(count, None);
        let found = self.0.search_slots(&Input::new(text), &mut places);
        Some(found.map(|_| Captures { text, places: places.into_bump_slice() }))
    }
}

/// Where a group begins or ends.
type Place = Option<NonMaxUsize>;

/// A match: where each group begins and ends.
pub(super) struct Captures<'s> {
    text: &'s [u8],
    places: &'s [Place],
}

impl Captures<'_> {
    /// Where a group has matched, or the whole pattern (group 0); `None` of a group that has no part in the match.
    pub(super) fn span(&self, group: usize) -> Option<Span> {
        let place = |at: usize| Some((*self.places.get(at)?)?.get());
        Some(place(group * 2)?..place(group * 2 + 1)?)
    }

    /// What a group has matched; empty of one that has no part in the match.
    fn group(&self, group: usize) -> &[u8] {
        self.span(group).and_then(|span| self.text.get(span)).unwrap_or_default()
    }
}

/// A wildcard: `*` stands for any bytes, as few as possible, `\*` and `\\` for themselves; it matches whole values.
pub(super) fn wildcard(text: &Text, strict: bool) -> Result<Regex, Mistake> {
    compile(&regex_of(text, strict)?, text).map_err(|_| too_big(text))
}

fn too_big(wildcard: &Text) -> Mistake {
    Mistake::new("the wildcard is too big", wildcard.span.clone())
}

/// The regular expression that does what a wildcard says.
fn regex_of(text: &Text, strict: bool) -> Result<String, Mistake> {
    let mut regex = String::from(if strict { r"\A(?s-u:" } else { r"\A(?is-u:" });
    let mut bytes = text.bytes.iter().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match (byte, bytes.peek()) {
            (b'*', Some((_, b'*'))) => {
                return Err(Mistake::new("`**` is no wildcard", text.place(&(at..at + 2)))
                    .label("one `*` stands for any number of characters")
                    .help("write `*`, or `\\*` for a star itself"));
            }
            (b'*', _) => regex.push_str("(.*?)"),
            (b'\\', Some(&(_, escaped @ (b'*' | b'\\')))) => {
                push_literal(&mut regex, *escaped);
                bytes.next();
            }
            (b'\\', _) => {
                return Err(Mistake::new("a lone backslash in a wildcard", text.place(&(at..at + 1)))
                    .expected("`\\*` for a star or `\\\\` for a backslash")
                    .help("a raw string such as r\"a\\*b\" needs no further escapes"));
            }
            (byte, _) => push_literal(&mut regex, *byte),
        }
    }
    regex.push_str(r")\z");
    Ok(regex)
}

/// Appends what matches one byte to a regular expression; of a letter, whether case matters is said elsewhere.
fn push_literal(regex: &mut String, byte: u8) {
    if byte.is_ascii() {
        regex.push_str(&regex::escape(char::from(byte).encode_utf8(&mut [0; 4])));
    } else {
        // Strings are bytes, and need be no text.
        regex.push_str(&format!("\\x{byte:02x}"));
    }
}

/// What is put in the place of a match.
#[derive(Clone, Debug)]
pub(super) struct Template(Box<[Part]>);

#[derive(Clone, Debug)]
enum Part {
    Bytes(Box<[u8]>),
    /// What a group has captured.
    Group(usize),
}

impl Template {
    /// From `${1}` for a group, `$$` for a `$`, and anything else for itself; for a pattern of so many groups.
    pub(super) fn new(text: &Text, groups: usize) -> Result<Self, Mistake> {
        let (mut parts, mut literal, mut references) = (Vec::new(), Vec::new(), 0);
        let mut at = 0;
        while let Some(rest) = text.bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match rest {
                [b'$', b'$', ..] => {
                    literal.push(b'$');
                    at += 2;
                }
                [b'$', ..] => {
                    let (group, length) = reference(text, at, groups)?;
                    references += 1;
                    if references > MOST_REFERENCES {
                        let title = format!("a replacement has at most {MOST_REFERENCES} references");
                        return Err(Mistake::new(title, text.place(&(at..at + length))));
                    }
                    parts.push(Part::Bytes(std::mem::take(&mut literal).into()));
                    parts.push(Part::Group(group));
                    at += length;
                }
                [byte, ..] => {
                    literal.push(*byte);
                    at += 1;
                }
                [] => break,
            }
        }
        parts.push(Part::Bytes(literal.into()));
        parts.retain(|part| !matches!(part, Part::Bytes(bytes) if bytes.is_empty()));
        Ok(Self(parts.into()))
    }

    /// How long it is for a match.
    pub(super) fn length(&self, captures: &Captures<'_>) -> usize {
        self.0.iter().map(|part| part.bytes(captures).len()).sum()
    }

    /// Appends it for a match.
    pub(super) fn write(&self, captures: &Captures<'_>, into: &mut BumpVec<'_, u8>) {
        self.0.iter().for_each(|part| into.extend_from_slice_copy(part.bytes(captures)));
    }
}

impl Part {
    fn bytes<'a>(&'a self, captures: &'a Captures<'_>) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Group(group) => captures.group(*group),
        }
    }
}

/// The group that `${1}` at a place refers to, and the length of the reference.
fn reference(text: &Text, at: usize, groups: usize) -> Result<(usize, usize), Mistake> {
    let rest = text.bytes.get(at..).unwrap_or_default();
    let digits = |from: usize| rest.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let count = digits(2);
    let whole = rest.get(1) == Some(&b'{') && count > 0 && rest.get(2 + count) == Some(&b'}');
    if !whole {
        let bare = digits(1);
        let mistake = Mistake::new("a lone `$` in a replacement", text.place(&(at..at + 1 + bare)))
            .expected("`${1}` for what the first group has captured, or `$$` for a `$`");
        let number = text.bytes.get(at + 1..at + 1 + bare).unwrap_or_default();
        let number = String::from_utf8_lossy(number);
        return Err(if bare > 0 { mistake.help(format!("write `${{{number}}}`")) } else { mistake });
    }
    let number = std::str::from_utf8(rest.get(2..2 + count).unwrap_or_default()).unwrap_or_default();
    match number.parse() {
        Ok(group) if group <= groups => Ok((group, count + 3)),
        _ => {
            let place: Span = text.place(&(at..at + count + 3));
            let label = match groups {
                0 => "the pattern has no groups".to_owned(),
                1 => "the pattern has one group".to_owned(),
                groups => format!("the pattern has {groups} groups"),
            };
            Err(Mistake::new(format!("there is no group {number}"), place).label(label))
        }
    }
}

//! The characters of an expression: words, symbols, and literals.

use std::net::IpAddr;

use super::mistake::Mistake;
use crate::diag::{Span, quoted};

/// A cursor over the text of an expression. It stands between characters, always.
#[derive(Debug)]
pub(super) struct Scanner<'t> {
    text: &'t str,
    at: usize,
}

/// A string literal.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    /// Where the literal stands, quotes included.
    pub(super) span: Span,
    /// Where each byte comes from, and where the last one ends.
    places: Vec<usize>,
}

impl Text {
    fn new(start: usize) -> Self {
        Self { bytes: Vec::new(), span: start..start, places: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8], place: usize) {
        // A character that stands for itself has its bytes one after the other; an escape has one byte.
        self.places.extend((place..).take(bytes.len()));
        self.bytes.extend_from_slice(bytes);
    }

    fn end(mut self, inner: usize, end: usize) -> Self {
        self.places.push(inner);
        self.span.end = end;
        self
    }

    /// Where some of its bytes stand in the expression; all of it where they are not there.
    pub(super) fn place(&self, part: &Span) -> Span {
        match (self.places.get(part.start), self.places.get(part.end.max(part.start))) {
            (Some(&start), Some(&end)) => start..end,
            _ => self.span.clone(),
        }
    }

    /// It as text, for what is a language of its own.
    pub(super) fn as_str(&self) -> Result<&str, Mistake> {
        std::str::from_utf8(&self.bytes).map_err(|error| {
            let at = error.valid_up_to();
            Mistake::new("the string is not UTF-8", self.place(&(at..at + 1)))
                .label("this byte belongs to no character")
                .help("in a regular expression, write the escape for the regex, as in r\"(?-u)\\xff\"")
        })
    }
}

impl<'t> Scanner<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, at: 0 }
    }

    /// Where it stands.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    pub(super) fn at_end(&self) -> bool {
        self.rest().is_empty()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Passes over white space: spaces, tabs and line ends.
    pub(super) fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    /// Passes over a symbol, if it is next.
    pub(super) fn eat(&mut self, symbol: &str) -> bool {
        let there = self.rest().starts_with(symbol);
        if there {
            self.at += symbol.len();
        }
        there
    }

    /// The word that is next: letters, digits, `_` and `.`; empty where something else is.
    pub(super) fn word(&self) -> &'t str {
        let rest = self.rest();
        let length = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len());
        rest.get(..length).unwrap_or_default()
    }

    /// Passes over a whole word, if it is next.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        self.word() == word && self.eat(word)
    }

    /// Passes over the word that is next.
    pub(super) fn take_word(&mut self) -> (&'t str, Span) {
        let (word, start) = (self.word(), self.at);
        self.at += word.len();
        (word, start..self.at)
    }

    /// What is next, for a message: a word, a literal's beginning or a character; empty at the end.
    pub(super) fn found(&self) -> Span {
        let length = match self.word().len() {
            0 => self.peek().map_or(0, char::len_utf8),
            length => length,
        };
        self.at..self.at + length
    }

    pub(super) fn slice(&self, span: &Span) -> &'t str {
        self.text.get(span.clone()).unwrap_or_default()
    }

    /// What is next, in words for a title.
    pub(super) fn found_words(&self) -> String {
        match self.slice(&self.found()) {
            "" => "the end of the expression".to_owned(),
            text => quoted(text),
        }
    }

    /// Whether a string literal is next.
    pub(super) fn at_string(&self) -> bool {
        let raw = self.rest().strip_prefix('r').map(|rest| rest.trim_start_matches('#'));
        self.rest().starts_with('"') || raw.is_some_and(|rest| rest.starts_with('"'))
    }

    /// A string literal with the escapes of strings.
    pub(super) fn string(&mut self) -> Result<Text, Mistake> {
        if self.rest().starts_with('r') { self.raw_string() } else { self.quoted_string() }
    }

    /// A string literal that holds a regular expression: backslashes are the regex's own.
    pub(super) fn regex_string(&mut self) -> Result<Text, Mistake> {
        if self.rest().starts_with('r') { self.raw_string() } else { self.quoted_regex() }
    }

    fn raw_string(&mut self) -> Result<Text, Mistake> {
        const MOST_HASHES: usize = 255;
        let mut text = Text::new(self.at);
        self.eat("r");
        let hashes = self.rest().len() - self.rest().trim_start_matches('#').len();
        self.at += hashes;
        let delimiter = text.span.start..self.at + 1;
        if hashes > MOST_HASHES {
            return Err(Mistake::new("a raw string has at most 255 `#`", delimiter));
        }
        self.eat("\"");
        let end = format!("\"{}", "#".repeat(hashes));
        let Some(length) = self.rest().find(&end) else {
            let label = format!("no `{end}` ends it");
            return Err(Mistake::new("the raw string does not end", delimiter).label(label));
        };
        let inner = self.at;
        text.push(self.rest().get(..length).unwrap_or_default().as_bytes(), inner);
        self.at += length + end.len();
        Ok(text.end(inner + length, self.at))
    }

    fn quoted_string(&mut self) -> Result<Text, Mistake> {
        let mut text = Text::new(self.at);
        self.eat("\"");
        loop {
            let place = self.at;
            match self.next() {
                None => return Err(unterminated(text.span.start)),
                Some('"') => return Ok(text.end(place, self.at)),
                Some('\\') => {
                    let byte = self.escape(place)?;
                    text.push(&[byte], place);
                }
                Some(c) => text.push(c.encode_utf8(&mut [0; 4]).as_bytes(), place),
            }
        }
    }

    /// What stands after a backslash at `start`.
    fn escape(&mut self, start: usize) -> Result<u8, Mistake> {
        let first = self.next();
        let byte = match first {
            Some('"') => Some(b'"'),
            Some('\\') => Some(b'\\'),
            Some('x') => self.digits(2, 16),
            Some('0'..='7') => {
                self.at -= 1;
                self.digits(3, 8)
            }
            None => return Err(unterminated(start)),
            Some(_) => None,
        };
        byte.ok_or_else(|| {
            let title = format!("unknown escape {}", quoted(self.slice(&(start..self.at))));
            Mistake::new(title, start..self.at)
                .expected("`\\\"`, `\\\\`, `\\x` and two hexadecimal digits, or `\\` and three octal digits")
                .help("write `\\\\` for a backslash, or a raw string such as r\"\\d+\"")
        })
    }

    /// A byte from so many digits.
    fn digits(&mut self, count: usize, radix: u32) -> Option<u8> {
        let mut value = 0;
        for _ in 0..count {
            let digit = self.peek()?.to_digit(radix)?;
            self.at += 1;
            value = value * radix + digit;
        }
        u8::try_from(value).ok()
    }

    /// As wirefilter reads it: of escapes only `\"` outside of a class stands for something else, and a quote inside of a
    /// class does not end the string.
    fn quoted_regex(&mut self) -> Result<Text, Mistake> {
        let mut text = Text::new(self.at);
        self.eat("\"");
        let mut class = false;
        loop {
            let place = self.at;
            let mut buffer = [0; 4];
            match self.next() {
                None => return Err(unterminated(text.span.start)),
                Some('\\') => {
                    let Some(c) = self.next() else { return Err(unterminated(text.span.start)) };
                    if class || c != '"' {
                        text.push(b"\\", place);
                    }
                    text.push(c.encode_utf8(&mut buffer).as_bytes(), place + 1);
                }
                Some('"') if !class => return Ok(text.end(place, self.at)),
                Some(c) => {
                    class = if class { c != ']' } else { c == '[' };
                    text.push(c.encode_utf8(&mut buffer).as_bytes(), place);
                }
            }
        }
    }

    /// An integer literal: decimal, hexadecimal with `0x`, octal with `0`; perhaps negative.
    pub(super) fn integer(&mut self) -> Result<i64, Mistake> {
        let start = self.at;
        let negative = self.eat("-");
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let digits = rest.get(..length).unwrap_or_default();
        self.at += length;
        let (digits, radix) = match (digits.strip_prefix("0x"), digits.strip_prefix('0')) {
            (Some(hexadecimal), _) => (hexadecimal, 16),
            (None, Some(octal)) if !octal.is_empty() => (octal, 8),
            _ => (digits, 10),
        };
        let sign = if negative { "-" } else { "" };
        let parsed = i64::from_str_radix(&format!("{sign}{digits}"), radix);
        parsed.ok().filter(|_| digits.chars().all(|c| c.is_ascii_alphanumeric())).ok_or_else(|| {
            let span = if self.at > start { start..self.at } else { self.found() };
            Mistake::new(format!("{} is not an integer", self.named(&span)), span)
                .expected("an integer of 64 bits such as `80`, `-1`, `0x50` or `0120`")
        })
    }

    /// The text of a place in words for a title.
    pub(super) fn named(&self, span: &Span) -> String {
        match self.slice(span) {
            "" => "the end of the expression".to_owned(),
            text => quoted(text),
        }
    }

    /// The characters of an address, range or network that are next.
    pub(super) fn take_address(&mut self) -> (&'t str, Span) {
        let (rest, start) = (self.rest(), self.at);
        let length = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '.' | ':' | '/'));
        let text = rest.get(..length.unwrap_or(rest.len())).unwrap_or_default();
        self.at += text.len();
        (text, start..self.at)
    }
}

/// An address from its text. One of IPv4 in IPv6 form becomes IPv4, as the clients' own do.
pub(super) fn address(text: &str, span: Span) -> Result<IpAddr, Mistake> {
    text.parse().map(|ip: IpAddr| ip.to_canonical()).map_err(|_| {
        let title = match text {
            "" => "an IP address is missing".to_owned(),
            _ => format!("{} is not an IP address", quoted(text)),
        };
        Mistake::new(title, span).expected("an IP address such as `203.0.113.1` or `2001:db8::1`")
    })
}

fn unterminated(start: usize) -> Mistake {
    let mistake = Mistake::new("the string does not end", start..start + 1).label("it begins here");
    mistake.expected("a `\"` at its end")
}

/// Whether a character may stand in a word.
pub(super) fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.')
}

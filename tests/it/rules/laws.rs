//! Laws that hold for every expression.

use gradual::rules::{Filter, Parsed, Scratch};
use proptest::prelude::*;

use super::get;

/// A formula, as the reference has it.
#[derive(Clone, Debug)]
enum Formula {
    Leaf(bool),
    Not(Box<Self>),
    /// `and`, `xor` or `or`, by how little they bind: 1, 2, 3.
    Two(u8, Box<Self>, Box<Self>),
}

impl Formula {
    fn holds(&self) -> bool {
        match self {
            Self::Leaf(value) => *value,
            Self::Not(of) => !of.holds(),
            Self::Two(1, left, right) => left.holds() && right.holds(),
            Self::Two(2, left, right) => left.holds() != right.holds(),
            Self::Two(_, left, right) => left.holds() || right.holds(),
        }
    }

    fn looseness(&self) -> u8 {
        if let Self::Two(looseness, ..) = self { *looseness } else { 0 }
    }

    /// With as few parentheses as its meaning allows, in either spelling.
    fn print(&self, symbols: bool) -> String {
        let within = |of: &Self, most: u8| {
            let text = of.print(symbols);
            if of.looseness() > most { format!("({text})") } else { text }
        };
        match self {
            Self::Leaf(true) => "ssl".into(),
            Self::Leaf(false) => "http.host eq \"no\"".into(),
            Self::Not(of) => format!("{}{}", if symbols { "!" } else { "not " }, within(of, 0)),
            Self::Two(looseness, left, right) => {
                let at = usize::from(*looseness) - 1;
                let operator = if symbols { ["&&", "^^", "||"][at] } else { ["and", "xor", "or"][at] };
                format!("{} {operator} {}", within(left, *looseness), within(right, looseness - 1))
            }
        }
    }
}

fn formula() -> impl Strategy<Value = Formula> {
    any::<bool>().prop_map(Formula::Leaf).prop_recursive(6, 40, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|of| Formula::Not(of.into())),
            (1..=3u8, inner.clone(), inner).prop_map(|(how, l, r)| Formula::Two(how, l.into(), r.into())),
        ]
    })
}

fn holds(filter: &str) -> bool {
    get("/").matches(filter)
}

proptest! {
    #[test]
    fn logic_means_what_a_reference_says(formula in formula(), symbols: bool) {
        let text = formula.print(symbols);
        prop_assert_eq!(holds(&text), formula.holds(), "{}", text);
    }

    #[test]
    fn de_morgan_holds(a in formula(), b in formula()) {
        let (a, b) = (a.print(false), b.print(true));
        prop_assert_eq!(holds(&format!("not (({a}) and ({b}))")), holds(&format!("not ({a}) or not ({b})")));
        prop_assert_eq!(holds(&format!("({a}) xor ({b})")), holds(&format!("(({a}) or ({b})) and not (({a}) and ({b}))")));
    }

    #[test]
    fn in_is_equality_with_any(items in prop::collection::vec(0u32..40, 1..20), found in 0u32..40) {
        let list: Vec<_> = items.iter().map(ToString::to_string).collect();
        let mut request = get("/");
        request.client = Some(std::net::Ipv4Addr::from_bits(found).into());
        let addresses: Vec<_> = items.iter().map(|item| std::net::Ipv4Addr::from_bits(*item).to_string()).collect();
        prop_assert_eq!(request.matches(&format!("ip.src in {{{}}}", addresses.join(" "))), items.contains(&found));
        let strings: Vec<_> = list.iter().map(|item| format!("\"{item}\"")).collect();
        let named = get("/").with("x", found.to_string());
        let filter = format!("http.request.headers[\"x\"][0] in {{{}}}", strings.join(" "));
        prop_assert_eq!(named.matches(&filter), items.contains(&found));
    }

    #[test]
    fn ranges_have_what_is_between_their_ends(ranges in prop::collection::vec((0u32..300, 0u32..60), 1..8), found in 0u32..400) {
        let inside = ranges.iter().any(|(first, length)| (*first..=first + length).contains(&found));
        let address = |bits: u32| std::net::Ipv6Addr::from_bits(bits.into());
        let list: Vec<_> = ranges.iter().map(|(first, n)| format!("{}..{}", address(*first), address(first + n))).collect();
        let mut request = get("/");
        request.client = Some(address(found).into());
        prop_assert_eq!(request.matches(&format!("ip.src in {{{}}}", list.join(" "))), inside);
    }

    #[test]
    fn any_bytes_are_a_literal_when_escaped(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        let request = get("/").with("x", &bytes);
        let filter = format!("http.request.headers[\"x\"][0] == \"{escaped}\"");
        prop_assert!(request.matches(&filter));
        // What tools print is a literal, too.
        let printed = request.shows("http.request.headers[\"x\"][0]");
        let filter = format!("http.request.headers[\"x\"][0] == {printed}");
        prop_assert!(request.matches(&filter));
    }

    #[test]
    fn substrings_are_within_the_text(text in "[a-z]{0,12}", start in -20i64..20, end in -20i64..20) {
        let length = i64::try_from(text.len()).unwrap();
        let at = |n: i64| usize::try_from(if n < 0 { (length + n).max(0) } else { n.min(length) }).unwrap();
        let expected = text.get(at(start)..at(end).max(at(start))).unwrap();
        let call = format!("substring(http.request.headers[\"x\"][0], {start}, {end})");
        prop_assert_eq!(get("/").with("x", &text).value(&call).unwrap(), expected.as_bytes());
    }

    #[test]
    fn base64_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..60), flags in "u?p?") {
        let call = format!("decode_base64(encode_base64(http.request.headers[\"x\"][0], \"{flags}\"))");
        prop_assert_eq!(get("/").with("x", &bytes).value(&call).unwrap(), bytes);
    }

    #[test]
    fn no_text_makes_the_parser_panic_or_point_outside(text in "\\PC{0,60}") {
        if let Err(mistake) = Parsed::parse(&text) {
            prop_assert!(text.get(mistake.span).is_some());
        }
    }

    #[test]
    fn no_mixture_of_words_makes_anything_panic(words in prop::collection::vec(prop::sample::select(WORDS), 0..14)) {
        let text = words.join(" ");
        match Parsed::parse(&text) {
            Err(mistake) => prop_assert!(text.get(mistake.span).is_some()),
            Ok(parsed) => {
                let request = get("/a?b=c").with("cookie", "a=b").with("x", "y");
                let _ = parsed.evaluate(&request.facts(), &mut Scratch::default()).to_string();
            }
        }
    }

    #[test]
    fn a_scratch_remembers_nothing(first in formula(), value in "[a-z%+]{0,40}") {
        let mut scratch = Scratch::default();
        let request = get("/").with("x", &value);
        let facts = request.facts();
        let decode = Parsed::parse("url_decode(concat(http.request.headers[\"x\"][0], \"%41\"), \"r\")").unwrap();
        let alone = decode.evaluate(&facts, &mut Scratch::default()).to_string();
        let filter = Filter::parse(&first.print(false)).unwrap();
        for _ in 0..3 {
            prop_assert_eq!(filter.matches(&facts, &mut scratch), first.holds());
            prop_assert_eq!(decode.evaluate(&facts, &mut scratch).to_string(), alone.clone());
        }
    }
}

const WORDS: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    "*",
    "!",
    "not",
    "and",
    "or",
    "xor",
    "&&",
    "==",
    "eq",
    "ne",
    "<",
    "in",
    "matches",
    "wildcard",
    "strict",
    "contains",
    "any(",
    "all(",
    "lower(",
    "len(",
    "concat(",
    "split(",
    "regex_replace(",
    "ssl",
    "true",
    "http.host",
    "ip.src",
    "http.request.headers",
    "http.request.headers.names",
    "http.request.cookies",
    "[*]",
    "[0]",
    "[\"a\"]",
    "\"a\"",
    "r#\"b\"#",
    "1",
    "-2",
    "0x3",
    "1.2.3.4",
    "10.0.0.0/8",
    "..",
    "$list",
    "\"${1}\"",
    "cf.random_seed",
];

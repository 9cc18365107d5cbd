//! The functions of the language: what they take and give.

use super::mistake::Mistake;
use super::patterns::{Pattern, Template};
use super::scan::Text;
use super::tree::{Call, Node};
use super::types::{Scalar, Type};
use super::url::Decoding;
use crate::diag::Span;

/// A function, with those of its arguments that must be literals.
#[derive(Clone, Debug)]
pub(super) enum Function {
    StartsWith,
    EndsWith,
    Lower,
    Upper,
    Length,
    Concat,
    ConcatArrays,
    Substring,
    Replace { pattern: Pattern, with: Template },
    UrlDecode(Decoding),
    RemoveQueryArgs(Box<[Box<[u8]>]>),
    Split { separator: Box<memchr::memmem::Finder<'static>>, limit: usize },
    Join,
    ToString,
    LookupJsonString(Box<[Key]>),
    LookupJsonInteger(Box<[Key]>),
    DecodeBase64,
    EncodeBase64 { url: bool, padding: bool },
    Sha256,
    UuidV4,
    Cidr { v4: u8, v6: u8 },
    RemoveBytes(Box<[u8]>),
}

/// A step into a JSON document.
#[derive(Clone, Debug)]
pub(super) enum Key {
    Name(Box<str>),
    Position(usize),
}

/// How a function is called.
pub(super) struct Signature {
    pub(super) name: &'static str,
    /// The least and the most arguments.
    arguments: (usize, usize),
    /// As documentation writes it.
    usage: &'static str,
    build: Build,
}

type Build = fn(&mut Arguments) -> Result<(Function, Type), Mistake>;

const MANY: usize = usize::MAX;

/// Every function but `any` and `all`, which are part of the grammar.
static FUNCTIONS: [Signature; 23] = [
    of("cidr", (3, 3), "cidr(address, ipv4_bits, ipv6_bits)", |a| {
        a.first(&[Type::IP])?;
        Ok((Function::Cidr { v4: a.number(1, 1, 32)?, v6: a.number(2, 1, 128)? }, Type::IP))
    }),
    of("cidr6", (2, 2), "cidr6(address, ipv6_bits)", |a| {
        a.first(&[Type::IP])?;
        Ok((Function::Cidr { v4: 32, v6: a.number(1, 1, 128)? }, Type::IP))
    }),
    of("concat", (1, MANY), "concat(value, value, …)", concat),
    of("decode_base64", (1, 1), "decode_base64(text)", |a| {
        a.first(TEXT)?;
        Ok((Function::DecodeBase64, Type::STRING))
    }),
    of("encode_base64", (1, 2), "encode_base64(text, \"up\")", |a| {
        a.first_or_literal(TEXT)?;
        let [url, padding] = a.flags(1, ['u', 'p'])?;
        Ok((Function::EncodeBase64 { url, padding }, Type::STRING))
    }),
    of("ends_with", (2, 2), "ends_with(text, end)", |a| {
        a.first(TEXT)?;
        a.value(1, TEXT)?;
        Ok((Function::EndsWith, Type::BOOLEAN))
    }),
    of("join", (2, 2), "join(array, separator)", |a| {
        a.first(&[Type::STRINGS, Type::BYTES.array()])?;
        a.value(1, TEXT)?;
        Ok((Function::Join, Type::STRING))
    }),
    of("len", (1, 1), "len(text or array)", |a| {
        a.length()?;
        Ok((Function::Length, Type::INTEGER))
    }),
    of("lookup_json_integer", (2, MANY), "lookup_json_integer(text, key, …)", |a| {
        a.first(TEXT)?;
        Ok((Function::LookupJsonInteger(a.keys(1)?), Type::INTEGER))
    }),
    of("lookup_json_string", (2, MANY), "lookup_json_string(text, key, …)", |a| {
        a.first(TEXT)?;
        Ok((Function::LookupJsonString(a.keys(1)?), Type::STRING))
    }),
    of("lower", (1, 1), "lower(text)", |a| {
        a.first(TEXT)?;
        Ok((Function::Lower, Type::STRING))
    }),
    of("regex_replace", (3, 3), "regex_replace(text, pattern, replacement)", |a| {
        a.first_or_literal(TEXT)?;
        let pattern = Pattern::regex(a.literal(1)?)?;
        let with = Template::new(a.literal(2)?, pattern.groups())?;
        Ok((Function::Replace { pattern, with }, Type::STRING))
    }),
    of("remove_bytes", (2, 2), "remove_bytes(text, bytes)", |a| {
        let ty = a.first(TEXT)?;
        Ok((Function::RemoveBytes(a.literal(1)?.bytes.as_slice().into()), ty))
    }),
    of("remove_query_args", (2, MANY), "remove_query_args(query, name, …)", |a| {
        a.query()?;
        let names = (1..a.count()).map(|at| Ok(a.literal(at)?.bytes.as_slice().into()));
        Ok((Function::RemoveQueryArgs(names.collect::<Result<_, Mistake>>()?), Type::STRING))
    }),
    of("sha256", (1, 1), "sha256(text)", |a| {
        a.first_or_literal(TEXT)?;
        Ok((Function::Sha256, Type::BYTES))
    }),
    of("split", (3, 3), "split(text, separator, limit)", |a| {
        a.first(TEXT)?;
        let separator = a.literal(1)?;
        if separator.bytes.is_empty() {
            return Err(Mistake::new("the separator is empty", separator.span.clone()));
        }
        let separator = Box::new(memchr::memmem::Finder::new(&separator.bytes).into_owned());
        Ok((Function::Split { separator, limit: a.number::<u8>(2, 1, 128)?.into() }, Type::STRINGS))
    }),
    of("starts_with", (2, 2), "starts_with(text, beginning)", |a| {
        a.first(TEXT)?;
        a.value(1, TEXT)?;
        Ok((Function::StartsWith, Type::BOOLEAN))
    }),
    of("substring", (2, 3), "substring(text, start, end)", |a| {
        a.first(TEXT)?;
        a.value(1, &[Type::INTEGER])?;
        if a.count() > 2 {
            a.value(2, &[Type::INTEGER])?;
        }
        Ok((Function::Substring, Type::STRING))
    }),
    of("to_string", (1, 1), "to_string(integer, Boolean or address)", |a| {
        a.first_or_literal(&[Type::INTEGER, Type::BOOLEAN, Type::IP])?;
        Ok((Function::ToString, Type::STRING))
    }),
    of("upper", (1, 1), "upper(text)", |a| {
        a.first(TEXT)?;
        Ok((Function::Upper, Type::STRING))
    }),
    of("url_decode", (1, 2), "url_decode(text, \"ru\")", |a| {
        a.first(TEXT)?;
        let [recursive, unicode] = a.flags(1, ['r', 'u'])?;
        Ok((Function::UrlDecode(Decoding { recursive, unicode }), Type::STRING))
    }),
    of("uuidv4", (1, 1), "uuidv4(cf.random_seed)", |a| {
        a.first(&[Type::BYTES])?;
        Ok((Function::UuidV4, Type::STRING))
    }),
    of("wildcard_replace", (3, 4), "wildcard_replace(text, pattern, replacement, \"s\")", |a| {
        a.first(TEXT)?;
        let [strict] = a.flags(3, ['s'])?;
        let pattern = Pattern::wildcard(a.literal(1)?, strict)?;
        let with = Template::new(a.literal(2)?, pattern.groups())?;
        Ok((Function::Replace { pattern, with }, Type::STRING))
    }),
];

const TEXT: &[Type] = &[Type::STRING, Type::BYTES];

const fn of(name: &'static str, arguments: (usize, usize), usage: &'static str, build: Build) -> Signature {
    Signature { name, arguments, usage, build }
}

/// A function by its name.
pub(super) fn function(name: &str) -> Option<&'static Signature> {
    FUNCTIONS.iter().find(|signature| signature.name == name)
}

/// Every name of a function.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|signature| signature.name).chain(["any", "all"])
}

/// The arguments of a call.
pub(super) struct Arguments {
    /// Where the call stands, and its name.
    pub(super) span: Span,
    pub(super) name: Span,
    pub(super) list: Vec<Argument>,
    pub(super) signature: &'static Signature,
    /// How many of them are no part of the function.
    kept: usize,
}

/// An argument as parsed.
pub(super) struct Argument {
    pub(super) node: Node,
    pub(super) ty: Type,
    /// Whether it ends in `[*]`.
    pub(super) each: bool,
    pub(super) span: Span,
    /// Whether it is a literal; of one that is a string, what it says.
    pub(super) literal: bool,
    pub(super) text: Option<Text>,
}

impl Signature {
    /// The node of a call, its type, and where a mistake is.
    pub(super) fn call(
        &'static self,
        list: Vec<Argument>,
        name: Span,
        span: Span,
    ) -> Result<(Node, Type), Mistake> {
        let mut arguments = Arguments { span, name, list, signature: self, kept: 1 };
        arguments.check_count()?;
        arguments.check_elements()?;
        let (function, ty) = (self.build)(&mut arguments)?;
        let kept = arguments.kept;
        let mut nodes = arguments.list.into_iter();
        let Some(first) = nodes.next() else { return Err(Mistake::new("no argument", arguments.name)) };
        let rest = nodes.take(kept - 1).map(|argument| argument.node).collect();
        let call = Box::new(Call { function, first: first.node, rest });
        Ok(if first.each { (Node::EachCall(call), ty.array()) } else { (Node::Call(call), ty) })
    }
}

impl Arguments {
    fn count(&self) -> usize {
        self.list.len()
    }

    fn wrong(&self, title: String, span: Span) -> Mistake {
        Mistake::new(title, span).expected(format!("`{}`", self.signature.usage))
    }

    fn check_count(&self) -> Result<(), Mistake> {
        let (least, most) = self.signature.arguments;
        let found = self.count();
        if (least..=most).contains(&found) {
            return Ok(());
        }
        let plural = |count: usize| format!("{count} argument{}", if count == 1 { "" } else { "s" });
        let wanted = match (least, most) {
            (least, MANY) => format!("at least {}", plural(least)),
            (least, most) if least == most => plural(least),
            (least, most) => format!("{least} or {}", plural(most)),
        };
        let title = format!("`{}` takes {wanted}, not {found}", self.signature.name);
        let span = self.list.get(most).map_or(self.span.clone(), |argument| argument.span.clone());
        Err(self.wrong(title, span))
    }

    /// `[*]` may end the first argument only.
    fn check_elements(&self) -> Result<(), Mistake> {
        match self.list.iter().skip(1).find(|argument| argument.each) {
            Some(argument) => {
                Err(Mistake::new("`[*]` stands in the first argument only", argument.span.clone()))
            }
            None => Ok(()),
        }
    }

    fn get(&self, at: usize) -> Result<&Argument, Mistake> {
        self.list.get(at).ok_or_else(|| self.wrong("an argument is missing".to_owned(), self.span.clone()))
    }

    /// The first argument is of one of some types, and no literal. Gives which.
    fn first(&self, types: &[Type]) -> Result<Type, Mistake> {
        let argument = self.get(0)?;
        if argument.literal {
            let title = format!("the first argument of `{}` is a literal", self.signature.name);
            return Err(self
                .wrong(title, argument.span.clone())
                .label("the result would be the same for every request")
                .help("give it a field, such as `http.request.uri.path`"));
        }
        self.check_type(0, types)
    }

    fn first_or_literal(&self, types: &[Type]) -> Result<Type, Mistake> {
        self.check_type(0, types)
    }

    /// An argument that is evaluated for each request.
    fn value(&mut self, at: usize, types: &[Type]) -> Result<Type, Mistake> {
        self.kept = self.kept.max(at + 1);
        self.check_type(at, types)
    }

    fn check_type(&self, at: usize, types: &[Type]) -> Result<Type, Mistake> {
        let argument = self.get(at)?;
        if types.contains(&argument.ty) {
            return Ok(argument.ty);
        }
        let words: Vec<_> = types.iter().map(|ty| ty.to_string()).collect();
        let mistake = Mistake::new(self.wrong_title(at), argument.span.clone())
            .label(format!("this is {}", argument.ty.with_article()))
            .expected(format!("{} in `{}`", words.join(" or "), self.signature.usage));
        let element = argument.ty.element().filter(|_| at == 0);
        Err(match element {
            _ if types == [Type::BYTES] => mistake.help("the field `cf.random_seed` is Bytes"),
            Some(element) if types.contains(&element) => {
                mistake.help("write `[0]` behind it for its first element, or `[*]` for each of them")
            }
            Some(_) => mistake.help("write a key behind it, and then `[0]`, such as `[\"name\"][0]`"),
            None if self.signature.name == "to_string" && argument.ty.is_text() => {
                mistake.help("it is text already")
            }
            None if argument.ty.is_scalar() && types.contains(&Type::STRING) => {
                mistake.help("`to_string(…)` makes text of it")
            }
            None => mistake,
        })
    }

    fn wrong_title(&self, at: usize) -> String {
        format!("argument {} of `{}` has the wrong type", at + 1, self.signature.name)
    }

    /// `len` takes what has a length.
    fn length(&self) -> Result<(), Mistake> {
        let argument = self.get(0)?;
        if argument.literal {
            return self.first(TEXT).map(drop);
        }
        if argument.ty.map || (argument.ty.arrays == 0 && !argument.ty.is_text()) {
            return self.check_type(0, &[Type::STRING, Type::BYTES, Type::STRINGS]).map(drop);
        }
        Ok(())
    }

    /// `remove_query_args` takes the query, and nothing else.
    fn query(&self) -> Result<(), Mistake> {
        let argument = self.get(0)?;
        match argument.node {
            Node::Field(super::fields::Field::Query) => Ok(()),
            _ => Err(self
                .wrong("`remove_query_args` takes the query only".to_owned(), argument.span.clone())
                .help("write `http.request.uri.query`")),
        }
    }

    /// A string literal.
    fn literal(&self, at: usize) -> Result<&Text, Mistake> {
        let argument = self.get(at)?;
        argument.text.as_ref().ok_or_else(|| {
            let title = format!("argument {} of `{}` is no string literal", at + 1, self.signature.name);
            self.wrong(title, argument.span.clone()).label("it must be known when the file is loaded")
        })
    }

    /// An integer literal within a range.
    fn number<T: TryFrom<i64> + Into<i64> + Copy>(&self, at: usize, least: T, most: T) -> Result<T, Mistake> {
        let argument = self.get(at)?;
        let (least, most): (i64, i64) = (least.into(), most.into());
        let number = match &argument.node {
            Node::Literal(super::tree::Literal::Int(number)) if (least..=most).contains(number) => {
                Some(*number)
            }
            _ => None,
        };
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let title = format!("argument {} of `{}` is out of range", at + 1, self.signature.name);
            let mistake = Mistake::new(title, argument.span.clone());
            mistake
                .expected(format!("an integer literal from {least} to {most} in `{}`", self.signature.usage))
        })
    }

    /// The letters of an optional argument, each at most once.
    fn flags<const N: usize>(&self, at: usize, letters: [char; N]) -> Result<[bool; N], Mistake> {
        let mut set = [false; N];
        if at >= self.count() {
            return Ok(set);
        }
        let text = self.literal(at)?;
        for (place, byte) in text.bytes.iter().enumerate() {
            let letter = letters.iter().position(|letter| u32::from(*letter) == u32::from(*byte));
            match letter.and_then(|letter| set.get_mut(letter)) {
                Some(flag) if !*flag => *flag = true,
                known => {
                    let what = if known.is_some() { "this option is there twice" } else { "no such option" };
                    let words: Vec<_> = letters.iter().map(|letter| format!("`{letter}`")).collect();
                    return Err(Mistake::new(what, text.place(&(place..place + 1))).expected(format!(
                        "the letters {} in `{}`",
                        words.join(" and "),
                        self.signature.usage
                    )));
                }
            }
        }
        Ok(set)
    }

    /// The steps into a JSON document.
    fn keys(&self, from: usize) -> Result<Box<[Key]>, Mistake> {
        let key = |at: usize| match self.get(at)? {
            Argument { text: Some(text), .. } => Ok(Key::Name(text.as_str()?.into())),
            Argument { node: Node::Literal(super::tree::Literal::Int(number)), span, .. } => {
                let position = usize::try_from(*number).map(Key::Position);
                position.map_err(|_| Mistake::new("a position is not negative", span.clone()))
            }
            argument => {
                let title = format!("argument {} of `{}` is no literal", at + 1, self.signature.name);
                Err(self.wrong(title, argument.span.clone()).label("a key is a string or a position"))
            }
        };
        (from..self.count()).map(key).collect()
    }
}

/// Of texts a String, of arrays an array.
fn concat(arguments: &mut Arguments) -> Result<(Function, Type), Mistake> {
    let first = arguments.get(0)?.ty;
    arguments.kept = arguments.count();
    if first.arrays > 0 && !first.map {
        for at in 1..arguments.count() {
            arguments.check_type(at, &[first])?;
        }
        return Ok((Function::ConcatArrays, first));
    }
    const SCALARS: [Scalar; 5] =
        [Scalar::String, Scalar::Bytes, Scalar::Integer, Scalar::Boolean, Scalar::Ip];
    let scalars = SCALARS.map(|scalar| Type { scalar, arrays: 0, map: false });
    for at in 0..arguments.count() {
        arguments.check_type(at, &scalars)?;
    }
    Ok((Function::Concat, Type::STRING))
}

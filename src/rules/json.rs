//! A value somewhere in a JSON document. Nothing is built of what stands elsewhere.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::context::Context;
use super::functions::Key;

/// The integer at a path; `None` where there is none, or something else.
pub(super) fn integer(text: &[u8], path: &[Key]) -> Option<i64> {
    match find(text, path, &|_| None)? {
        Leaf::Integer(number) => Some(number),
        Leaf::Text(_) => None,
    }
}

/// The string at a path; `None` where there is none, or something else.
pub(super) fn string<'s>(context: &Context<'s>, text: &'s [u8], path: &[Key]) -> Option<&'s [u8]> {
    let keep = |text: &str| {
        let kept: &'s str = context.may_write(text.len()).then(|| context.bump.alloc_str(text))?;
        Some(kept.as_bytes())
    };
    match find(text, path, &keep)? {
        Leaf::Text(text) => Some(text),
        Leaf::Integer(_) => None,
    }
}

/// What a path leads to, of those types that are asked for.
enum Leaf<'s> {
    Integer(i64),
    Text(&'s [u8]),
}

/// What keeps a string that is no part of the document as it stands.
type Keep<'a, 's> = &'a dyn Fn(&str) -> Option<&'s [u8]>;

fn find<'s>(text: &'s [u8], path: &[Key], keep: Keep<'_, 's>) -> Option<Leaf<'s>> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let found = Walk { path, keep }.deserialize(&mut deserializer).ok()?;
    // What follows the document makes it none.
    deserializer.end().ok()?;
    found
}

/// One step of the way.
struct Walk<'a, 's> {
    path: &'a [Key],
    keep: Keep<'a, 's>,
}

impl<'s> DeserializeSeed<'s> for Walk<'_, 's> {
    type Value = Option<Leaf<'s>>;

    fn deserialize<D: Deserializer<'s>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'s> Visitor<'s> for Walk<'_, 's> {
    type Value = Option<Leaf<'s>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'s>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((Key::Name(name), path)) = self.path.split_first() else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(None);
        };
        let mut found = None;
        while let Some(here) = map.next_key_seed(Named(name))? {
            if here {
                // Of a name that is there twice, the last one counts.
                found = map.next_value_seed(Walk { path, keep: self.keep })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'s>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut at) = (None, 0);
        let wanted = match self.path.split_first() {
            Some((Key::Position(position), path)) => Some((*position, path)),
            _ => None,
        };
        loop {
            match wanted {
                Some((position, path)) if position == at => {
                    match list.next_element_seed(Walk { path, keep: self.keep })? {
                        Some(element) => found = element,
                        None => return Ok(found),
                    }
                }
                _ if list.next_element::<IgnoredAny>()?.is_none() => return Ok(found),
                _ => {}
            }
            at += 1;
        }
    }

    fn visit_borrowed_str<E: Error>(self, text: &'s str) -> Result<Self::Value, E> {
        Ok(self.path.is_empty().then_some(Leaf::Text(text.as_bytes())))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(if self.path.is_empty() { (self.keep)(text).map(Leaf::Text) } else { None })
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        Ok(self.path.is_empty().then_some(Leaf::Integer(number)))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(number).ok().filter(|_| self.path.is_empty()).map(Leaf::Integer))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Whether a member has a name.
struct Named<'a>(&'a str);

impl<'s> DeserializeSeed<'s> for Named<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'s>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Named<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        Ok(text == self.0)
    }
}

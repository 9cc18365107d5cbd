//! The types of the language, and results.

use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

/// What a value is: a scalar, within so many arrays, and those perhaps in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) scalar: Scalar,
    /// How many arrays it is nested in.
    pub(super) arrays: u8,
    /// Whether these stand in a map, by keys that are Strings.
    pub(super) map: bool,
}

/// What is no collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Boolean,
    Integer,
    Ip,
    String,
    /// As a String, but not meant to be read.
    Bytes,
}

impl Type {
    pub(super) const BOOLEAN: Self = Self::of(Scalar::Boolean);
    pub(super) const INTEGER: Self = Self::of(Scalar::Integer);
    pub(super) const IP: Self = Self::of(Scalar::Ip);
    pub(super) const STRING: Self = Self::of(Scalar::String);
    pub(super) const BYTES: Self = Self::of(Scalar::Bytes);
    pub(super) const BOOLEANS: Self = Self::BOOLEAN.array();
    pub(super) const STRINGS: Self = Self::STRING.array();
    pub(super) const MAP: Self = Self { map: true, ..Self::STRINGS };

    const fn of(scalar: Scalar) -> Self {
        Self { scalar, arrays: 0, map: false }
    }

    /// An array of it.
    pub(super) const fn array(self) -> Self {
        Self { arrays: self.arrays + 1, ..self }
    }

    /// What an array or map of this type holds; `None` for others.
    pub(super) fn element(self) -> Option<Self> {
        match self {
            Self { map: true, .. } => Some(Self { map: false, ..self }),
            Self { arrays: 0, .. } => None,
            _ => Some(Self { arrays: self.arrays - 1, ..self }),
        }
    }

    /// Whether it is a String or Bytes.
    pub(super) fn is_text(self) -> bool {
        self == Self::STRING || self == Self::BYTES
    }

    pub(super) fn is_scalar(self) -> bool {
        self.arrays == 0 && !self.map
    }

    /// With its article, for messages.
    pub(super) fn with_article(self) -> String {
        match self {
            Self::INTEGER | Self::IP => format!("an {self}"),
            Self::BYTES => "Bytes".to_owned(),
            Self { map: true, .. } => format!("a {self}"),
            Self { arrays: 1.., .. } => format!("an {self}"),
            _ => format!("a {self}"),
        }
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.map {
            f.write_str("Map<")?;
        }
        for _ in 0..self.arrays {
            f.write_str("Array<")?;
        }
        f.write_str(match self.scalar {
            Scalar::Boolean => "Boolean",
            Scalar::Integer => "Integer",
            Scalar::Ip => "IP address",
            Scalar::String => "String",
            Scalar::Bytes => "Bytes",
        })?;
        for _ in 0..self.arrays + u8::from(self.map) {
            f.write_str(">")?;
        }
        Ok(())
    }
}

/// A result. `Display` prints it as the language writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// There is none: no such key or element.
    Missing,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// An IP address.
    Ip(IpAddr),
    /// A String or Bytes: any bytes.
    Bytes(&'a [u8]),
    /// Values of one type.
    Array(&'a [Self]),
    /// Values of one type by their keys.
    Map(&'a [(&'a [u8], Self)]),
}

impl<'a> Value<'a> {
    /// What an array holds; `None` for anything else.
    pub(super) fn elements(&self) -> Option<&'a [Self]> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }
}

impl Display for Value<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Ip(value) => write!(f, "{value}"),
            Self::Bytes(value) => write_quoted(f, value),
            Self::Array(values) => {
                f.write_str("[")?;
                for (at, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Self::Map(entries) => {
                f.write_str("{")?;
                for (at, (key, value)) in entries.iter().enumerate() {
                    f.write_str(if at > 0 { ", " } else { "" })?;
                    write_quoted(f, key)?;
                    write!(f, ": {value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

/// Bytes as a string literal: what is not visible ASCII is escaped.
fn write_quoted(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("\"")?;
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
            b' '..=b'~' => write!(f, "{}", char::from(byte))?,
            _ => write!(f, "\\x{byte:02x}")?,
        }
    }
    f.write_str("\"")
}

//! Evaluation: a walk over the tree that cannot fail.

use super::compute;
use super::context::Context;
use super::tree::{Call, Logic, Node, Test};
use super::types::Value;

impl<'s> Context<'s> {
    /// Whether a condition holds. A Boolean that is missing is false.
    pub(super) fn holds(&self, node: &'s Node) -> bool {
        match node {
            Node::Constant(value) => *value,
            Node::Not(of) => !self.holds(of),
            Node::Combine(Logic::And, all) => all.iter().all(|one| self.holds(one)),
            Node::Combine(Logic::Or, all) => all.iter().any(|one| self.holds(one)),
            Node::Combine(Logic::Xor, all) => all.iter().fold(false, |odd, one| odd ^ self.holds(one)),
            Node::Compare(left, test) => test.passes(self.value(left)),
            Node::Any(of) => self.any(of, true),
            Node::All(of) => !self.any(of, false),
            _ => self.value(node) == Value::Bool(true),
        }
    }

    /// Whether any of some conditions is as wanted. Of a missing array none is.
    fn any(&self, node: &'s Node, wanted: bool) -> bool {
        if let Node::EachCompare(left, test) = node {
            return self.elements(left).iter().any(|element| test.passes(*element) == wanted);
        }
        self.elements(node).iter().any(|element| (*element == Value::Bool(true)) == wanted)
    }

    /// The elements of an array; none of one that is missing.
    fn elements(&self, node: &'s Node) -> &'s [Value<'s>] {
        self.value(node).elements().unwrap_or_default()
    }

    /// The value of any part of an expression.
    pub(super) fn value(&self, node: &'s Node) -> Value<'s> {
        match node {
            Node::Literal(literal) => literal.value(),
            Node::Field(field) => field.value(self),
            Node::Lookup { map, key, at } => map.lookup(self, key, *at),
            Node::Index { of, at } => element(self.value(of), *at),
            Node::EachIndex { of, at } => self.map(self.value(of), |value| element(value, *at)),
            Node::Elements { of, flatten } => self.unpacked(self.value(of), *flatten),
            Node::Call(call) => self.call(call),
            Node::EachCall(call) => {
                let rest = self.rest(call);
                self.map(self.value(&call.first), |first| compute::apply(self, &call.function, first, rest))
            }
            Node::EachCompare(left, test) => self.each_compared(left, test),
            Node::EachNot(of) => self.map(self.value(of), |value| Value::Bool(value != Value::Bool(true))),
            Node::EachCombine(logic, all) => self.each_combined(*logic, all),
            Node::Constant(_)
            | Node::Compare(..)
            | Node::Not(_)
            | Node::Combine(..)
            | Node::Any(_)
            | Node::All(_) => Value::Bool(self.holds(node)),
        }
    }

    fn call(&self, call: &'s Call) -> Value<'s> {
        let first = self.value(&call.first);
        compute::apply(self, &call.function, first, self.rest(call))
    }

    /// The values of the arguments after the first: once, whatever is done for each element of the first.
    fn rest(&self, call: &'s Call) -> &'s [Value<'s>] {
        if call.rest.is_empty() {
            return &[];
        }
        // Literals are the most frequent and need no memory, but a slice of values does.
        self.bump.alloc_slice_fill_iter(call.rest.iter().map(|node| self.value(node)))
    }

    fn each_compared(&self, left: &'s Node, test: &Test) -> Value<'s> {
        match self.value(left) {
            Value::Missing => Value::Missing,
            array => self.map(array, |value| Value::Bool(test.passes(value))),
        }
    }

    /// Something of each element; those of which there is nothing are left out.
    fn map(&self, array: Value<'s>, of: impl Fn(Value<'s>) -> Value<'s>) -> Value<'s> {
        let Value::Array(elements) = array else { return Value::Missing };
        let Some(mut values) = self.list(elements.len()) else { return Value::Missing };
        values.extend(elements.iter().map(|element| of(*element)).filter(|value| *value != Value::Missing));
        self.array(values)
    }

    /// An array of what `[*]` unpacks.
    fn unpacked(&self, value: Value<'s>, flatten: bool) -> Value<'s> {
        match value {
            Value::Map(entries) => {
                let Some(mut values) = self.list(entries.len()) else { return Value::Missing };
                values.extend(entries.iter().map(|(_, value)| *value));
                self.array(values)
            }
            Value::Array(elements) if flatten => {
                let inner = || elements.iter().filter_map(Value::elements);
                let Some(mut values) = self.list(inner().map(<[_]>::len).sum()) else {
                    return Value::Missing;
                };
                inner().for_each(|inner| values.extend_from_slice(inner));
                self.array(values)
            }
            value => value,
        }
    }

    /// Conditions for each element, combined one by one, as far as the shortest goes.
    fn each_combined(&self, logic: Logic, all: &'s [Node]) -> Value<'s> {
        let Some((first, rest)) = all.split_first() else { return Value::Missing };
        let Value::Array(elements) = self.value(first) else { return Value::Missing };
        let Some(mut combined) = self.list(elements.len()) else { return Value::Missing };
        combined.extend_from_slice(elements);
        for node in rest {
            let Value::Array(elements) = self.value(node) else { return Value::Missing };
            combined.truncate(elements.len());
            for (left, right) in combined.iter_mut().zip(elements) {
                let (one, other) = (*left == Value::Bool(true), *right == Value::Bool(true));
                *left = Value::Bool(match logic {
                    Logic::And => one && other,
                    Logic::Or => one || other,
                    Logic::Xor => one ^ other,
                });
            }
        }
        self.array(combined)
    }
}

fn element(value: Value<'_>, at: usize) -> Value<'_> {
    value.elements().and_then(|elements| elements.get(at).copied()).unwrap_or(Value::Missing)
}

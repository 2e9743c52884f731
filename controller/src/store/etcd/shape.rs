//! Berth's transactions in etcd's words. Pure.
//!
//! In: writes in order. Out: operations none of which touches what another does (etcd refuses a transaction that sets a key
//! twice, or sets and removes it): the last word on each key, and removals with holes where keys are set.

use super::Space;
use super::wire::{Bytes, Comparison, Delete, Op, Put, Range, Txn, end_of};
use crate::store::{Compare, Write};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Operations that are said in one breath; more go in nested transactions. etcd's own limit is 128 (`--max-txn-ops`) for the
/// operations on one level and those of all levels above together.
const LEAF: usize = 60;
/// Most such pieces of one transaction.
const PIECES: usize = 48;
/// Most conditions that are compared by etcd. More are compared by the writer, who alone writes.
pub(super) const CONDITIONS: usize = 40;
/// Transactions that may go together.
const GROUP: usize = 16;
/// Operations and bytes that transactions which go together may have in all.
const GROUP_OPS: usize = 50;
const GROUP_BYTES: usize = 512 << 10;

/// What a transaction does, each key once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    puts: BTreeMap<String, Vec<u8>>,
    deletes: BTreeSet<String>,
    prefixes: BTreeSet<String>,
}

impl Shape {
    /// The last word on each key.
    pub(super) fn of(writes: &[Write]) -> Self {
        let mut shape = Self::default();
        for write in writes {
            match write {
                Write::Put(key, value) => {
                    shape.deletes.remove(key);
                    shape.puts.insert(key.clone(), value.clone());
                }
                Write::Delete(key) => {
                    shape.puts.remove(key);
                    shape.deletes.insert(key.clone());
                }
                Write::DeletePrefix(prefix) => {
                    shape.puts.retain(|key, _| !key.starts_with(prefix));
                    shape.deletes.retain(|key| !key.starts_with(prefix));
                    shape.prefixes.insert(prefix.clone());
                }
            }
        }
        shape
    }

    /// Where the keys are in etcd, all steps: what is removed is named first, so that its watchers can be woken.
    pub(super) fn operations(&self, space: &Space) -> Vec<Op> {
        let mut ops = Vec::new();
        for prefix in &self.prefixes {
            let prefix = space.key(prefix);
            ops.push(Op::Range(Range { keys_only: true, ..Range::prefix(&prefix) }));
            let mut from = prefix.clone().into_bytes();
            for key in self.puts.keys().map(|key| space.key(key)).filter(|key| key.starts_with(&prefix)) {
                if from < key.as_bytes().to_vec() {
                    ops.push(removal(from, Bytes::from(key.as_str())));
                }
                // The next key there can be.
                from = [key.as_bytes(), &[0]].concat();
            }
            ops.push(removal(from, end_of(&prefix)));
        }
        let single = self.deletes.iter().map(|key| Delete { key: space.key(key).into(), range_end: None });
        ops.extend(single.map(Op::Delete));
        let puts = self.puts.iter().map(|(key, value)| Put {
            key: space.key(key).into(),
            value: Bytes(value.clone()),
            lease: None,
        });
        ops.extend(puts.map(Op::Put));
        ops
    }

    /// Bytes it writes.
    pub(super) fn bytes(&self) -> usize {
        self.puts.iter().map(|(key, value)| key.len() + value.len()).sum()
    }

    fn writes(&self, key: &str) -> bool {
        self.puts.contains_key(key)
            || self.deletes.contains(key)
            || self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// Whether both may write one key. Says so too often rather than too seldom.
    fn meets(&self, other: &Self) -> bool {
        let names = |shape: &Self| shape.puts.keys().chain(&shape.deletes).cloned().collect::<Vec<_>>();
        names(self).iter().any(|key| other.writes(key))
            || names(other).iter().any(|key| self.writes(key))
            || (!self.prefixes.is_empty() && !other.prefixes.is_empty())
    }
}

fn removal(from: Vec<u8>, to: Bytes) -> Op {
    Op::Delete(Delete { key: Bytes(from), range_end: Some(to) })
}

/// The operations in pieces that etcd takes; `None` if they are too many for one transaction.
pub(super) fn nested(ops: Vec<Op>) -> Option<Vec<Op>> {
    if ops.len() <= LEAF {
        return Some(ops);
    }
    let pieces = ops
        .chunks(LEAF)
        .map(|piece| Op::Txn(Txn { compare: Vec::new(), success: piece.to_vec(), failure: Vec::new() }));
    let pieces: Vec<Op> = pieces.collect();
    (pieces.len() <= PIECES).then_some(pieces)
}

/// A condition in etcd's words.
pub(super) fn comparison(space: &Space, compare: &Compare) -> Comparison {
    match compare {
        // No key was ever written by revision 0, and etcd takes 0 for "there is none".
        Compare::Revision(key, 0) => Comparison::created(space.key(key), -1),
        Compare::Revision(key, revision) => {
            Comparison::written(space.key(key), i64::try_from(*revision).unwrap_or(i64::MAX))
        }
        Compare::Absent(key) => Comparison::created(space.key(key), 0),
        Compare::Present(key) => Comparison::present(space.key(key)),
    }
}

/// How many of those that wait, from the first, may go to etcd together: none reads or writes what one before it writes.
pub(super) fn together<'a>(waiting: impl Iterator<Item = (&'a [Compare], &'a Shape)>) -> usize {
    let (mut taken, mut ops, mut bytes): (VecDeque<&Shape>, usize, usize) = (VecDeque::new(), 0, 0);
    for (compare, shape) in waiting.take(GROUP) {
        ops += compare.len() + shape.puts.len() + shape.deletes.len() + 2 * shape.prefixes.len();
        bytes += shape.bytes();
        let alone = ops > GROUP_OPS || bytes > GROUP_BYTES || compare.len() > CONDITIONS;
        let keys = || {
            compare.iter().map(|compare| {
                let (Compare::Revision(key, _) | Compare::Absent(key) | Compare::Present(key)) = compare;
                key
            })
        };
        let depends = taken.iter().any(|before| before.meets(shape) || keys().any(|key| before.writes(key)));
        if !taken.is_empty() && (alone || depends) {
            break;
        }
        taken.push_back(shape);
        if alone {
            break;
        }
    }
    taken.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        Space::new("berth")
    }

    fn put(key: &str) -> Write {
        Write::Put(key.into(), vec![1])
    }

    #[test]
    fn the_last_word_on_each_key_is_said_once() {
        let shape = Shape::of(&[
            put("a/1"),
            Write::DeletePrefix("a/".into()),
            put("a/2"),
            Write::Delete("b".into()),
            put("b"),
            put("c"),
            Write::Delete("c".into()),
        ]);
        assert_eq!(shape.puts.keys().collect::<Vec<_>>(), ["a/2", "b"]);
        assert_eq!(shape.deletes.iter().collect::<Vec<_>>(), ["c"]);
        let ranges: Vec<_> = shape
            .operations(&space())
            .into_iter()
            .filter_map(|op| match op {
                Op::Delete(Delete { key, range_end: Some(end) }) => {
                    Some((String::from_utf8(key.0).unwrap(), String::from_utf8(end.0).unwrap()))
                }
                _ => None,
            })
            .collect();
        let text = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(ranges, [text("berth/kv/a/", "berth/kv/a/2"), text("berth/kv/a/2\0", "berth/kv/a0")]);
    }

    #[test]
    fn only_what_does_not_touch_goes_together() {
        let none: &[Compare] = &[];
        let count = |list: &[(&[Compare], &[Write])]| {
            let shapes: Vec<_> = list.iter().map(|(_, writes)| Shape::of(writes)).collect();
            together(list.iter().map(|(compare, _)| *compare).zip(&shapes))
        };
        assert_eq!(count(&[(none, &[put("a")]), (none, &[put("b")])]), 2);
        assert_eq!(count(&[(none, &[put("a")]), (none, &[put("a")])]), 1);
        assert_eq!(count(&[(none, &[put("a")]), (&[Compare::Present("a".into())], &[put("b")])]), 1);
        assert_eq!(count(&[(&[Compare::Present("a".into())], &[put("b")]), (none, &[put("a")])]), 2);
        assert_eq!(count(&[(none, &[Write::DeletePrefix("a".into())]), (none, &[put("ab")])]), 1);
        assert_eq!(count(&[(none, &[put("ab")]), (none, &[Write::DeletePrefix("a".into())])]), 1);
        let many: Vec<_> = (0..200).map(|n| put(&format!("k{n}"))).collect();
        assert_eq!(count(&[(none, &many), (none, &[put("x")])]), 1);
        assert_eq!(count(&[(none, &[put("x")]), (none, &many)]), 1);
        assert_eq!(nested(Shape::of(&many).operations(&space())).map(|pieces| pieces.len()), Some(4));
    }
}

//! What functions lend to those who call them: the rights of their owner (`SECURITY DEFINER`), and values of their own for
//! settings (`SET` clauses). A table of its own, as neither keeps a statement off a standby.

use std::collections::{BTreeSet, HashMap};
use std::ops::{BitAnd, BitOr, BitOrAssign};

use super::Catalog;
use super::fixpoint::{self, FIRST_USER_OID};
use super::rows::{CatalogRows, FunctionRow};

/// What some code lends: a set, of rights and of settings by their places in [`Lenders`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lent(u32);

impl Lent {
    pub const NOTHING: Lent = Lent(0);
    /// Those of the code's owner.
    pub const RIGHTS: Lent = Lent(1);

    /// From the thirty-first on, settings pass for one.
    pub(super) fn setting(at: usize) -> Lent {
        Lent(2 << at.min(30))
    }

    pub fn is_nothing(self) -> bool {
        self == Lent::NOTHING
    }
}

impl BitOr for Lent {
    type Output = Lent;

    fn bitor(self, other: Lent) -> Lent {
        Lent(self.0 | other.0)
    }
}

impl BitOrAssign for Lent {
    fn bitor_assign(&mut self, other: Lent) {
        self.0 |= other.0;
    }
}

impl BitAnd for Lent {
    type Output = Lent;

    fn bitand(self, other: Lent) -> Lent {
        Lent(self.0 & other.0)
    }
}

/// The functions of a database that lend something, and whatever reaches one: other functions, operators, casts,
/// aggregates, views.
#[derive(Clone, Debug)]
pub struct Lenders {
    /// Of nothing else.
    pub names: Catalog,
    /// The settings of which functions have values of their own, in lower case and in order.
    settings: Vec<String>,
}

impl Lenders {
    /// Those that the rows describe; `None` if there are none.
    pub(super) fn build(mut rows: CatalogRows) -> Option<Box<Lenders>> {
        let own = |function: &&FunctionRow| function.oid >= FIRST_USER_OID;
        let settings: BTreeSet<_> =
            rows.functions.iter().filter(own).flat_map(|function| function.sets.clone()).collect();
        let mut lenders = Lenders { names: Catalog::empty(0), settings: settings.into_iter().collect() };
        let lent = |function: &FunctionRow| (function.oid, lenders.lent_by(function));
        let lent: HashMap<_, _> =
            rows.functions.iter().filter(own).map(lent).filter(|(_, lent)| !lent.is_nothing()).collect();
        if lent.is_empty() {
            return None;
        }
        // What runs unasked those have allowed who made it.
        rows.policies.clear();
        rows.planned.clear();
        rows.implied.clear();
        rows.types.iter_mut().for_each(|row| row.checks = None);
        rows.relations.retain(|relation| relation.oid >= FIRST_USER_OID);
        lenders.names = fixpoint::lenders(rows, lent);
        Some(Box::new(lenders))
    }

    fn lent_by(&self, function: &FunctionRow) -> Lent {
        let rights = if function.as_owner { Lent::RIGHTS } else { Lent::NOTHING };
        self.places(|name| function.sets.iter().any(|set| set == name))
            .fold(rights, |lent, at| lent | Lent::setting(at))
    }

    fn places(&self, is_meant: impl Fn(&str) -> bool) -> impl Iterator<Item = usize> {
        self.settings.iter().enumerate().filter(move |(_, name)| is_meant(name)).map(|(at, _)| at)
    }

    /// Rights, and the settings that are `held`.
    pub fn counted(&self, held: impl Fn(&str) -> bool) -> Lent {
        self.places(held).fold(Lent::RIGHTS, |lent, at| lent | Lent::setting(at))
    }

    /// The first setting in `lent` that is `held`.
    pub fn setting(&self, lent: Lent, held: impl Fn(&str) -> bool) -> Option<&str> {
        let at = self.places(held).find(|at| !(lent & Lent::setting(*at)).is_nothing())?;
        Some(&self.settings[at])
    }
}

//! Bounds on label values, since every distinct set is a time series for ever.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// What stands in for everything beyond a bound.
pub(super) const OTHER: &str = "other";

/// Admits the first so many distinct sets of values.
#[derive(Debug)]
pub(super) struct LabelBound {
    most: usize,
    seen: Mutex<HashSet<Vec<String>>>,
}

impl LabelBound {
    pub(super) fn new(most: usize) -> Self {
        Self { most, seen: Mutex::default() }
    }

    /// The values themselves, or `other` in place of each when there are too many sets already.
    pub(super) fn admit<'v, const N: usize>(&self, values: [&'v str; N]) -> [&'v str; N] {
        let set: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(&set) {
            return values;
        }
        if seen.len() >= self.most {
            return [OTHER; N];
        }
        seen.insert(set);
        values
    }
}

/// PostgreSQL, appendix "PostgreSQL Error Codes".
const CLASSES: [&str; 43] = [
    "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25", "26",
    "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55", "57", "58",
    "72", "F0", "HV", "P0", "XX",
];

/// The class of an SQLSTATE; a function can raise any code, so those outside of PostgreSQL's classes are one.
pub(super) fn sqlstate_class(sqlstate: &str) -> &'static str {
    let class = sqlstate.get(..2);
    CLASSES.iter().find(|known| Some(**known) == class).copied().unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_everything_new_is_other() {
        let bound = LabelBound::new(2);
        assert_eq!(bound.admit(["a", "x"]), ["a", "x"]);
        assert_eq!(bound.admit(["b", "x"]), ["b", "x"]);
        assert_eq!(bound.admit(["c", "x"]), ["other", "other"]);
        assert_eq!(bound.admit(["a", "x"]), ["a", "x"]);
    }

    #[test]
    fn classes_are_postgresql_s_or_other() {
        let cases =
            [("57014", "57"), ("0A000", "0A"), ("XX000", "XX"), ("ZZ123", "other"), ("4", "other"), ("é", "other")];
        for (sqlstate, class) in cases {
            assert_eq!(sqlstate_class(sqlstate), class);
        }
    }
}

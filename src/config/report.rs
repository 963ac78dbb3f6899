//! Collects every error and warning about one source, and knows where in its text they stand.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;

use super::error::{ConfigError, ConfigErrors};

/// Where a value stands in the file, in bytes.
pub(super) type Span = Range<usize>;

/// Collects errors and warnings, and knows the text that they point into.
pub(super) struct Report<'a> {
    source: String,
    text: &'a str,
    errors: RefCell<Vec<(usize, ConfigError)>>,
    warnings: RefCell<Vec<(usize, ConfigError)>>,
    /// The patterns of the keys that were asked for, and of those that were there.
    asked: RefCell<BTreeSet<String>>,
    found: RefCell<BTreeSet<String>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(source: impl Into<String>, text: &'a str) -> Self {
        Self {
            source: source.into(),
            text,
            errors: RefCell::default(),
            warnings: RefCell::default(),
            asked: RefCell::default(),
            found: RefCell::default(),
        }
    }

    pub(super) fn error(&self, at: Option<&Span>, key: &str, message: impl Display) {
        self.errors.borrow_mut().push(self.entry(at, key, message));
    }

    pub(super) fn warn(&self, at: Option<&Span>, key: &str, message: impl Display) {
        self.warnings.borrow_mut().push(self.entry(at, key, message));
    }

    /// The warnings when nothing is wrong; both lists in the order of the file.
    pub(super) fn finish(self) -> Result<Vec<ConfigError>, ConfigErrors> {
        if self.errors.borrow().is_empty() { Ok(in_order(self.warnings.into_inner())) } else { Err(self.into_errors()) }
    }

    /// The errors, where the caller knows that there are some.
    pub(super) fn into_errors(self) -> ConfigErrors {
        ConfigErrors(in_order(self.errors.into_inner()))
    }

    /// Remembers that a key exists, so that the reference file can be held against what the code reads.
    pub(super) fn note_key(&self, pattern: String, present: bool) {
        if present {
            self.found.borrow_mut().insert(pattern.clone());
        }
        self.asked.borrow_mut().insert(pattern);
    }

    /// The patterns of the keys that the code reads, and of those that the source names.
    #[cfg(test)]
    pub(super) fn keys(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        (self.asked.borrow().clone(), self.found.borrow().clone())
    }

    fn entry(&self, at: Option<&Span>, key: &str, message: impl Display) -> (usize, ConfigError) {
        let error = ConfigError {
            source: self.source.clone(),
            position: at.map(|span| position(self.text, span.start)),
            key: key.to_owned(),
            message: message.to_string(),
        };
        (at.map_or(0, |span| span.start), error)
    }
}

fn in_order(mut list: Vec<(usize, ConfigError)>) -> Vec<ConfigError> {
    list.sort_by_key(|(offset, _)| *offset);
    list.into_iter().map(|(_, error)| error).collect()
}

/// Line and column of a byte offset, from 1; columns count characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    (line, before[start..].chars().count() + 1)
}

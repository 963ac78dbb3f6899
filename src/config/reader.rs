//! Reads a TOML document without giving up at the first mistake.
//!
//! Every read that fails notes an error with its position and yields `None`, so that the caller
//! goes on with a default and the rest of the file is judged as well. The sections ask for their
//! keys by name; what nobody asked for is an unknown key.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Report, Span};
use super::units::{NEVER, parse_duration, parse_size, show_duration, show_size};

/// A table, whose keys are asked for one by one.
pub(super) struct Section<'a> {
    pub(super) report: &'a Report<'a>,
    path: Path,
    span: Span,
    table: &'a DeTable<'a>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// The document itself.
    pub(super) fn root(report: &'a Report<'a>, document: &'a Spanned<DeTable<'a>>) -> Self {
        // A key that is missing at the top belongs to no place.
        Self { report, path: Path::default(), span: 0..0, table: document.get_ref(), asked: RefCell::default() }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &'static str) -> Option<Item<'a>> {
        self.asked.borrow_mut().push(key);
        let path = self.path.key(key);
        let value = self.table.get(key);
        self.report.note_key(path.pattern.clone(), value.is_some());
        let value = value?;
        Some(Item { report: self.report, path, span: value.span(), value: value.get_ref() })
    }

    /// The value of a key that must be there.
    pub(super) fn require(&self, key: &'static str, expected: &str) -> Option<Item<'a>> {
        let item = self.get(key);
        if item.is_none() {
            self.error(format!("`{key}` is missing: expected {expected}"));
        }
        item
    }

    /// Notes an error about the table as a whole.
    pub(super) fn error(&self, message: impl Display) {
        self.report.error(self.place(), &self.path.shown, message);
    }

    /// The end of the section: notes every key that was not asked for.
    pub(super) fn finish(self) {
        self.report_unknown();
    }

    /// Notes every key that was not asked for. To be called last.
    pub(super) fn report_unknown(&self) {
        let asked = self.asked.borrow();
        for (key, _) in self.table.iter() {
            if asked.contains(&key.get_ref().as_ref()) {
                continue;
            }
            let message = match closest(key.get_ref(), &asked) {
                Some(near) => format!("unknown key, did you mean `{near}`?"),
                None => format!("unknown key, expected {}", one_of(&asked)),
            };
            self.report.error(Some(&key.span()), &self.path.key(key.get_ref()).shown, message);
        }
    }

    fn place(&self) -> Option<&Span> {
        (!self.path.shown.is_empty()).then_some(&self.span)
    }
}

/// A value of the file.
#[derive(Clone)]
pub(super) struct Item<'a> {
    pub(super) report: &'a Report<'a>,
    pub(super) path: Path,
    pub(super) span: Span,
    value: &'a DeValue<'a>,
}

impl<'a> Item<'a> {
    pub(super) fn error(&self, message: impl Display) {
        self.report.error(Some(&self.span), &self.path.shown, message);
    }

    pub(super) fn warn(&self, message: impl Display) {
        self.report.warn(Some(&self.span), &self.path.shown, message);
    }

    /// Notes what was expected in place of this value.
    pub(super) fn expected<T>(&self, expected: impl Display) -> Option<T> {
        self.error(format!("expected {expected}, found {}", self.shown()));
        None
    }

    /// A string that is not shown in errors: it may hold a secret.
    pub(super) fn secret_string(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => {
                self.error(format!("expected a string, found {}", with_article(self.value.type_str())));
                None
            }
        }
    }

    pub(super) fn is_string(&self) -> bool {
        self.value.is_str()
    }

    pub(super) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    pub(super) fn string(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => self.expected("a string"),
        }
    }

    /// A string with something in it and no NUL, which PostgreSQL's protocol cannot carry.
    pub(super) fn name(&self) -> Option<String> {
        let text = self.string()?;
        if text.is_empty() || text.contains('\0') {
            return self.expected("a name that is not empty and holds no NUL");
        }
        Some(text.to_owned())
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.expected("true or false"),
        }
    }

    /// A whole number within `range`.
    pub(super) fn count(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let number = match self.value {
            DeValue::Integer(number) => usize::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Some(number),
            _ => self.expected(format!("a whole number from {} to {}", range.start(), range.end())),
        }
    }

    /// A duration above 0.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.duration_within(range, "")
    }

    /// A duration, or 0 with the meaning that the caller gives it.
    pub(super) fn duration_or_zero(&self, range: RangeInclusive<Duration>, zero: &str) -> Option<Duration> {
        if matches!(self.value, DeValue::Integer(number) if number.as_str() == "0") {
            return Some(Duration::ZERO);
        }
        if matches!(self.value, DeValue::String(text) if parse_duration(text) == Some(Duration::ZERO)) {
            return Some(Duration::ZERO);
        }
        self.duration_within(range, &format!(", or 0 for {zero}"))
    }

    /// A duration where 0 means that the event never comes.
    pub(super) fn duration_or_never(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let duration = self.duration_or_zero(range, "never")?;
        Some(if duration.is_zero() { NEVER } else { duration })
    }

    fn duration_within(&self, range: RangeInclusive<Duration>, or: &str) -> Option<Duration> {
        let parsed = match self.value {
            DeValue::String(text) => parse_duration(text),
            _ => None,
        };
        let Some(duration) = parsed else {
            return self.expected(format!("a duration with a unit (us, ms, s, min, h, d) such as \"15s\"{or}"));
        };
        if !range.contains(&duration) {
            let (least, most) = (show_duration(*range.start()), show_duration(*range.end()));
            return self.expected(format!("a duration from {least} to {most}{or}"));
        }
        Some(duration)
    }

    /// A size in bytes.
    pub(super) fn size(&self, range: RangeInclusive<usize>) -> Option<usize> {
        let parsed = match self.value {
            DeValue::String(text) => parse_size(text),
            _ => None,
        };
        match parsed {
            None => self.expected("a size with a unit (B, kB or KiB, MB or MiB, GB or GiB) such as \"4MiB\""),
            Some(size) if range.contains(&size) => Some(size),
            Some(_) => {
                let (least, most) = (show_size(*range.start()), show_size(*range.end()));
                self.expected(format!("a size from {least} to {most}"))
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Clone>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = closest(text, &words).map(|near| format!(", did you mean \"{near}\"?")).unwrap_or_default();
        self.error(format!("expected {}, found {}{hint}", one_of(&words).replace('`', "\""), shown_text(text)));
        None
    }

    /// A table with known keys.
    pub(super) fn section(&self) -> Option<Section<'a>> {
        self.section_or("a table")
    }

    /// A table with known keys, where other shapes are possible too.
    pub(super) fn section_or(&self, expected: &str) -> Option<Section<'a>> {
        let DeValue::Table(table) = self.value else {
            // The value may be a secret in the wrong shape.
            self.error(format!("expected {expected}, found {}", with_article(self.value.type_str())));
            return None;
        };
        Some(Section {
            report: self.report,
            path: self.path.clone(),
            span: self.span.clone(),
            table,
            asked: RefCell::default(),
        })
    }

    /// A table whose keys are names that the operator chose, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(String, Item<'a>)> {
        let DeValue::Table(table) = self.value else {
            self.expected::<()>("a table");
            return Vec::new();
        };
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, value)| {
                let path = self.path.name(key.get_ref());
                let item = Item { report: self.report, path, span: value.span(), value: value.get_ref() };
                (key.get_ref().to_string(), item)
            })
            .collect();
        entries.sort_by_key(|(_, item)| item.span.start);
        entries
    }

    /// The keys of a table; none of what is no table.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        let keys = self.value.as_table().into_iter().flat_map(|table| table.iter());
        keys.map(|(key, _)| key.get_ref().to_string()).collect()
    }

    /// The elements of an array.
    pub(super) fn list(&self) -> Vec<Item<'a>> {
        let DeValue::Array(array) = self.value else {
            self.expected::<()>("an array");
            return Vec::new();
        };
        let element = |(index, value): (usize, &'a Spanned<DeValue<'a>>)| Item {
            report: self.report,
            path: self.path.index(index),
            span: value.span(),
            value: value.get_ref(),
        };
        array.iter().enumerate().map(element).collect()
    }

    /// The elements of an array, or the value itself where an array of one may be left out.
    pub(super) fn list_or_one(&self) -> Vec<Item<'a>> {
        if self.is_list() { self.list() } else { vec![self.clone()] }
    }

    fn shown(&self) -> String {
        match self.value {
            DeValue::String(text) => shown_text(text),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            other => with_article(other.type_str()),
        }
    }
}

/// The dotted path of a value, as shown and with names and indexes taken out.
#[derive(Debug, Clone, Default)]
pub(super) struct Path {
    pub(super) shown: String,
    pattern: String,
}

impl Path {
    fn key(&self, key: &str) -> Self {
        let quoted = if is_bare(key) { key.to_owned() } else { format!("{key:?}") };
        Self { shown: join(&self.shown, &quoted), pattern: join(&self.pattern, key) }
    }

    fn name(&self, name: &str) -> Self {
        Self { pattern: join(&self.pattern, "*"), ..self.key(name) }
    }

    fn index(&self, index: usize) -> Self {
        Self { shown: format!("{}[{index}]", self.shown), pattern: format!("{}[]", self.pattern) }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// TOML, "Keys": what needs no quotes.
fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The word that was probably meant: at most a third of it mistyped.
pub(super) fn closest<'w>(typed: &str, words: &[&'w str]) -> Option<&'w str> {
    words
        .iter()
        .map(|word| (distance(&typed.to_lowercase(), &word.to_lowercase()), *word))
        .filter(|(distance, word)| *distance <= word.len().div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// `a`, `b` or `c`.
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => "none".to_owned(),
        [only] => format!("`{only}`"),
        [first @ .., last] => format!("`{}` or `{last}`", first.join("`, `")),
    }
}

/// Levenshtein's distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A string of the file in quotes, cut where it is too long for a line.
fn shown_text(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return format!("{text:?}");
    }
    let start: String = text.chars().take(LONGEST).collect();
    format!("{:?}", format!("{start}…"))
}

fn with_article(kind: &str) -> String {
    match kind {
        "array" | "integer" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

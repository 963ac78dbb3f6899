//! The classifier: puts the three steps together and remembers what the parser said.

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::catalog::{Catalog, Scope};
use super::lexer::{Kind, Lexer, Reading, Token};
use super::names::{self, ANYTHING, Found, Text};
use super::statement::{Nature, Statement};
use super::tokens::{Tokens, is_balanced};
use super::{Class, Effects, Reason, TxControl, Verdict, fingerprint, veto};

/// Longest text in bytes that may be a read.
pub const MAX_TEXT: usize = 16 * 1024;

/// Classifies query strings. Shared by all sessions.
pub struct Classifier {
    /// Fingerprint → did the parser veto? The answer depends on nothing else, so entries outlive changes of
    /// the catalog.
    parsed: Cache<u128, bool, PerEntry>,
}

/// An entry costs its key, value, and place in the cache, about this many bytes.
const ENTRY_BYTES: u64 = 64;

#[derive(Clone)]
struct PerEntry;

impl Weighter<u128, bool> for PerEntry {
    fn weight(&self, _: &u128, _: &bool) -> u64 {
        ENTRY_BYTES
    }
}

impl Classifier {
    /// A classifier whose cache takes about `cache_bytes` at most.
    pub fn new(cache_bytes: usize) -> Self {
        let entries = (cache_bytes as u64 / ENTRY_BYTES).max(1);
        Classifier { parsed: Cache::with_weighter(entries as usize, entries * ENTRY_BYTES, PerEntry) }
    }

    /// Where may `sql` run? `sql` is the text of a `Query` or `Parse` as the client sent it, in any encoding and
    /// not trusted. `search_path` is the session's setting as `SHOW` prints it, `None` for the default.
    pub fn classify(&self, sql: &[u8], catalog: &Catalog, search_path: Option<&str>) -> Verdict {
        let scope = Scope::Session(search_path);
        if sql.len() > MAX_TEXT {
            return oversized(sql, catalog);
        }
        let tokens = Tokens::read(sql, Reading::USUAL);
        let mut judgement = judge_readings(sql, &tokens, catalog, scope);
        if judgement.reason == Reason::Read && self.vetoes(sql, &tokens) {
            judgement.reason = Reason::ParserVeto;
        }
        judgement.verdict(tokens.hint)
    }

    fn vetoes(&self, sql: &[u8], tokens: &Tokens) -> bool {
        let fingerprint = fingerprint::of_tokens(sql, tokens);
        if let Some(vetoed) = self.parsed.get(&fingerprint) {
            return vetoed;
        }
        let vetoed = veto::vetoes(sql, tokens);
        self.parsed.insert(fingerprint, vetoed);
        vetoed
    }
}

/// What the lexer and the catalog say about a whole string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub reason: Reason,
    pub tx: TxControl,
    pub effects: Effects,
}

impl Judgement {
    fn verdict(self, hint: Option<super::Hint>) -> Verdict {
        let class = if matches!(self.reason, Reason::Read | Reason::Empty) { Class::Read } else { Class::Primary };
        Verdict { class, reason: self.reason, hint, tx: self.tx, effects: self.effects }
    }
}

/// The worst of all readings of the text that PostgreSQL might take. One in which a quote never ends is none:
/// the server refuses such a text whole.
fn judge_readings(sql: &[u8], usual: &Tokens, catalog: &Catalog, scope: Scope<'_>) -> Judgement {
    let mut worst = (!usual.unterminated).then(|| judge(sql, usual, catalog, scope));
    if usual.ambiguous {
        for reading in Reading::OTHERS {
            let tokens = Tokens::read(sql, reading);
            if tokens.unterminated {
                continue;
            }
            let other = judge(sql, &tokens, catalog, scope);
            worst = Some(worst.map_or(other, |worst| Judgement {
                reason: worst.reason.worse(other.reason),
                tx: if worst.tx == other.tx { worst.tx } else { TxControl::Mixed },
                effects: worst.effects | other.effects,
            }));
        }
    }
    worst.unwrap_or(Judgement { reason: Reason::Malformed, tx: TxControl::None, effects: Effects::NONE })
}

/// Judges every statement of a string; the worst counts.
pub(super) fn judge(sql: &[u8], tokens: &Tokens, catalog: &Catalog, scope: Scope<'_>) -> Judgement {
    let mut whole = Whole::default();
    for statement in tokens.split(|token| token.kind == Kind::Semicolon).filter(|tokens| !tokens.is_empty()) {
        let form = Statement::of(sql, statement);
        let text = match form.nature {
            Nature::Query => Text::Query,
            Nature::Other => Text::Other,
            Nature::Bare => {
                whole.add(form, Found { reason: Reason::Read, effects: Effects::NONE });
                continue;
            }
        };
        let mut found = names::find(sql, statement, text, catalog, scope);
        if form.nature == Nature::Query && !is_balanced(statement) {
            found.reason = found.reason.worse(Reason::Malformed);
        }
        whole.add(form, found);
    }
    let mut judgement = whole.judgement();
    if tokens.malformed {
        judgement.reason = judgement.reason.worse(Reason::Malformed);
        judgement.effects |= ANYTHING;
    }
    judgement
}

/// The sum over statements.
#[derive(Default)]
struct Whole {
    statements: usize,
    reason: Option<Reason>,
    tx: Option<TxControl>,
    effects: Effects,
}

impl Whole {
    fn add(&mut self, form: Statement, found: Found) {
        let reason = form.reason.worse(found.reason);
        self.statements += 1;
        self.reason = Some(self.reason.map_or(reason, |so_far| so_far.worse(reason)));
        self.effects |= form.effects | found.effects;
        self.tx = Some(match (self.tx, form.tx) {
            (None, tx) => tx,
            (Some(TxControl::None), TxControl::None) => TxControl::None,
            _ => TxControl::Mixed,
        });
    }

    fn judgement(self) -> Judgement {
        let effects = if self.statements == 0 { Effects::EMPTY } else { self.effects };
        let (reason, tx) = (self.reason.unwrap_or(Reason::Empty), self.tx.unwrap_or(TxControl::None));
        Judgement { reason, tx, effects }
    }
}

/// A text too long to be a read: its statements' first words and the functions it names tell the effects,
/// without keeping its tokens.
fn oversized(sql: &[u8], catalog: &Catalog) -> Verdict {
    const HEAD: usize = 32;
    let mut lexer = Lexer::new(sql, Reading::USUAL);
    let mut whole = Whole::default();
    let mut head: Vec<Token> = Vec::with_capacity(HEAD);
    let mut effects = Effects::NONE;
    let mut last_name: Option<Token> = None;
    for token in lexer.by_ref() {
        match token.kind {
            Kind::Semicolon => whole.close(sql, &mut head),
            Kind::Malformed | Kind::Unterminated | Kind::UnicodeEscape => effects |= ANYTHING,
            Kind::LeftParen => effects |= last_name.map_or(Effects::NONE, |name| call_effects(sql, name, catalog)),
            _ => {}
        }
        if token.kind != Kind::Semicolon && head.len() < HEAD {
            head.push(token);
        }
        last_name = token.is_name().then_some(token);
    }
    whole.close(sql, &mut head);
    if lexer.ambiguous() || sql.len() > u32::MAX as usize {
        effects |= ANYTHING;
    }
    let mut judgement = whole.judgement();
    judgement.reason = judgement.reason.worse(Reason::Oversized);
    judgement.effects |= effects;
    judgement.verdict(lexer.hint())
}

impl Whole {
    fn close(&mut self, sql: &[u8], head: &mut Vec<Token>) {
        if !head.is_empty() {
            self.add(Statement::of(sql, head), Found { reason: Reason::Read, effects: Effects::NONE });
            head.clear();
        }
    }
}

/// The effects of any overload of a function.
fn call_effects(sql: &[u8], name: Token, catalog: &Catalog) -> Effects {
    let entry = catalog.entry(name.hash, name.text(sql));
    let functions = entry.map_or(&[][..], |entry| &entry.functions);
    functions.iter().fold(Effects::NONE, |effects, function| effects | function.taint.effects)
}

//! The names in a statement against the database's catalog, and the keywords that make a query write.
//!
//! A tainted name counts however it is written: as a function's call (`f(x)`), in attribute notation (`x.f`),
//! as an operator, a cast, a typed literal, a relation. Where it stands decides which of these it can be, and
//! a qualifier or the `search_path` decides whether the tainted object can be the one that is meant.

use super::call::Call;
use super::catalog::{Catalog, Entry, Lent, Scope, Taint, TaintedFunction};
use super::keyword::Keyword;
use super::lexer::{Kind, Reading, Token};
use super::sources::reads_functions;
use super::statement::{acts_in_code, spoken_of};
use super::tokens::{Tokens, starts_statement};
use super::{Effects, Reason, name, settings};

/// What the tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// One statement that is a query.
    Query,
    /// One statement that runs on the primary anyhow.
    Other,
    /// The body of a function in PL/pgSQL or in SQL-standard form, or an expression.
    Code,
}

/// What was found: the weightiest reason and all effects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub reason: Reason,
    pub effects: Effects,
    /// Only among what lends something.
    pub lent: Lent,
}

impl Default for Found {
    /// It only reads.
    fn default() -> Self {
        Found { reason: Reason::Read, effects: Effects::NONE, lent: Lent::NOTHING }
    }
}

/// Everything that a name may have done by code that is hidden.
pub const ANYTHING: Effects = Effects::STATE
    .with(Effects::MAYBE_DDL)
    .with(Effects::READ_ONLY_SETTING)
    .with(Effects::HIDDEN)
    .with(Effects::NOTIFIES)
    .with(Effects::CHANNELS);

/// Does the token spell `pg_temp`, `pg_temp_3` or the like?
pub fn is_temporary_schema(text: &[u8]) -> bool {
    if text.len() < 7 {
        return false;
    }
    let bare = text.strip_prefix(b"\"").unwrap_or(text);
    bare.len() >= 7 && bare[..7].eq_ignore_ascii_case(b"pg_temp")
}

/// Looks at every name, operator and keyword of `tokens`.
pub fn find(sql: &[u8], tokens: &[Token], text: Text, catalog: &Catalog, scope: Scope<'_>) -> Found {
    let mut finder = Finder::new(sql, tokens, text, catalog, scope);
    for at in 0..tokens.len() {
        finder.token(at);
    }
    finder.found
}

/// The first of `tokens` that reaches something in `catalog` which lends any of what is `counted`, and what of that.
pub fn find_lent(
    sql: &[u8],
    tokens: &[Token],
    text: Text,
    catalog: &Catalog,
    scope: Scope<'_>,
    counted: Lent,
) -> Option<(usize, Lent)> {
    let mut finder = Finder::new(sql, tokens, text, catalog, scope);
    (0..tokens.len()).find_map(|at| {
        finder.token(at);
        let lent = finder.found.lent & counted;
        (!lent.is_nothing()).then_some((at, lent))
    })
}

/// The same for the code of a function or block in PL/pgSQL, or an expression; `None` where it cannot be read.
pub fn find_in_code(code: &[u8], catalog: &Catalog, scope: Scope<'_>) -> Option<Found> {
    let tokens = Tokens::read(code, Reading::USUAL);
    let readable = !(tokens.unterminated || tokens.malformed || tokens.ambiguous);
    readable.then(|| {
        let found = find(code, &tokens, Text::Code, catalog, scope);
        Found { effects: found.effects | spoken_of(code), ..found }
    })
}

struct Finder<'a> {
    sql: &'a [u8],
    tokens: &'a [Token],
    text: Text,
    catalog: &'a Catalog,
    scope: Scope<'a>,
    /// The statement has a `WITH`, so a data-changing keyword may stand behind more than a parenthesis.
    with: bool,
    found: Found,
}

impl<'a> Finder<'a> {
    fn new(sql: &'a [u8], tokens: &'a [Token], text: Text, catalog: &'a Catalog, scope: Scope<'a>) -> Self {
        let with = tokens.iter().any(|token| token.keyword == Keyword::With);
        let mut finder = Finder { sql, tokens, text, catalog, scope, with, found: Found::default() };
        if let Some(taint) = catalog.everything() {
            finder.add(taint);
        }
        finder
    }

    fn token(&mut self, at: usize) {
        let token = self.tokens[at];
        match token.kind {
            Kind::Word => {
                if token.keyword != Keyword::None {
                    self.keyword(at, token.keyword);
                }
                self.name(at, token);
            }
            Kind::Quoted => self.name(at, token),
            Kind::Operator => self.operator(at, token),
            Kind::UnicodeEscape => self.unicode_escape(token),
            Kind::Cast if !self.catalog.is_loaded() => self.because(Reason::CatalogNotLoaded),
            _ => {}
        }
    }

    fn because(&mut self, reason: Reason) {
        self.found.reason = self.found.reason.worse(reason);
    }

    fn add(&mut self, taint: Taint) {
        self.because(taint.reason);
        self.found.effects |= taint.effects;
        self.found.lent |= taint.lent;
    }

    fn at(&self, at: Option<usize>) -> Option<&Token> {
        self.tokens.get(at?)
    }

    fn before(&self, at: usize) -> Option<&Token> {
        self.at(at.checked_sub(1))
    }

    fn next_keyword(&self, at: usize) -> Keyword {
        self.tokens.get(at + 1).map_or(Keyword::None, |token| token.keyword)
    }

    /// A name in quotes may be any; a literal is data.
    fn unicode_escape(&mut self, token: Token) {
        self.because(Reason::UnicodeEscape);
        if token.text(self.sql).get(2) == Some(&b'"') {
            self.found.effects |= ANYTHING;
        }
    }

    fn keyword(&mut self, at: usize, keyword: Keyword) {
        match keyword {
            Keyword::For if self.locks(at) => self.because(Reason::RowLock),
            Keyword::Into if self.text == Text::Query && !self.is_label(at) => self.into(at),
            Keyword::Insert | Keyword::Update | Keyword::Delete | Keyword::Merge => self.change(at),
            Keyword::Execute if self.text == Text::Code => {
                self.because(Reason::OpaqueFunction);
                self.found.effects |= ANYTHING;
            }
            Keyword::From | Keyword::Join | Keyword::Table | Keyword::Cast if !self.catalog.is_loaded() => {
                self.because(Reason::CatalogNotLoaded);
            }
            _ if keyword.implies_operator() => {
                for taint in self.catalog.implied_operators() {
                    if self.catalog.visible(taint.schema, None, self.scope) {
                        self.add(*taint);
                    }
                }
            }
            _ => {}
        }
        if self.text == Text::Code
            && starts_statement(self.sql, self.tokens, at)
            && let Some(statement) = acts_in_code(keyword)
        {
            self.because(statement.reason);
            self.found.effects |= statement.effects;
        }
    }

    /// After `AS` or a dot any keyword is just a name.
    fn is_label(&self, at: usize) -> bool {
        self.before(at).is_some_and(|before| before.keyword == Keyword::As || before.kind == Kind::Dot)
    }

    fn locks(&self, at: usize) -> bool {
        match self.next_keyword(at) {
            Keyword::Update | Keyword::Share | Keyword::Key => true,
            Keyword::No => self.next_keyword(at + 1) == Keyword::Key,
            _ => false,
        }
    }

    fn into(&mut self, at: usize) {
        if self.before(at).is_some_and(|before| matches!(before.keyword, Keyword::Insert | Keyword::Merge)) {
            return;
        }
        self.because(Reason::SelectInto);
        let temporary =
            matches!(self.next_keyword(at), Keyword::Temp | Keyword::Temporary | Keyword::Local | Keyword::Global);
        self.found.effects |=
            if temporary { Effects::MAYBE_DDL | Effects::STATE | Effects::PINS } else { Effects::DDL };
    }

    /// A data-changing keyword: in a query where a statement can start, in code anywhere.
    fn change(&mut self, at: usize) {
        let starts = match self.before(at) {
            // The arguments of a function.
            Some(before) if before.kind == Kind::LeftParen && self.text == Text::Query => {
                let called = self.at(at.checked_sub(2));
                called.is_none_or(|name| !name.is_name() || name.keyword != Keyword::None)
            }
            Some(before) if matches!(before.kind, Kind::LeftParen | Kind::RightParen) => true,
            _ if self.text == Text::Code => !self.is_label(at),
            // Behind `WITH … CYCLE … USING path`, but not where an expression goes on.
            Some(before) => self.with && before.is_name() && !before.keyword.is_reserved() && !self.is_label(at),
            None => false,
        };
        if starts {
            self.because(Reason::Write);
        }
    }

    fn operator(&mut self, at: usize, token: Token) {
        if !self.catalog.is_loaded() && token.text(self.sql) != b"*" {
            self.because(Reason::CatalogNotLoaded);
        }
        for taint in self.catalog.operator(token.text(self.sql)) {
            if self.catalog.visible(taint.schema, self.qualifier(at), self.scope) {
                self.add(*taint);
            }
        }
    }

    fn name(&mut self, at: usize, token: Token) {
        if let Some(entry) = self.catalog.entry(token.hash, token.text(self.sql)) {
            self.entry(at, entry);
        }
        let text = token.text(self.sql);
        if is_temporary_schema(text) {
            self.because(Reason::Temporary);
            self.found.effects |= Effects::STATE;
        }
        if self.catalog.beyond_ascii() && !text.is_ascii() && std::str::from_utf8(text).is_err() {
            self.because(Reason::ForeignEncoding);
            self.found.effects |= ANYTHING;
            self.found.lent |= Lent::RIGHTS;
        }
        if !self.catalog.is_loaded() {
            self.unjudged(at, token);
        }
    }

    /// Without a catalog, no name can be judged; keywords that are only syntax can.
    fn unjudged(&mut self, at: usize, token: Token) {
        let next = self.tokens.get(at + 1).map(|next| next.kind);
        let used = matches!(next, Some(Kind::LeftParen | Kind::Literal | Kind::OtherLiteral));
        let names = token.keyword == Keyword::None || (used && !token.keyword.opens_no_call());
        if names && !self.is_label(at) {
            self.because(Reason::CatalogNotLoaded);
        }
    }

    /// The schema written before the name at `at`, as its token's text.
    fn qualifier(&self, at: usize) -> Option<&[u8]> {
        let dot = self.before(at)?;
        let qualifier = self.at(at.checked_sub(2))?;
        (dot.kind == Kind::Dot && qualifier.is_name()).then(|| qualifier.text(self.sql))
    }

    fn entry(&mut self, at: usize, entry: &Entry) {
        let called = self.tokens.get(at + 1).is_some_and(|next| next.kind == Kind::LeftParen);
        if called {
            self.call(at, entry);
        } else if self.before(at).is_some_and(|before| before.kind == Kind::Dot) {
            self.attribute(at, entry);
        }
        if !entry.relations.is_empty() && self.is_relation(at) {
            self.relations(at, entry);
        }
        if !entry.row_types.is_empty() && self.is_row_type(at) {
            self.all_visible(at, &entry.row_types);
        }
        if !entry.types.is_empty() && self.is_type(at) {
            self.all_visible(at, &entry.types);
        }
    }

    fn all_visible(&mut self, at: usize, taints: &[Taint]) {
        for taint in taints {
            if self.catalog.visible(taint.schema, self.qualifier(at), self.scope) {
                self.add(*taint);
            }
        }
    }

    /// `name(…)`: each tainted overload that these arguments could select.
    fn call(&mut self, at: usize, entry: &Entry) {
        if entry.functions.is_empty() {
            return;
        }
        let mut call = Call::read(self.sql, self.tokens, at, self.catalog, self.scope);
        if self.text != Text::Query || matches!(self.scope, Scope::Any) {
            call = call.in_code();
        }
        for function in &entry.functions {
            if !self.catalog.visible(function.taint.schema, self.qualifier(at), self.scope) {
                continue;
            }
            if !function.taint.lent.is_nothing() {
                // Any of its name, whatever it is called with.
                self.add(function.taint);
                continue;
            }
            let harmless = entry
                .harmless
                .iter()
                .filter(|overload| self.catalog.visible(overload.schema, self.qualifier(at), self.scope));
            let reach = call.reaches(&function.signature, harmless);
            if reach.relies_on_parameters {
                self.found.effects |= Effects::PARAMETER_TYPES;
            }
            if reach.possible && !self.is_harmless_setting(at) && !self.is_constant_row(at) {
                let mut taint = function.taint;
                if taint.effects.contains(Effects::PROCESS) && self.is_compared(at) {
                    taint.effects = taint.effects.without(Effects::PROCESS.with(Effects::PINS));
                }
                self.add(taint);
                self.setting_effect(at);
            }
        }
    }

    /// `x.name`, which calls a function of one argument. The name of a relation before the dot is a row, anything else may
    /// have any type.
    fn attribute(&mut self, at: usize, entry: &Entry) {
        if entry.functions.is_empty() {
            return;
        }
        let is_field = self.before(self.first_of_chain(at)).is_some_and(|before| before.kind == Kind::Dot);
        let row = self.qualifier(at).is_some() && !is_field && !reads_functions(self.sql, self.tokens);
        let takes = |function: &TaintedFunction| {
            let signature = &function.signature;
            match signature.arguments.first() {
                None => signature.most.is_none() && !row,
                Some(argument) => signature.takes(1) && (!row || argument.takes_row()),
            }
        };
        for function in entry.functions.iter().filter(|function| takes(function)) {
            if self.catalog.visible(function.taint.schema, None, self.scope) {
                self.add(function.taint);
                self.setting_effect(at);
            }
        }
    }

    /// `current_setting('…')` of a setting that reads the same everywhere.
    fn is_harmless_setting(&self, at: usize) -> bool {
        name::names(self.tokens[at].text(self.sql), b"current_setting")
            && self.literal_argument(at).is_some_and(settings::same_everywhere)
    }

    /// The first argument of the call at `at`, if it is a plain literal. The server deparses it as `'…'::text`.
    fn literal_argument(&self, at: usize) -> Option<&[u8]> {
        let after = match self.tokens.get(at + 3..)? {
            [cast, text, after, ..] if cast.kind == Kind::Cast && text.text(self.sql) == b"text" => after,
            [after, ..] => after,
            [] => return None,
        };
        self.literal_at(at + 2).filter(|_| matches!(after.kind, Kind::Comma | Kind::RightParen))
    }

    /// `FROM pg_control_system()` of which only constants are read: without a star, an alias or its own name,
    /// which stand for the whole row, and without the one column that changes.
    fn is_constant_row(&self, at: usize) -> bool {
        let is = |token: &Token, name: &[u8]| token.is_name() && name::names(token.text(self.sql), name);
        let plain = |(place, token): (usize, &Token)| {
            place == at
                || !(is(token, b"pg_control_system")
                    || is(token, b"pg_control_last_modified")
                    || token.text(self.sql).starts_with(b"*"))
        };
        is(&self.tokens[at], b"pg_control_system")
            && self.tokens.len() == at + 3
            && self.before(self.first_of_chain(at)).is_some_and(|before| before.keyword == Keyword::From)
            && self.tokens.iter().enumerate().all(plain)
    }

    /// `pg_backend_pid()` of which only is looked whether it is another's: whoever reads that does not learn it, or
    /// wants to know of itself. What code does with it is not looked at.
    fn is_compared(&self, at: usize) -> bool {
        let compares =
            |token: Option<&Token>| token.is_some_and(|token| matches!(token.text(self.sql), b"=" | b"<>" | b"!="));
        matches!(self.scope, Scope::Any)
            || compares(self.before(self.first_of_chain(at)))
            || compares(self.tokens.get(at + 3))
    }

    /// `set_config` of a default of transactions, or of whatever an expression says.
    fn setting_effect(&mut self, at: usize) {
        if name::names(self.tokens[at].text(self.sql), b"set_config")
            && self.literal_argument(at).is_none_or(settings::is_transaction_default)
        {
            self.found.effects |= Effects::READ_ONLY_SETTING;
        }
    }

    fn literal_at(&self, at: usize) -> Option<&[u8]> {
        let token = self.tokens.get(at)?;
        (token.kind == Kind::Literal).then(|| settings::literal_value(token.text(self.sql)))
    }

    /// Does the name at `at`, with its qualifiers, stand where a relation can?
    fn is_relation(&self, at: usize) -> bool {
        if self.tokens.get(at + 1).is_some_and(|next| next.kind == Kind::Dot) {
            return false;
        }
        match self.before(self.first_of_chain(at)) {
            Some(before) => matches!(before.kind, Kind::Comma | Kind::LeftParen) || before.keyword.precedes_relation(),
            None => false,
        }
    }

    fn first_of_chain(&self, at: usize) -> usize {
        let mut first = at;
        while first >= 2 && self.tokens[first - 1].kind == Kind::Dot && self.tokens[first - 2].is_name() {
            first -= 2;
        }
        first
    }

    fn relations(&mut self, at: usize, entry: &Entry) {
        if name::names(self.tokens[at].text(self.sql), b"pg_settings") {
            if self.is_harmless_setting_row(at) {
                return;
            }
            // The view has a rule: updating it sets.
            if self.tokens.iter().any(|token| token.keyword == Keyword::Update) {
                self.found.effects |= Effects::STATE | Effects::READ_ONLY_SETTING;
            }
        }
        self.all_visible(at, &entry.relations);
    }

    /// `pg_settings WHERE name = '…'` of one that reads the same everywhere, and nothing else.
    fn is_harmless_setting_row(&self, at: usize) -> bool {
        match &self.tokens[at + 1..] {
            [condition, column, equals, _, rest @ ..] => {
                condition.keyword == Keyword::Where
                    && name::names(column.text(self.sql), b"name")
                    && equals.text(self.sql) == b"="
                    && self.literal_at(at + 4).is_some_and(settings::same_everywhere)
                    && rest.first().is_none_or(|next| next.kind == Kind::RightParen)
            }
            _ => false,
        }
    }

    /// Does the name at `at` stand where a type can? In a query, whose columns and aliases may have its name: in a cast,
    /// before a literal or as a function, and in the list of columns that some functions are given. In code anywhere.
    fn is_type(&self, at: usize) -> bool {
        let first = self.first_of_chain(at);
        let Some(before) = self.before(first).filter(|_| self.text == Text::Query) else { return true };
        let opening = || {
            let mut depth = 0usize;
            (0..first).rev().find(|&at| {
                match self.tokens[at].kind {
                    Kind::RightParen => depth += 1,
                    Kind::LeftParen if depth == 0 => return true,
                    Kind::LeftParen => depth -= 1,
                    _ => {}
                }
                false
            })
        };
        let opens_query = |open: usize| matches!(self.next_keyword(open), Keyword::Select | Keyword::With);
        self.is_before_value(at)
            || before.kind == Kind::Cast
            || before.keyword == Keyword::Returning
            || (before.is_name() && opening().is_some_and(|open| !opens_query(open)))
    }

    /// Is what comes next a value, the name before it being its type, or a function's arguments?
    fn is_before_value(&self, at: usize) -> bool {
        let typed = |kind| matches!(kind, Kind::LeftParen | Kind::Literal | Kind::OtherLiteral | Kind::LeftBracket);
        self.tokens.get(at + 1).is_some_and(|next| typed(next.kind))
    }

    /// Does the name at `at` stand where a type can, and not where a relation or column does?
    fn is_row_type(&self, at: usize) -> bool {
        self.is_before_value(at)
            || self.before(self.first_of_chain(at)).is_some_and(|before| {
                before.kind == Kind::Cast
                    || matches!(before.keyword, Keyword::As | Keyword::Returning)
                    || (before.is_name() && before.keyword == Keyword::None)
            })
    }
}

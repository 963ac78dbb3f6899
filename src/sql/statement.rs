//! One statement by its first keywords: is it a query, and if not, what is it, what does it do to the
//! transaction and what may it leave behind. (PostgreSQL documentation, part VI, "SQL Commands".)

use super::keyword::Keyword;
use super::lexer::{Kind, Lexer, Reading, Token};
use super::names::ANYTHING;
use super::settings;
use super::tokens::after_paren;
use super::{Effects, Reason, TxControl, name};

/// What a statement is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    pub nature: Nature,
    /// [`Reason::Read`] if its form alone is harmless.
    pub reason: Reason,
    pub tx: TxControl,
    pub effects: Effects,
}

/// What the names in a statement mean for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// A query: every name in it counts.
    Query,
    /// It runs on the primary anyhow: names can only add effects.
    Other,
    /// It names no object.
    Bare,
}

impl Statement {
    /// Judges `tokens`, which are one statement without its semicolon and not empty.
    pub fn of(sql: &[u8], tokens: &[Token]) -> Statement {
        let Some((first, rest)) = tokens.split_first() else { return query() };
        match first.keyword {
            _ if starts_query(tokens) => query(),
            Keyword::Explain => explained(sql, rest),
            Keyword::Show => show(sql, rest),
            Keyword::Copy => copy(rest),
            Keyword::Begin | Keyword::Start => begin(rest),
            Keyword::Commit | Keyword::End | Keyword::Rollback | Keyword::Abort => end(rest),
            Keyword::Savepoint | Keyword::Release => bare(Reason::Transaction, TxControl::Inside),
            Keyword::Prepare if second(rest) == Keyword::Transaction => bare(Reason::TwoPhase, TxControl::End),
            Keyword::Set => set(sql, rest),
            Keyword::Reset => reset(sql, rest),
            Keyword::Discard => discard(sql, rest),
            keyword => other(sql, keyword, rest),
        }
    }
}

fn query() -> Statement {
    Statement { nature: Nature::Query, reason: Reason::Read, tx: TxControl::None, effects: Effects::NONE }
}

fn primary(reason: Reason, effects: Effects) -> Statement {
    Statement { nature: Nature::Other, reason, tx: TxControl::None, effects }
}

fn bare(reason: Reason, tx: TxControl) -> Statement {
    Statement { nature: Nature::Bare, reason, tx, effects: Effects::NONE }
}

fn second(rest: &[Token]) -> Keyword {
    rest.first().map_or(Keyword::None, |token| token.keyword)
}

fn has(tokens: &[Token], keyword: Keyword) -> bool {
    tokens.iter().any(|token| token.keyword == keyword)
}

/// `SELECT`, `VALUES`, `TABLE`, `WITH`, behind any number of parentheses.
fn starts_query(tokens: &[Token]) -> bool {
    let inner = tokens.iter().find(|token| token.kind != Kind::LeftParen);
    let is_query = |keyword| matches!(keyword, Keyword::Select | Keyword::Values | Keyword::Table | Keyword::With);
    inner.is_some_and(|token| is_query(token.keyword))
}

/// `EXPLAIN`, whether it runs the statement or not: the planner already calls functions that are IMMUTABLE.
fn explained(sql: &[u8], rest: &[Token]) -> Statement {
    let options = rest.first().is_some_and(|token| token.kind == Kind::LeftParen) && !starts_query(rest);
    let start = if options {
        after_paren(rest, 0).unwrap_or(rest.len())
    } else {
        let is_option = |t: &Token| matches!(t.keyword, Keyword::Analyze | Keyword::Analyse | Keyword::Verbose);
        rest.iter().position(|token| !is_option(token)).unwrap_or(rest.len())
    };
    match &rest[start..] {
        [] => bare(Reason::Malformed, TxControl::None),
        [first, ..] if first.keyword == Keyword::Explain => bare(Reason::Malformed, TxControl::None),
        inner if starts_query(inner) => query(),
        inner => Statement { tx: TxControl::None, nature: Nature::Other, ..Statement::of(sql, inner) },
    }
}

fn show(sql: &[u8], rest: &[Token]) -> Statement {
    let same = match rest {
        [time, zone] if time.keyword == Keyword::Time && zone.keyword == Keyword::Zone => true,
        [session, word] if session.keyword == Keyword::Session => name::names(word.text(sql), b"authorization"),
        _ => settings::dotted(sql, rest).is_some_and(|name| settings::same_everywhere(name.as_bytes())),
    };
    bare(if same { Reason::Read } else { Reason::ServerSetting }, TxControl::None)
}

/// `COPY table [(columns)] TO STDOUT`, `COPY (query) TO STDOUT`; anything else writes or touches the server's
/// files.
fn copy(rest: &[Token]) -> Statement {
    match after_source(rest) {
        Some([to, stdout, ..]) if to.keyword == Keyword::To && stdout.keyword == Keyword::Stdout => query(),
        _ => primary(Reason::Copy, Effects::NONE),
    }
}

/// What follows the table or the query of a `COPY`.
fn after_source(rest: &[Token]) -> Option<&[Token]> {
    let mut at = 0;
    if rest.first()?.kind == Kind::LeftParen {
        return if starts_query(rest) { rest.get(after_paren(rest, 0)?..) } else { None };
    }
    if rest[0].keyword == Keyword::Binary {
        return None;
    }
    while rest.get(at)?.is_name() {
        at += 1;
        if rest.get(at)?.kind != Kind::Dot {
            break;
        }
        at += 1;
    }
    if rest.get(at)?.kind == Kind::LeftParen {
        at = after_paren(rest, at)?;
    }
    rest.get(at..)
}

fn begin(rest: &[Token]) -> Statement {
    if asks_for_primary(rest) {
        return bare(Reason::PrimaryTransaction, TxControl::Begin);
    }
    bare(Reason::Transaction, if has(rest, Keyword::Only) { TxControl::BeginReadOnly } else { TxControl::Begin })
}

/// `READ WRITE`, `ISOLATION LEVEL SERIALIZABLE`, `DEFERRABLE` without `NOT`: refused on a standby.
fn asks_for_primary(modes: &[Token]) -> bool {
    let deferrable =
        |at: usize| modes[at].keyword == Keyword::Deferrable && (at == 0 || modes[at - 1].keyword != Keyword::Not);
    has(modes, Keyword::Write) || has(modes, Keyword::Serializable) || (0..modes.len()).any(deferrable)
}

fn end(rest: &[Token]) -> Statement {
    let chained = |at: usize| rest[at].keyword == Keyword::Chain && (at == 0 || rest[at - 1].keyword != Keyword::No);
    if second(rest) == Keyword::Prepared {
        bare(Reason::TwoPhase, TxControl::None)
    } else if has(rest, Keyword::To) || (0..rest.len()).any(chained) {
        bare(Reason::Transaction, TxControl::Inside)
    } else {
        bare(Reason::Transaction, TxControl::End)
    }
}

fn set(sql: &[u8], rest: &[Token]) -> Statement {
    let scope = second(rest);
    let after = if matches!(scope, Keyword::Local | Keyword::Session) { rest.get(1..).unwrap_or(&[]) } else { rest };
    match second(after) {
        Keyword::Transaction => {
            let reason = if asks_for_primary(after) { Reason::PrimaryTransaction } else { Reason::Transaction };
            bare(reason, TxControl::Inside)
        }
        Keyword::Constraints => bare(Reason::Transaction, TxControl::None),
        Keyword::Characteristics => primary(Reason::SessionState, Effects::STATE | Effects::READ_ONLY_SETTING),
        _ if scope == Keyword::Local && after.first().is_some_and(Token::is_name) => {
            Statement { effects: Effects::LOCAL_SETTING, ..bare(Reason::SessionState, TxControl::None) }
        }
        _ => setting(sql, after, Effects::STATE),
    }
}

fn reset(sql: &[u8], rest: &[Token]) -> Statement {
    match second(rest) {
        Keyword::All => primary(Reason::SessionState, Effects::STATE | Effects::READ_ONLY_SETTING),
        _ => setting(sql, rest, Effects::STATE),
    }
}

/// `DISCARD ALL` drops prepared statements and ends all listening, the others do not.
fn discard(sql: &[u8], rest: &[Token]) -> Statement {
    let discards = reset(sql, rest);
    let all = Effects::STATEMENTS | Effects::CHANNELS;
    Statement { effects: discards.effects | if second(rest) == Keyword::All { all } else { Effects::NONE }, ..discards }
}

fn setting(sql: &[u8], rest: &[Token], effects: Effects) -> Statement {
    let name = rest.first().map(|token| name::spelled(token.text(sql))).unwrap_or_default();
    let default = if settings::is_transaction_default(&name) { Effects::READ_ONLY_SETTING } else { Effects::NONE };
    Statement { effects: effects | default, ..bare(Reason::SessionState, TxControl::None) }
}

/// Statements whose first keyword says enough.
fn other(sql: &[u8], keyword: Keyword, rest: &[Token]) -> Statement {
    use Keyword::*;
    let temporary = has(rest, Temp) || has(rest, Temporary);
    match keyword {
        Insert | Update | Delete | Merge | Truncate => primary(Reason::Write, Effects::NONE),
        Create if temporary => {
            // `ON COMMIT DROP` outlives nothing.
            let pins = if has(rest, Commit) && has(rest, Drop) { Effects::NONE } else { Effects::PINS };
            primary(Reason::Ddl, Effects::MAYBE_DDL | Effects::STATE | pins | executes(rest))
        }
        Create => primary(Reason::Ddl, Effects::DDL | executes(rest)),
        Drop => primary(Reason::Ddl, Effects::DDL | Effects::STATE),
        Alter | Comment | Grant | Revoke | Reindex | Cluster | Refresh | Reassign | Security | Import => {
            primary(Reason::Ddl, Effects::DDL)
        }
        Vacuum | Analyze | Analyse | Checkpoint | Lock => primary(Reason::Maintenance, Effects::NONE),
        Do | Call => {
            let effects = ANYTHING;
            let ddl = if keyword == Do && speaks_of_ddl(sql) { Effects::DDL } else { Effects::NONE };
            let statements = if keyword == Do { spoken_of(sql) } else { Effects::NONE };
            primary(Reason::Procedure, effects | ddl | statements)
        }
        Prepare => primary(Reason::PreparedStatement, Effects::STATE | Effects::PINS | Effects::STATEMENTS),
        Deallocate => primary(Reason::PreparedStatement, Effects::STATE | Effects::STATEMENTS),
        Execute => primary(Reason::PreparedStatement, ANYTHING.without(Effects::HIDDEN) | Effects::STATEMENTS),
        Declare if has(rest, Hold) => primary(Reason::Cursor, Effects::STATE | Effects::PINS),
        Declare | Fetch | Move => primary(Reason::Cursor, Effects::NONE),
        Close => primary(Reason::Cursor, Effects::STATE),
        Listen => primary(Reason::Notification, Effects::STATE | Effects::LISTENS),
        Unlisten => primary(Reason::Notification, Effects::STATE | Effects::CHANNELS),
        Notify => primary(Reason::Notification, Effects::NOTIFIES),
        Load => primary(Reason::ServerControl, Effects::STATE | Effects::STICKY | Effects::PINS),
        _ => primary(Reason::UnknownStatement, Effects::STATE | Effects::MAYBE_DDL),
    }
}

/// Of `CREATE TABLE … AS EXECUTE`.
fn executes(rest: &[Token]) -> Effects {
    let executes = rest.windows(2).any(|pair| (pair[0].keyword, pair[1].keyword) == (Keyword::As, Keyword::Execute));
    if executes { Effects::STATE | Effects::STATEMENTS } else { Effects::NONE }
}

/// Does the text hold a word that starts a change of the catalog? A block of code is a literal, and not read as code.
fn speaks_of_ddl(sql: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] = [b"create", b"alter", b"drop", b"grant"];
    WORDS.iter().any(|word| mentions(sql, word))
}

/// How many statements a text has that are not empty.
pub fn statements(sql: &[u8]) -> u32 {
    // One without anything behind it, mostly.
    let trimmed = sql.trim_ascii_end();
    if memchr::memchr(b';', trimmed.strip_suffix(b";").unwrap_or(trimmed)).is_none() {
        return 1;
    }
    let (count, ambiguous) = statements_by(sql, Reading::USUAL);
    // Where it depends on settings that are not known here, as many as it can be.
    let others = Reading::OTHERS.into_iter().filter(|_| ambiguous).map(|reading| statements_by(sql, reading).0);
    others.fold(count, u32::max).max(1)
}

fn statements_by(sql: &[u8], reading: Reading) -> (u32, bool) {
    let (mut count, mut empty) = (0, true);
    let mut lexer = Lexer::new(sql, reading);
    for token in lexer.by_ref() {
        let ends = token.kind == Kind::Semicolon;
        count += u32::from(empty && !ends);
        empty = ends;
    }
    (count, lexer.ambiguous())
}

/// Does the text hold this word, in any case and anywhere, also within others and in literals?
pub fn mentions(text: &[u8], word: &[u8]) -> bool {
    word.is_empty() || places(text, word).next().is_some()
}

/// Where the text holds this word: see [`mentions`]. An empty one is nowhere.
pub fn places(text: &[u8], word: &[u8]) -> impl Iterator<Item = usize> {
    let first = word.first().copied().unwrap_or_default();
    let found = memchr::memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), text);
    found.filter(move |at| {
        !word.is_empty() && text[*at..].get(..word.len()).is_some_and(|here| here.eq_ignore_ascii_case(word))
    })
}

/// What code does to prepared statements where it speaks of them at all, also in SQL that it makes up.
pub fn spoken_of(code: &[u8]) -> Effects {
    const WORDS: [(&[u8], Effects); 2] = [
        (b"deallocate", Effects::STATEMENTS),
        (b"pg_prepared_statement", Effects::STATEMENTS.with(Effects::SHOWS_STATEMENTS)),
    ];
    let spoken = WORDS.into_iter().filter(|(word, _)| mentions(code, word));
    spoken.fold(Effects::NONE, |effects, (_, more)| effects | more)
}

/// In the body of a function, does a statement that starts with this keyword do more than read? Such keywords
/// have no other meaning at that place in PL/pgSQL.
pub fn acts_in_code(keyword: Keyword) -> Option<Statement> {
    use Keyword::{
        Alter, Analyse, Analyze, Call, Checkpoint, Cluster, Comment, Copy, Create, Deallocate, Discard, Do, Drop,
        Grant, Import, Listen, Load, Lock, Notify, Prepare, Reassign, Refresh, Reindex, Reset, Revoke, Security, Set,
        Truncate, Unlisten, Vacuum,
    };
    let acts = matches!(
        keyword,
        Alter
            | Analyse
            | Analyze
            | Call
            | Checkpoint
            | Cluster
            | Comment
            | Copy
            | Create
            | Deallocate
            | Discard
            | Do
            | Drop
            | Grant
            | Import
            | Listen
            | Load
            | Lock
            | Notify
            | Prepare
            | Reassign
            | Refresh
            | Reindex
            | Reset
            | Revoke
            | Security
            | Set
            | Truncate
            | Unlisten
            | Vacuum
    );
    match keyword {
        Copy => Some(primary(Reason::Copy, Effects::NONE)),
        Set | Reset => Some(primary(Reason::SessionState, Effects::STATE | Effects::READ_ONLY_SETTING)),
        Discard => Some(primary(Reason::SessionState, Effects::STATE | Effects::READ_ONLY_SETTING | Effects::CHANNELS)),
        _ if acts => Some(other(&[], keyword, &[])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{mentions, statements};

    #[test]
    fn a_word_is_mentioned_in_any_case_and_anywhere() {
        for (text, word, found) in [
            (&b"SET lock_Timeout = 0"[..], &b"_timeout"[..], true),
            (b"_timeou _TIMEOUT", b"_timeout", true),
            (b"SELECT '_timeou'", b"_timeout", false),
            (b"", b"set", false),
            (b"se", b"set", false),
            (b"sSeT", b"set", true),
        ] {
            assert_eq!(mentions(text, word), found, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn statements_are_counted_as_postgresql_would_carry_them_out() {
        for (text, count) in [
            ("SELECT 1", 1),
            ("SELECT 1;  \n", 1),
            ("SELECT ';'; -- ;\n SELECT $$;$$ /* ; */;;", 2),
            (";; SELECT 1 ;", 1),
            ("BEGIN; SELECT 1; COMMIT", 3),
            // With standard_conforming_strings off.
            ("SELECT '\\''; SELECT 1; SELECT '\\''", 3),
            // An empty one is answered, too.
            ("", 1),
            (" ; ", 1),
        ] {
            assert_eq!(statements(text.as_bytes()), count, "{text}");
        }
    }
}

//! Reads SQL text far enough to say where it may run.
//!
//! [`Classifier::classify`] takes three steps, each able to say only "primary" where the one before said
//! "read": the lexer and the grammar of first keywords (`lexer`, `statement`), the names that the
//! database's [`Catalog`] has tainted (`names`, `call`), and a parse with `sqlparser` as a second opinion
//! (`veto`), cached by `fingerprint`. A text that was judged a moment ago is not judged again (`recent`). No I/O, nothing
//! asynchronous. Beside that, for tenants whose settings are held: which settings a text says (`settings`), and what it
//! borrows from functions (`borrowing`).
//!
//! Deliberately absent: a grammar of PostgreSQL. What the lexer sees is enough to be sure of a read, and what
//! it isn't sure of goes to the primary.

mod borrowing;
mod call;
mod catalog;
mod classify;
mod code;
mod commands;
mod comment;
mod databases;
mod explain_route;
mod fingerprint;
mod keyword;
mod lexer;
mod name;
mod names;
mod prepared;
mod recent;
mod settings;
mod sources;
mod statement;
mod tokens;
mod undoing;
mod verdict;
mod veto;

pub use borrowing::{Borrowed, Loan, borrows};
pub use catalog::{
    CATALOG_QUERIES, CATALOG_STAMP_QUERY, Catalog, CatalogRows, CatalogRowsError, SYSTEM_RELATIONS, Scope,
};
pub use classify::{Classifier, MAX_TEXT};
pub use commands::{Word, commands, first_word};
pub use comment::{commented, commented_before, first_statement};
pub use databases::databases_named;
pub use explain_route::explained_route;
pub use fingerprint::fingerprint;
pub use prepared::{executed_name, prepared_names};
pub use settings::{SettingNames, custom_settings, renamed, setting_names};
pub use statement::{mentions, statements};
pub use undoing::Undone;
pub use verdict::{Class, Effects, Hint, Reason, TxControl, Verdict, explain};

//! Where literals, comments and statements end: the server's own word against the classifier's. Random texts carry a
//! write that the server either sees, and then fails for want of its table, or takes for a part of something else.

use pgweir::sql::{Catalog, CatalogRows, Class, Classifier, MAX_TEXT, Reason};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::talk::sqlstate;
use crate::support::{connect, fresh_database, shared_cluster};

/// The table that is not there.
const WRITE: &str = "DELETE FROM nowhere";
const TEXTS: usize = 4000;

/// Pieces of which some quote what comes next, or end what was quoted.
fn piece() -> impl Strategy<Value = String> {
    let quotes = prop::sample::select(vec![
        "'", "''", "\"", "\"\"", "$$", "$a$", "$b$", "$a", "E'", "e'", "\\'", "\\\\", "B'", "X'", "N'", "U&'", "U&\"",
        "/*", "*/", "/*/", "--", "\n", "\r", "- -", "/ *", "*", "/", "-", "+", "@", "<", "$1", "$", "_", "a", "é", "1",
        "1e", ".5", "::", ",", "(", ")", " ", "\t", "\u{b}", "SELECT 1", "SELECT", "'x'", "\"x\"", "x", ";", ";",
    ]);
    quotes.prop_map(str::to_owned)
}

fn text() -> impl Strategy<Value = String> {
    let pieces = || prop::collection::vec(piece(), 0..8).prop_map(|pieces| pieces.concat());
    // Where nothing is quoted, the write is a statement of its own.
    (pieces(), pieces()).prop_map(|(before, after)| format!("SELECT 1 {before};{WRITE};{after}"))
}

#[tokio::test]
async fn what_the_server_takes_for_a_statement_the_classifier_sees() {
    let database = fresh_database("").await;
    let client = connect(&shared_cluster().await.primary().url("postgres", &database.name)).await;
    let (classifier, catalog) = (Classifier::new(1 << 20), Catalog::build(1, CatalogRows::default()));
    let mut runner = TestRunner::deterministic();
    let (mut written, mut read, mut lost) = (0, 0, Vec::new());
    for _ in 0..TEXTS {
        let sql = text().new_tree(&mut runner).unwrap().current();
        let verdict = classifier.classify(sql.as_bytes(), &catalog, None);
        match client.simple_query(&sql).await {
            Ok(_) if verdict.class == Class::Read => read += 1,
            // Not known which, or not worth knowing.
            Ok(_) => lost.push(format!("{}: {sql:?}", verdict.reason.label())),
            Err(error) if sqlstate(&error) == "42P01" => {
                written += 1;
                assert_eq!(verdict.class, Class::Primary, "{sql:?}");
            }
            // The text as a whole is refused, on whatever server.
            Err(error) => assert!(
                [
                    "42601", "22P02", "42703", "42883", "42P02", "22025", "42804", "42704", "42725", "22003", "0A000",
                    "42602", "42712", "42702", "22012", "22021"
                ]
                .contains(&sqlstate(&error)),
                "{sql:?}: {}",
                crate::support::chain(&error)
            ),
        }
    }
    assert!(written > 100 && read > 20, "{written} texts wrote, {read} were reads");
    let cautious = |line: &String| {
        [Reason::Malformed, Reason::UnicodeEscape].iter().any(|reason| line.starts_with(reason.label()))
    };
    lost.retain(|line| !cautious(line));
    assert_eq!(lost, Vec::<String>::new(), "reads that were lost, beside {read} that were not");
}

/// Whatever a text is made of, however deep or long, it is judged on a small stack.
#[test]
fn depth_and_length_cost_no_stack() {
    let judge = || {
        let (classifier, catalog) = (Classifier::new(1 << 20), Catalog::build(1, CatalogRows::default()));
        for part in [
            "(",
            "[",
            "((",
            "/*",
            "'",
            "\"",
            "$a$",
            "1+",
            "a.",
            "SELECT (",
            "CASE WHEN ",
            "NOT ",
            "- ",
            "x::",
            "{",
            ";",
        ] {
            for length in [MAX_TEXT - 10, 1 << 20] {
                let sql = format!("SELECT {}", part.repeat(length / part.len() - 8));
                let verdict = classifier.classify(sql.as_bytes(), &catalog, None);
                // What is a mistake is one on every server; what is too long is not looked at.
                assert!(length < MAX_TEXT || verdict.class == Class::Primary, "{part:?} {length}");
            }
        }
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(judge).unwrap().join().unwrap();
}

//! Statements that undo what their transaction has done before them, settings among it: its end, and `ROLLBACK TO`.

use super::keyword::Keyword;
use super::lexer::{Kind, Lexer, Reading};

/// How far statements have gone, one behind the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Undone {
    /// Nothing was undone.
    #[default]
    Nothing,
    /// Something was, and nothing has run since that does more than shape transactions.
    Something,
    /// Something was, and then more was run.
    GoneOn,
}

impl Undone {
    /// With the statements of `sql` behind it, in whatever way PostgreSQL reads them.
    pub fn then(self, sql: &[u8]) -> Self {
        let (usual, ambiguous) = self.then_by(sql, Reading::USUAL);
        let others = Reading::OTHERS.into_iter().filter(|_| ambiguous).map(|reading| self.then_by(sql, reading).0);
        others.fold(usual, Self::max)
    }

    /// Also: would another reading split it differently?
    fn then_by(self, sql: &[u8], reading: Reading) -> (Self, bool) {
        let (mut so_far, mut before) = (self, Place::Start);
        let mut lexer = Lexer::new(sql, reading);
        for token in lexer.by_ref() {
            before = match before {
                _ if token.kind == Kind::Semicolon => {
                    so_far = so_far.behind(before, Keyword::None);
                    Place::Start
                }
                Place::Start => Place::Second(token.keyword),
                Place::Second(_) | Place::Further => {
                    so_far = so_far.behind(before, token.keyword);
                    Place::Further
                }
            };
        }
        (so_far.behind(before, Keyword::None), lexer.ambiguous())
    }

    /// With a statement of which the second word is known now, if it was not before.
    fn behind(self, place: Place, second: Keyword) -> Self {
        match place {
            Place::Second(first) => self.then_one(first, second),
            Place::Start | Place::Further => self,
        }
    }

    fn then_one(self, first: Keyword, second: Keyword) -> Self {
        use Keyword::{Abort, Begin, Commit, End, Prepare, Release, Rollback, Savepoint, Set, Start, Transaction};
        match (first, second) {
            (Commit | End | Rollback | Abort, _) | (Prepare, Transaction) => self.max(Self::Something),
            (Begin | Start | Savepoint | Release, _) | (Set, Transaction) => self,
            _ if self == Self::Nothing => self,
            _ => Self::GoneOn,
        }
    }
}

/// What comes next of a statement.
#[derive(Clone, Copy)]
enum Place {
    Start,
    /// Behind this first word.
    Second(Keyword),
    Further,
}

#[cfg(test)]
mod tests {
    use super::Undone::{self, GoneOn, Nothing, Something};

    #[test]
    fn what_runs_behind_something_undone_is_told() {
        for (sql, then) in [
            ("", Nothing),
            ("SELECT 1; SAVEPOINT a; SELECT 2", Nothing),
            ("BEGIN; RELEASE a; SELECT CASE WHEN true THEN 1 END; PREPARE p AS SELECT 1", Nothing),
            ("SELECT 'ROLLBACK'; SELECT \"rollback\" /* ; ROLLBACK */ -- ; COMMIT", Nothing),
            ("SELECT 1; ROLLBACK TO a", Something),
            ("rollback to a; RELEASE a; ; SAVEPOINT b;", Something),
            ("COMMIT; BEGIN; SET TRANSACTION READ ONLY", Something),
            ("COMMIT AND CHAIN", Something),
            ("PREPARE TRANSACTION 'x'", Something),
            ("ROLLBACK TO a; SELECT 1", GoneOn),
            ("/* x */ END;; SELECT 1; COMMIT", GoneOn),
            ("ABORT; SET work_mem = '5MB'", GoneOn),
            ("PREPARE TRANSACTION 'x'; TABLE rows", GoneOn),
            ("COMMIT; PREPARE p AS SELECT 1", GoneOn),
            // With standard_conforming_strings off.
            ("SELECT '\\'; ROLLBACK TO a; SELECT 1 --'", GoneOn),
            ("SELECT '\\'' ; ROLLBACK; SELECT 1; --'", GoneOn),
        ] {
            assert_eq!(Undone::default().then(sql.as_bytes()), then, "{sql}");
        }
        for (sql, then) in
            [("SAVEPOINT a", Something), ("", Something), ("SELECT 1", GoneOn), ("SET TRANSACTION", Something)]
        {
            assert_eq!(Something.then(sql.as_bytes()), then, "{sql}");
        }
        assert_eq!(GoneOn.then(b"ROLLBACK"), GoneOn);
    }
}

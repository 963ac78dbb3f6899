//! A text without its comments and literals, as 128 bits: statements that differ only in constants share it.
//!
//! Words are folded; literals of one kind count as equal. Two exceptions keep the promise that equal
//! fingerprints mean equal classes: the literal of `current_setting('…')` or of a comparison with a setting's
//! name decides the class, so it is part of the fingerprint, and so is whether a number fits `integer`.

use xxhash_rust::xxh3::{xxh3_128, xxh3_128_with_seed};

use super::classify::MAX_TEXT;
use super::lexer::{Kind, Reading};
use super::name;
use super::tokens::Tokens;

/// The fingerprint of `sql`, for caches and for remembering single statements.
pub fn fingerprint(sql: &[u8]) -> u128 {
    of_tokens(sql, &Tokens::read(sql, Reading::USUAL))
}

/// The key of a text whose literals end elsewhere under other settings, or that is too long: itself.
fn of_whole(sql: &[u8]) -> u128 {
    xxh3_128_with_seed(sql, u64::MAX)
}

/// The fingerprint of a text that has already been split.
pub(super) fn of_tokens(sql: &[u8], tokens: &Tokens) -> u128 {
    if tokens.ambiguous || sql.len() > MAX_TEXT {
        return of_whole(sql);
    }
    let settings = tokens.iter().any(|token| token.is_name() && reads_setting(token.text(sql)));
    let mut hasher = Hasher { buffer: [0; BUFFER + 8], length: 0, before: 0 };
    for token in tokens.iter() {
        hasher.push_eight(token.kind as u64, 1);
        let text = token.text(sql);
        match token.kind {
            Kind::Word => hasher.push_folded(text),
            Kind::Literal if settings => hasher.push(text),
            Kind::Quoted | Kind::Operator | Kind::Colon | Kind::Param | Kind::UnicodeEscape | Kind::Malformed => {
                hasher.push(text)
            }
            _ => {}
        }
    }
    hasher.finish()
}

fn reads_setting(text: &[u8]) -> bool {
    if !(b"set_config".len()..=b"\"current_setting\"".len()).contains(&text.len()) {
        return false;
    }
    name::names(text, b"current_setting") || name::names(text, b"pg_settings") || name::names(text, b"set_config")
}

const BUFFER: usize = 512;

/// Hashes in runs of the buffer's size, each together with the hash of what came before. Bytes go in eight at a
/// time, so the buffer has room for seven more.
struct Hasher {
    buffer: [u8; BUFFER + 8],
    length: usize,
    before: u128,
}

impl Hasher {
    fn push(&mut self, bytes: &[u8]) {
        bytes.chunks(8).for_each(|chunk| self.push_eight(name::load(chunk), chunk.len()));
    }

    fn push_folded(&mut self, word: &[u8]) {
        word.chunks(8).for_each(|chunk| self.push_eight(name::lower(name::load(chunk)), chunk.len()));
    }

    /// Adds the first `length` bytes of `value`.
    fn push_eight(&mut self, value: u64, length: usize) {
        if self.length + length > BUFFER {
            self.before = self.run();
            self.length = 0;
        }
        self.buffer[self.length..self.length + 8].copy_from_slice(&value.to_le_bytes());
        self.length += length;
    }

    fn run(&self) -> u128 {
        let run = &self.buffer[..self.length];
        if self.before == 0 {
            return xxh3_128(run);
        }
        let seeded = xxh3_128_with_seed(run, self.before as u64);
        seeded ^ self.before.rotate_left(64)
    }

    fn finish(&self) -> u128 {
        self.run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn constants_comments_and_case_do_not_count() {
        let one = fingerprint(b"SELECT * FROM users WHERE id = 1 AND name = 'x'");
        assert_eq!(fingerprint(b"select  * from USERS where id=2 -- c\n and name='y'"), one);
        assert_eq!(fingerprint(b"/* pgweir: primary */ SELECT * FROM users WHERE id = 1 AND name = 'x'"), one);
        assert_ne!(fingerprint(b"SELECT * FROM \"USERS\" WHERE id = 1 AND name = 'x'"), one);
        assert_ne!(fingerprint(b"SELECT * FROM users WHERE id = 1.5 AND name = 'x'"), one);
    }

    #[test]
    fn a_literal_that_decides_counts() {
        assert_ne!(fingerprint(b"SELECT current_setting('port')"), fingerprint(b"SELECT current_setting('role')"));
    }

    #[test]
    fn words_do_not_run_together() {
        assert_ne!(fingerprint(b"SELECT ab c"), fingerprint(b"SELECT a bc"));
    }

    proptest! {
        #[test]
        fn long_texts_differ_wherever_they_differ(at in 0usize..400) {
            let mut words: Vec<String> = (0..400).map(|n| format!("c{n}")).collect();
            let before = fingerprint(words.join(", ").as_bytes());
            words[at].push('x');
            prop_assert_ne!(fingerprint(words.join(", ").as_bytes()), before);
        }
    }
}

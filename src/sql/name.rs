//! Names as PostgreSQL sees them: unquoted ones folded to lower case (ASCII only, as for UTF-8 databases),
//! quoted ones unescaped, both cut at 63 bytes. And a table keyed by such names.
//!
//! The hash reads eight bytes at a time and is not meant to resist an attacker: tables are filled from a
//! database's own catalog, never from what clients send.

/// PostgreSQL's longest identifier in bytes (`NAMEDATALEN - 1`).
pub const MAX_NAME: usize = 63;

/// The hash of an unquoted identifier's name.
pub fn hash_word(text: &[u8]) -> u32 {
    hash(truncate(text), true)
}

/// The hash of the name in `"…"`, quotes included in `text`; `None` for the empty name, which is an error.
pub fn hash_quoted(text: &[u8]) -> Option<u32> {
    let inner = &text[1..text.len() - 1];
    if inner.is_empty() {
        return None;
    }
    if !inner.contains(&b'"') {
        return Some(hash(truncate(inner), false));
    }
    let mut buffer = [0; MAX_NAME + 1];
    let mut length = 0;
    for byte in unescaped(inner).take(buffer.len()) {
        buffer[length] = byte;
        length += 1;
    }
    Some(hash(truncate(&buffer[..length]), false))
}

/// The hash of a name as the catalog spells it.
pub fn hash_name(name: &[u8]) -> u32 {
    hash(truncate(name), false)
}

/// Does the token `text` (a word, or `"…"` with its quotes) name `name`?
pub fn names(text: &[u8], name: &[u8]) -> bool {
    match text {
        [b'"', inner @ .., b'"'] if inner.contains(&b'"') => {
            let whole: Vec<u8> = unescaped(inner).collect();
            truncate(&whole) == name
        }
        [b'"', inner @ .., b'"'] => truncate(inner) == name,
        word => truncate(word).eq_ignore_ascii_case(name) && !name.iter().any(u8::is_ascii_uppercase),
    }
}

/// The name that the token `text` spells.
pub fn spelled(text: &[u8]) -> Vec<u8> {
    match text {
        [b'"', inner @ .., b'"'] => truncate(&unescaped(inner).collect::<Vec<u8>>()).to_vec(),
        word => truncate(word).to_ascii_lowercase(),
    }
}

fn unescaped(inner: &[u8]) -> impl Iterator<Item = u8> {
    let mut skip = false;
    inner.iter().copied().filter(move |&byte| {
        skip = byte == b'"' && !skip;
        byte != b'"' || !skip
    })
}

/// Cuts at 63 bytes, not inside a UTF-8 character.
fn truncate(text: &[u8]) -> &[u8] {
    if text.len() <= MAX_NAME {
        return text;
    }
    let mut end = MAX_NAME;
    while end > 0 && text[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    &text[..end]
}

/// The first eight bytes of a word as a number, lower-cased, zeroes behind a shorter one.
pub fn first_bytes(word: &[u8]) -> u64 {
    lower(load(&word[..word.len().min(8)]))
}

#[inline]
fn hash(text: &[u8], fold: bool) -> u32 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = text.len() as u64;
    for chunk in text.chunks(8) {
        let value = if fold { lower(load(chunk)) } else { load(chunk) };
        hash = (hash.rotate_left(5) ^ value).wrapping_mul(MIX);
    }
    (hash >> 32) as u32
}

/// Up to eight bytes as a number, by at most three reads.
#[inline]
pub fn load(chunk: &[u8]) -> u64 {
    let read = |at: usize| {
        chunk.get(at..at + 4).map_or(0, |four| u64::from(u32::from_le_bytes(four.try_into().unwrap_or_default())))
    };
    match chunk.len() {
        0 => 0,
        1..=3 => {
            let (first, middle, last) = (chunk[0], chunk[chunk.len() / 2], chunk[chunk.len() - 1]);
            u64::from(first) | u64::from(middle) << (8 * (chunk.len() / 2)) | u64::from(last) << (8 * (chunk.len() - 1))
        }
        length => read(0) | read(length - 4) << (8 * (length - 4)),
    }
}

/// Lower-cases the ASCII letters among eight bytes at once.
#[inline]
pub fn lower(bytes: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let low = bytes & (0x7f * ONES);
    let above_z = low + (0x7f - b'Z' as u64) * ONES;
    let from_a = low + (0x80 - b'A' as u64) * ONES;
    let upper = (from_a ^ above_z) & !bytes & (0x80 * ONES);
    bytes | (upper >> 2)
}

/// A map from names to values, looked up by a token's hash and text without building the name.
#[derive(Clone, Debug)]
pub struct NameTable<V> {
    slots: Vec<(u32, u32)>,
    entries: Vec<(Box<[u8]>, V)>,
}

const FREE: u32 = u32::MAX;

impl<V> Default for NameTable<V> {
    fn default() -> Self {
        NameTable { slots: vec![(0, FREE); 16], entries: Vec::new() }
    }
}

impl<V: Default> NameTable<V> {
    /// The value of `name`, made if it is not there.
    pub fn entry(&mut self, name: &[u8]) -> &mut V {
        let name = truncate(name);
        let hash = hash(name, false);
        let found = self.find(hash, |key| key == name);
        let index = found.unwrap_or_else(|| self.insert(hash, name));
        &mut self.entries[index].1
    }

    fn insert(&mut self, hash: u32, name: &[u8]) -> usize {
        self.entries.push((name.into(), V::default()));
        if self.entries.len() * 2 > self.slots.len() {
            let size = self.slots.len() * 4;
            let old = std::mem::replace(&mut self.slots, vec![(0, FREE); size]);
            for (hash, index) in old.into_iter().filter(|slot| slot.1 != FREE) {
                self.place(hash, index);
            }
        }
        let index = self.entries.len() - 1;
        self.place(hash, index as u32);
        index
    }

    fn place(&mut self, hash: u32, index: u32) {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at].1 != FREE {
            at = (at + 1) & mask;
        }
        self.slots[at] = (hash, index);
    }
}

impl<V> NameTable<V> {
    /// The value of the name that a token spells: its [`hash_word`] or [`hash_quoted`], and its text.
    pub fn get(&self, hash: u32, text: &[u8]) -> Option<&V> {
        self.find(hash, |key| names(text, key)).map(|index| &self.entries[index].1)
    }

    /// The value of a name as the catalog spells it.
    pub fn get_name(&self, name: &[u8]) -> Option<&V> {
        self.find(hash_name(name), |key| key == truncate(name)).map(|index| &self.entries[index].1)
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All names and their values, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.entries.iter().map(|(name, value)| (&**name, value))
    }

    fn find(&self, hash: u32, same: impl Fn(&[u8]) -> bool) -> Option<usize> {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            let (slot, index) = self.slots[at];
            if index == FREE {
                return None;
            }
            if slot == hash && same(&self.entries[index as usize].0) {
                return Some(index as usize);
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_name_has_one_hash_however_it_is_written() {
        let name = hash_name(b"nextval");
        assert_eq!(hash_word(b"NextVal"), name);
        assert_eq!(hash_quoted(b"\"nextval\""), Some(name));
        assert_ne!(hash_quoted(b"\"NextVal\""), Some(name));
        assert_eq!(hash_quoted(b"\"a\"\"b\""), Some(hash_name(b"a\"b")));
        assert!(names(b"\"a\"\"b\"", b"a\"b"));
        assert!(!names(b"insert", b"Insert"));
        assert!(names(b"\"Insert\"", b"Insert"));
    }

    #[test]
    fn a_long_identifier_means_the_name_it_is_cut_to() {
        let long = [b'x'; 80];
        assert_eq!(hash_word(&long), hash_name(&long[..63]));
        assert!(names(&long, &long[..63]));
        let accented = format!("{}é", "x".repeat(62));
        assert!(names(accented.as_bytes(), "x".repeat(62).as_bytes()));
    }

    proptest! {
        #[test]
        fn a_number_has_the_bytes_of_its_chunk(chunk in proptest::collection::vec(any::<u8>(), 0..9)) {
            prop_assert_eq!(&load(&chunk).to_le_bytes()[..chunk.len()], &chunk[..]);
            prop_assert!(load(&chunk).to_le_bytes()[chunk.len()..].iter().all(|byte| *byte == 0));
        }

        #[test]
        fn a_table_finds_what_was_put_in(names in proptest::collection::hash_set("[a-z_]{1,20}", 0..200)) {
            let mut table = NameTable::<usize>::default();
            for (at, name) in names.iter().enumerate() {
                *table.entry(name.as_bytes()) = at;
            }
            for (at, name) in names.iter().enumerate() {
                let written = name.to_uppercase();
                prop_assert_eq!(table.get(hash_word(written.as_bytes()), written.as_bytes()), Some(&at));
            }
            prop_assert_eq!(table.get_name(b"0"), None);
        }
    }
}

//! The classifier: no text panics or overflows the stack, a cached verdict is the same as a fresh one,
//! and a write behind a read is never taken for a part of it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pgweir::sql::{Catalog, CatalogRows, Class, Classifier, explain, fingerprint, setting_names};

/// Bytes of cached verdicts.
const CACHE: usize = 1 << 20;

fuzz_target!(|text: &[u8]| {
    static CLASSIFIER: LazyLock<Classifier> = LazyLock::new(|| Classifier::new(CACHE));
    static CATALOG: LazyLock<Catalog> = LazyLock::new(|| Catalog::build(1, CatalogRows::default()));
    let verdict = CLASSIFIER.classify(text, &CATALOG, None);
    assert_eq!(Classifier::new(CACHE).classify(text, &CATALOG, None), verdict, "fresh and cached");
    assert!(!explain(verdict).is_empty());
    fingerprint(text);
    setting_names(text);
    if verdict.class == Class::Read {
        let write_behind = [text, b"\n;DELETE FROM t"].concat();
        assert_eq!(CLASSIFIER.classify(&write_behind, &CATALOG, None).class, Class::Primary);
    }
});

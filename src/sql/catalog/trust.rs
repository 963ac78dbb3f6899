//! Which functions written in C may be taken at their word.
//!
//! The code of a C function can't be read, but an extension's author marks volatility with care, and creating
//! one takes a superuser or a trusted extension. IMMUTABLE functions of any extension are taken for harmless.
//! STABLE ones only from extensions that were looked at, since C code can run SQL it is handed as text
//! (`crosstab`, `xpath_table`). VOLATILE ones only by name. Everything else counts as writing.

/// Extensions whose STABLE functions read at most tables or settings.
const STABLE: &[&str] = &[
    "btree_gin",
    "btree_gist",
    "citext",
    "cube",
    "earthdistance",
    "fuzzystrmatch",
    "hstore",
    "intarray",
    "isn",
    "ltree",
    "pg_trgm",
    "pgcrypto",
    "postgis",
    "postgis_raster",
    "seg",
    "unaccent",
    "uuid-ossp",
    "vector",
];

/// Extensions all of whose functions only compute; `pgcrypto` leaves most of its own at the default, VOLATILE.
const PURE: &[&str] = &["hstore", "pgcrypto", "uuid-ossp"];

/// Single VOLATILE functions.
const VOLATILE: &[(&str, &str)] = &[("tablefunc", "normal_rand")];

/// Is the C function `name` of `extension` harmless? `volatility` is `pg_proc.provolatile`.
pub(super) fn is_harmless(extension: &str, name: &str, volatility: char) -> bool {
    match volatility {
        'i' => true,
        's' => STABLE.contains(&extension),
        _ => PURE.contains(&extension) || VOLATILE.contains(&(extension, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_that_run_text_or_set_state_are_not_trusted() {
        assert!(!is_harmless("tablefunc", "crosstab", 's'));
        assert!(!is_harmless("pg_trgm", "set_limit", 'v'));
        assert!(!is_harmless("dblink", "dblink", 'v'));
        assert!(is_harmless("pg_trgm", "similarity_op", 's'));
        assert!(is_harmless("anything", "f", 'i'));
    }
}

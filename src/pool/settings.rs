//! From the settings that a server session has to those that a client's session wants: by
//! difference, as one statement string.

use super::conn::Settings;

/// The statements that turn `have` into `want`; `None` when they are the same.
///
/// `set_config` takes values as `pg_settings` shows them, also lists such as `search_path`, where
/// `SET` would need them split and quoted (PostgreSQL, "Configuration Settings Functions").
///
/// A role (`SET ROLE`) may not be allowed to make the other settings, or see what they name: it is laid down first and
/// taken up last.
pub fn difference(have: &Settings, want: &Settings) -> Option<String> {
    if have == want {
        return None;
    }
    // A custom setting that was once made is there for good, and is empty where it is not set.
    let made = have.iter().filter(|(name, value)| !(value.is_empty() && name.contains('.')));
    let mut sql = String::new();
    if have.contains_key(ROLE) {
        sql += "RESET ROLE;";
    }
    for (name, _) in made.filter(|(name, _)| *name != ROLE && !want.contains_key(*name)) {
        sql += &format!("RESET {};", identifier(name));
    }
    let changed = want.iter().filter(|(name, value)| *name != ROLE && have.get(*name) != Some(value));
    let role = want.get_key_value(ROLE);
    for (index, (name, value)) in changed.chain(role).enumerate() {
        sql += if index == 0 { "SELECT " } else { "," };
        sql += &format!("pg_catalog.set_config({},{},false)", literal(name), literal(value));
    }
    (!sql.is_empty()).then_some(sql)
}

/// The setting that `SET ROLE` makes.
const ROLE: &str = "role";

/// `text` as a string constant that means the same under any `standard_conforming_strings`.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name as a quoted identifier.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A setting's name, quoted part by part (`app.tenant` is two).
fn identifier(name: &str) -> String {
    name.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn only_the_difference_is_applied() {
        let have = settings(&[("datestyle", "ISO, MDY"), ("app.tenant", "a"), ("timezone", "UTC")]);
        let want = settings(&[("datestyle", "ISO, MDY"), ("timezone", "Europe/Berlin"), ("work_mem", "4096")]);
        assert_eq!(
            difference(&have, &want).as_deref(),
            Some(
                "RESET \"app\".\"tenant\";SELECT pg_catalog.set_config(E'timezone',E'Europe/Berlin',false)\
                 ,pg_catalog.set_config(E'work_mem',E'4096',false)"
            )
        );
        assert_eq!(difference(&want, &want), None);
        let (empty, none) = (settings(&[("app.tenant", "")]), settings(&[]));
        assert_eq!(difference(&empty, &none), None);
        assert!(difference(&none, &empty).is_some_and(|sql| sql.contains("E'app.tenant',E''")));
    }

    #[test]
    fn a_role_is_laid_down_first_and_taken_up_last() {
        let have = settings(&[("role", "one"), ("work_mem", "4096")]);
        let want = settings(&[("role", "two"), ("search_path", "s"), ("zero_damaged_pages", "on")]);
        assert_eq!(
            difference(&have, &want).as_deref(),
            Some(
                "RESET ROLE;RESET \"work_mem\";SELECT pg_catalog.set_config(E'search_path',E's',false)\
                 ,pg_catalog.set_config(E'zero_damaged_pages',E'on',false),pg_catalog.set_config(E'role',E'two',false)"
            )
        );
        assert_eq!(difference(&have, &settings(&[])).as_deref(), Some("RESET ROLE;RESET \"work_mem\";"));
        assert_eq!(difference(&want, &want), None);
    }

    #[test]
    fn literals_cannot_be_escaped_from() {
        assert_eq!(literal(r"a'b\'c"), r"E'a''b\\''c'");
    }
}

//! The startup parameter `options`: a server command line, as `PGOPTIONS` carries it
//! (PostgreSQL, "Options" of libpq's connection parameters and of the `postgres` command).

use super::error::PgError;

/// Splits a command line into words as PostgreSQL's `pg_split_opts` does: at white space, with a
/// backslash taking the next character for itself. There are no quotes.
pub fn parse_options(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut escaped = false;
    for character in text.chars() {
        if is_space(character) && !escaped {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        if character == '\\' && !escaped {
            escaped = true;
        } else {
            escaped = false;
            word.push(character);
        }
    }
    words.extend(word);
    words
}

/// The settings that a command line makes, in order: `-c name=value`, `--name=value` and the
/// letters that stand for a setting, read as PostgreSQL's `process_postgres_switches` reads them.
///
/// Errors, both fatal: 42601 for what PostgreSQL itself can't read, 0A000 for a switch that only
/// the start of a server may set.
pub fn settings(words: &[String]) -> Result<Vec<(String, String)>, PgError> {
    let mut settings = Vec::new();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut letters = match word.strip_prefix('-') {
            Some(letters) if !letters.is_empty() && word != "--" => letters,
            _ => return Err(invalid(word)),
        };
        while let Some(letter) = letters.chars().next() {
            letters = &letters[letter.len_utf8()..];
            let argument = if "BcCDdfhkNprStvW-".contains(letter) {
                let attached = std::mem::take(&mut letters);
                let argument = if attached.is_empty() { words.next() } else { Some(attached) };
                argument.ok_or_else(|| invalid(word))?
            } else {
                ""
            };
            settings.extend(switch(letter, argument, word)?);
        }
    }
    Ok(settings)
}

/// One switch. `None` for those that PostgreSQL accepts and ignores.
fn switch(letter: char, argument: &str, word: &str) -> Result<Option<(String, String)>, PgError> {
    let setting = |name: &str, value: &str| Ok(Some((name.to_owned(), value.to_owned())));
    match letter {
        'c' | '-' => assignment(letter, argument).map(Some),
        'e' => setting("datestyle", "euro"),
        'f' => setting(plan_method(argument).ok_or_else(|| invalid(word))?, "off"),
        'O' => setting("allow_system_table_mods", "on"),
        'P' => setting("ignore_system_indexes", "on"),
        'S' => setting("work_mem", argument),
        's' => setting("log_statement_stats", "on"),
        't' => setting(stage_statistics(argument).ok_or_else(|| invalid(word))?, "on"),
        'W' => setting("post_auth_delay", argument),
        'C' | 'n' | 'T' => Ok(None),
        'b' | 'B' | 'd' | 'D' | 'E' | 'F' | 'h' | 'i' | 'j' | 'k' | 'l' | 'N' | 'p' | 'r' | 'v' => Err(PgError::fatal(
            "0A000",
            format!("the switch -{letter} in the startup parameter \"options\" is not supported"),
        )
        .hint("Give settings as -c name=value.")),
        _ => Err(invalid(word)),
    }
}

/// `name=value`; PostgreSQL writes the dashes of the name as underscores.
fn assignment(letter: char, argument: &str) -> Result<(String, String), PgError> {
    match argument.split_once('=') {
        Some((name, value)) => Ok((name.replace('-', "_"), value.to_owned())),
        None if letter == '-' => Err(PgError::fatal("42601", format!("--{argument} requires a value"))),
        None => Err(PgError::fatal("42601", format!("-c {argument} requires a value"))),
    }
}

/// `-f`: the plan method that is switched off.
fn plan_method(letter: &str) -> Option<&'static str> {
    Some(match letter {
        "s" => "enable_seqscan",
        "i" => "enable_indexscan",
        "o" => "enable_indexonlyscan",
        "b" => "enable_bitmapscan",
        "t" => "enable_tidscan",
        "n" => "enable_nestloop",
        "m" => "enable_mergejoin",
        "h" => "enable_hashjoin",
        _ => return None,
    })
}

/// `-t`: the stage whose statistics are logged. PostgreSQL looks at the first two letters at most.
fn stage_statistics(stage: &str) -> Option<&'static str> {
    match stage.as_bytes() {
        [b'p', b'a', ..] => Some("log_parser_stats"),
        [b'p', b'l', ..] => Some("log_planner_stats"),
        [b'e', ..] => Some("log_executor_stats"),
        _ => None,
    }
}

/// What C's `isspace` holds for white space.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

fn invalid(word: &str) -> PgError {
    PgError::fatal("42601", format!("invalid command-line argument for server process: {word}"))
        .hint("Give settings as -c name=value or --name=value.")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, PgError> {
        settings(&parse_options(text))
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn words_split_at_spaces_that_no_backslash_protects() {
        assert_eq!(parse_options(r"  -c a=b\ c   -cx=\\y\z "), ["-c", "a=b c", r"-cx=\yz"]);
        assert_eq!(parse_options(r"a\"), ["a"]);
        assert_eq!(parse_options(""), Vec::<String>::new());
    }

    #[test]
    fn settings_in_all_their_spellings() {
        let text = "-c search_path=a,b -cwork_mem=1MB --statement-timeout=5s -S 64 -es -fh -tpl -n -c x=";
        let expected = [
            ("search_path", "a,b"),
            ("work_mem", "1MB"),
            ("statement_timeout", "5s"),
            ("work_mem", "64"),
            ("datestyle", "euro"),
            ("log_statement_stats", "on"),
            ("enable_hashjoin", "off"),
            ("log_planner_stats", "on"),
            ("x", ""),
        ];
        assert_eq!(read(text).unwrap(), pairs(&expected));
    }

    #[test]
    fn what_postgres_cannot_read_is_a_syntax_error() {
        for text in ["word", "-", "--", "-z", "-c", "-c a", "--a", "-f x", "-t q"] {
            assert_eq!(read(text).unwrap_err().code, "42601", "{text}");
        }
    }

    #[test]
    fn switches_of_the_server_start_are_refused() {
        for text in ["-F", "-p 1", "-N5", "-d 3"] {
            assert_eq!(read(text).unwrap_err().code, "0A000", "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _ = read(&text);
        }

        #[test]
        fn an_escaped_value_comes_back(value in any::<String>()) {
            let escaped: String = value.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert_eq!(read(&format!("-c a={escaped}")).unwrap(), pairs(&[("a", &value)]));
        }
    }
}

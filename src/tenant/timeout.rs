//! A tenant's ceiling on `statement_timeout`, and the values that clients ask for.

use std::time::Duration;

/// What `statement_timeout` becomes, in milliseconds: at most the ceiling, and the ceiling for 0 (which
/// means no timeout to PostgreSQL). Without a ceiling, what was asked for.
pub fn clamp(ceiling: Option<Duration>, requested_ms: u64) -> u64 {
    let Some(ceiling) = ceiling else { return requested_ms };
    let ceiling = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
    if requested_ms == 0 { ceiling } else { requested_ms.min(ceiling) }
}

/// Reads the value of a setting whose unit is the millisecond, as PostgreSQL does (chapter "Parameter
/// Names and Values"; `parse_int` in its `guc.c`): `0`, `15000`, `15s`, `1.5 min`, `0x10`, with or
/// without the quotes of an SQL literal around it.
///
/// `None` for what PostgreSQL rejects as no integer of 32 bits. Negative values are returned: they
/// are well-formed, and refused by the setting's own range. Nothing that PostgreSQL accepts is `None`,
/// or a client could lift its ceiling by an odd spelling.
pub fn parse_guc_milliseconds(text: &str) -> Option<i64> {
    let text = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')).unwrap_or(text);
    let (number, rest) = number(text)?;
    let unit = rest.trim_matches(is_space);
    let milliseconds = if unit.is_empty() { number } else { in_milliseconds(number, unit)? };
    let rounded = milliseconds.round_ties_even();
    (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&rounded).then_some(rounded as i64)
}

/// PostgreSQL's time units (case matters), largest first, in milliseconds.
const UNITS: [(&str, f64); 6] =
    [("d", 86_400_000.0), ("h", 3_600_000.0), ("min", 60_000.0), ("s", 1_000.0), ("ms", 1.0), ("us", 0.001)];

fn in_milliseconds(number: f64, unit: &str) -> Option<f64> {
    let at = UNITS.iter().position(|(name, _)| *name == unit)?;
    let value = number * UNITS[at].1;
    // A fraction is rounded to the next smaller unit: 1.2345min is 74s.
    Some(match UNITS.get(at + 1) {
        Some((_, smaller)) => (value / smaller).round_ties_even() * smaller,
        None => value,
    })
}

/// C's `strtol` with base 0, then `strtod` where a point or an exponent follows or the integer is too large.
fn number(text: &str) -> Option<(f64, &str)> {
    let spaced = text.trim_start_matches(is_space);
    let (sign, unsigned) = match spaced.as_bytes().first() {
        Some(b'-') => (-1.0, &spaced[1..]),
        Some(b'+') => (1.0, &spaced[1..]),
        _ => (1.0, spaced),
    };
    // Without a digit strtol goes back to the start, so a point counts only there: `.5` but not ` .5` or `+.5`.
    if unsigned.starts_with('.') && unsigned.len() < text.len() {
        return None;
    }
    let hexadecimal = unsigned
        .strip_prefix("0x")
        .or_else(|| unsigned.strip_prefix("0X"))
        .filter(|digits| digits.starts_with(|c: char| c.is_ascii_hexdigit()));
    let (value, rest) = match hexadecimal {
        Some(digits) => hexadecimal_number(digits)?,
        None => decimal_number(unsigned)?,
    };
    Some((sign * value, rest))
}

fn decimal_number(text: &str) -> Option<(f64, &str)> {
    // A leading 0 makes it octal, and the first other digit ends it.
    let octal = text.starts_with('0');
    let digits = text.find(|c: char| !c.is_digit(if octal { 8 } else { 10 })).unwrap_or(text.len());
    let integer = i64::from_str_radix(&text[..digits], if octal { 8 } else { 10 });
    let goes_on = text[digits..].starts_with(['.', 'e', 'E']);
    match integer {
        Ok(integer) if !goes_on => Some((integer as f64, &text[digits..])),
        Err(_) if digits == 0 && !goes_on => None,
        _ => {
            let end = float_length(text)?;
            let value: f64 = text[..end].parse().ok()?;
            // strtod reports what is too small for a double as it does what is too large.
            let mantissa = text[..end].split(['e', 'E']).next()?;
            let is_zero = !mantissa.contains(|c: char| matches!(c, '1'..='9'));
            (is_zero || value.is_normal()).then_some((value, &text[end..]))
        }
    }
}

/// The bytes of the longest decimal floating-point number at the start.
fn float_length(text: &str) -> Option<usize> {
    let run = |from: usize| text[from..].bytes().take_while(u8::is_ascii_digit).count();
    let whole = run(0);
    let mut end = whole;
    if text[end..].starts_with('.') {
        let fraction = run(end + 1);
        if whole + fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    }
    if end == 0 {
        return None;
    }
    if text[end..].starts_with(['e', 'E']) {
        let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
        let exponent = run(end + 1 + sign);
        if exponent > 0 {
            end += 1 + sign + exponent;
        }
    }
    Some(end)
}

/// The digits after `0x`, with the fraction and binary exponent that `strtod` takes after a point.
fn hexadecimal_number(text: &str) -> Option<(f64, &str)> {
    let run = |text: &str| text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    let value =
        |digits: &str| digits.chars().filter_map(|c| c.to_digit(16)).fold(0.0, |sum, d| sum * 16.0 + f64::from(d));
    let whole = run(text);
    let integer = value(&text[..whole]);
    let Some(after_point) = text[whole..].strip_prefix('.') else {
        return Some((integer, &text[whole..]));
    };
    let fraction = run(after_point);
    let mantissa = integer + value(&after_point[..fraction]) / 16f64.powi(i32::try_from(fraction).ok()?);
    let rest = &after_point[fraction..];
    match rest.strip_prefix(['p', 'P']).and_then(binary_exponent) {
        Some((exponent, rest)) => {
            let value = mantissa * 2f64.powi(exponent);
            value.is_finite().then_some((value, rest))
        }
        None => Some((mantissa, rest)),
    }
}

fn binary_exponent(text: &str) -> Option<(i32, &str)> {
    let sign = usize::from(text.starts_with(['+', '-']));
    let end = sign + text[sign..].bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// C's `isspace`.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_that_is_asked_for_lifts_the_ceiling() {
        let ceiling = Some(Duration::from_secs(15));
        let cases = [(0, 15_000), (1, 1), (14_999, 14_999), (15_000, 15_000), (15_001, 15_000), (u64::MAX, 15_000)];
        for (requested, expected) in cases {
            assert_eq!(clamp(ceiling, requested), expected, "{requested}");
            assert_eq!(clamp(None, requested), requested);
        }
    }

    /// Each was tried with `SET statement_timeout` on PostgreSQL 15.
    #[test]
    fn values_are_read_as_postgresql_reads_them() {
        let cases = [
            ("0", Some(0)),
            ("15000", Some(15_000)),
            ("15s", Some(15_000)),
            ("1min", Some(60_000)),
            ("'2 h'", Some(7_200_000)),
            (" 2  h ", Some(7_200_000)),
            ("1d", Some(86_400_000)),
            ("25d", None),
            ("500us", Some(0)),
            ("1500us", Some(2)),
            ("1501us", Some(2)),
            ("1.5s", Some(1_500)),
            ("1.2345min", Some(74_000)),
            (".5s", Some(500)),
            (" .5s", None),
            ("+.5s", None),
            ("0.0e-999", Some(0)),
            ("1e-999", None),
            ("1.s", Some(1_000)),
            ("1e3", Some(1_000)),
            ("1e3ms", Some(1_000)),
            ("1E1s", Some(10_000)),
            ("0x10", Some(16)),
            ("0x1es", Some(30_000)),
            ("0x1.8s", Some(1_500)),
            ("0x1.8p1s", Some(3_000)),
            ("0x1p1", None),
            ("0x", None),
            ("010", Some(8)),
            ("010.5", Some(10)),
            ("08", None),
            ("+5", Some(5)),
            ("-1", Some(-1)),
            ("2147483647", Some(2_147_483_647)),
            ("2147483648", None),
            ("99999999999999999999", None),
            ("1e400", None),
            ("", None),
            ("s", None),
            (".", None),
            ("e5", None),
            ("1e", None),
            ("5 S", None),
            ("5m", None),
            ("5 s s", None),
            ("5 minutes", None),
            ("inf", None),
            ("nan", None),
            ("- 5", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_guc_milliseconds(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ '+-]?(0x)?[0-9a-f.épE+-]{0,12} ?[a-z]{0,3}'?") {
            let _ = parse_guc_milliseconds(&text);
        }

        #[test]
        fn whole_milliseconds_are_themselves(milliseconds in 0i64..=i64::from(i32::MAX)) {
            prop_assert_eq!(parse_guc_milliseconds(&format!("{milliseconds}ms")), Some(milliseconds));
        }
    }
}

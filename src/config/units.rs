//! Durations and sizes as people write them: `"15s"`, `"1h 30min"`, `"64MiB"`.

use std::time::Duration;

/// What a duration of 0 turns into where it means "never". Small enough to be added to any `Instant`.
pub const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

const DURATION_UNITS: [(&str, u64); 7] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

// PostgreSQL's memory units are multiples of 1024 too ("Parameter Names and Values"), so kB and KiB are one.
const SIZE_UNITS: [(&str, u64); 7] =
    [("B", 1), ("kB", 1 << 10), ("KiB", 1 << 10), ("MB", 1 << 20), ("MiB", 1 << 20), ("GB", 1 << 30), ("GiB", 1 << 30)];

/// Parses whole numbers with units, added up: `15s`, `250ms`, `1h 30min`. Every number needs its
/// unit (`us`, `ms`, `s`, `min` or `m`, `h`, `d`) except a lone `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text.trim() == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.trim();
    let mut micros: u64 = 0;
    while !rest.is_empty() {
        let (part, after) = quantity(rest, &DURATION_UNITS)?;
        micros = micros.checked_add(part)?;
        rest = after;
    }
    (!text.trim().is_empty()).then(|| Duration::from_micros(micros))
}

/// Parses one whole number with a unit (`B`, `kB` or `KiB`, `MB` or `MiB`, `GB` or `GiB`) into bytes.
pub fn parse_size(text: &str) -> Option<usize> {
    let (bytes, rest) = quantity(text.trim(), &SIZE_UNITS)?;
    if !rest.is_empty() {
        return None;
    }
    usize::try_from(bytes).ok()
}

/// Shows a duration in the largest units that keep it whole: `1h 30min`, `1500ms`, `0`.
pub fn show_duration(duration: Duration) -> String {
    if duration == NEVER {
        return "never".to_owned();
    }
    let mut micros = duration.as_micros();
    let mut parts = Vec::new();
    for (unit, size) in [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000)] {
        // 1500ms reads better than 1s 500ms.
        if micros >= size && micros.is_multiple_of(1_000_000) {
            parts.push(format!("{}{unit}", micros / size));
            micros %= size;
        }
    }
    if !micros.is_multiple_of(1_000) {
        parts.push(format!("{micros}us"));
    } else if micros != 0 {
        parts.push(format!("{}ms", micros / 1_000));
    }
    if parts.is_empty() { "0".to_owned() } else { parts.join(" ") }
}

/// Shows a size in the largest unit that keeps it whole.
pub fn show_size(bytes: usize) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    format!("{bytes}B")
}

/// Takes `<digits> <unit>` off the front; returns the product and what follows.
fn quantity<'a>(text: &'a str, units: &[(&str, u64)]) -> Option<(u64, &'a str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let rest = text[digits..].trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (_, factor) = units.iter().find(|(unit, _)| *unit == &rest[..end])?;
    Some((number.checked_mul(*factor)?, rest[end..].trim_start()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_carry_units() {
        let cases = [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("50us", Some(50)),
            ("5ms", Some(5_000)),
            (" 15 s ", Some(15_000_000)),
            ("1min", Some(60_000_000)),
            ("1m", Some(60_000_000)),
            ("1h 30min", Some(5_400_000_000)),
            ("1h30m", Some(5_400_000_000)),
            ("2d", Some(172_800_000_000)),
            ("", None),
            ("15", None),
            ("s", None),
            ("15 sec", None),
            ("1.5s", None),
            ("-1s", None),
            ("1h 30", None),
            ("99999999999999999999s", None),
            ("18446744073709551615d", None),
        ];
        for (text, micros) in cases {
            assert_eq!(parse_duration(text), micros.map(Duration::from_micros), "{text:?}");
        }
    }

    #[test]
    fn sizes_are_multiples_of_1024_in_both_spellings() {
        let cases = [
            ("1B", Some(1)),
            ("16kB", Some(16_384)),
            ("16KiB", Some(16_384)),
            ("64MiB", Some(67_108_864)),
            ("1 GB", Some(1 << 30)),
            ("64", None),
            ("64mb", None),
            ("1MiB 1B", None),
            ("99999999999GiB", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_back(micros in 0u64..4_000_000_000_000, bytes in 0usize..1 << 40) {
            let duration = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}

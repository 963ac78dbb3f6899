//! The subject of a certificate as one text, in the form of RFC 2253 in which OpenSSL writes it, and by it PostgreSQL for
//! `clientname=DN` of `pg_hba.conf`.

use std::fmt::Write;

use x509_parser::asn1_rs::{Any, Tag, ToDer};
use x509_parser::prelude::{AttributeTypeAndValue, FromDer, RelativeDistinguishedName, X509Certificate, X509Name};

/// Such as `CN=app,OU=acme,O=customers`: what is most particular comes first, without spaces. `None` where it is empty, or
/// not readable.
pub fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    shown(certificate.subject())
}

fn shown(name: &X509Name) -> Option<String> {
    let mut parts = name.iter_rdn().map(part).collect::<Option<Vec<_>>>()?;
    parts.reverse();
    Some(parts.join(",")).filter(|text| !text.is_empty())
}

fn part(part: &RelativeDistinguishedName) -> Option<String> {
    let mut attributes = part.iter().map(attribute).collect::<Option<Vec<_>>>()?;
    attributes.reverse();
    Some(attributes.join("+"))
}

/// One whose type has no name here is shown as RFC 2253 has it for such: by its number, and as the bytes of its DER.
fn attribute(attribute: &AttributeTypeAndValue) -> Option<String> {
    let number = attribute.attr_type().to_id_string();
    let value = attribute.attr_value();
    match NAMES.iter().find(|(known, _)| *known == number) {
        Some((_, name)) if TEXTS.contains(&value.tag()) => Some(format!("{name}={}", escaped(&text(value)?))),
        Some((_, name)) => Some(format!("{name}={}", bytes(value)?)),
        None => Some(format!("{number}={}", bytes(value)?)),
    }
}

/// OpenSSL's short names.
const NAMES: [(&str, &str); 23] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

const TEXTS: [Tag; 8] = [
    Tag::Utf8String,
    Tag::NumericString,
    Tag::PrintableString,
    Tag::T61String,
    Tag::Ia5String,
    Tag::VisibleString,
    Tag::UniversalString,
    Tag::BmpString,
];

fn text(value: &Any) -> Option<String> {
    let data = value.data;
    match value.tag() {
        Tag::Utf8String => String::from_utf8(data.to_vec()).ok(),
        Tag::BmpString => {
            let (units, rest) = data.as_chunks();
            let text = char::decode_utf16(units.iter().map(|unit| u16::from_be_bytes(*unit)));
            text.collect::<Result<_, _>>().ok().filter(|_| rest.is_empty())
        }
        Tag::UniversalString => {
            let (units, rest) = data.as_chunks();
            let text = units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit)));
            text.collect::<Option<_>>().filter(|_| rest.is_empty())
        }
        // Each byte is a character, of Latin 1 if it is none of ASCII.
        _ => Some(data.iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// So that nothing in a value passes for the end of it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (index, byte) in text.bytes().enumerate() {
        let at_an_end = index == 0 || index == text.len() - 1;
        let special = b",+\"\\<>;".contains(&byte) || byte == b' ' && at_an_end || byte == b'#' && index == 0;
        if special {
            escaped.push('\\');
        }
        if matches!(byte, b' '..=b'~') {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(escaped, "\\{byte:02X}");
        }
    }
    escaped
}

fn bytes(value: &Any) -> Option<String> {
    let der = value.to_der_vec().ok()?;
    let digits: String = der.iter().map(|byte| format!("{byte:02X}")).collect();
    Some(format!("#{digits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DER of less than 128 bytes.
    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, content.len() as u8], content].concat()
    }

    /// `2.5.4.<number>` with a value of this type.
    fn named(number: u8, tag: u8, value: &[u8]) -> Vec<u8> {
        der(0x30, &[der(0x06, &[0x55, 4, number]), der(tag, value)].concat())
    }

    fn shown_of(parts: &[&[Vec<u8>]]) -> Option<String> {
        let parts: Vec<_> = parts.iter().map(|part| der(0x31, &part.concat())).collect();
        let der = der(0x30, &parts.concat());
        shown(&X509Name::from_der(&der).unwrap().1)
    }

    const CN: u8 = 3;
    const OU: u8 = 11;
    const UTF8: u8 = 0x0c;

    /// Compared with `openssl x509 -subject -nameopt RFC2253`.
    #[test]
    fn a_subject_is_shown_as_openssl_shows_it() {
        let utf8 = |number, value: &str| named(number, UTF8, value.as_bytes());
        let shown =
            shown_of(&[&[named(6, 0x13, b"DE")], &[utf8(10, "customers")], &[utf8(OU, "acme")], &[utf8(CN, "app")]]);
        assert_eq!(shown.as_deref(), Some("CN=app,OU=acme,O=customers,C=DE"));
        let shown = shown_of(&[&[utf8(OU, "a")], &[utf8(OU, "b")], &[utf8(42, "Jo"), utf8(4, "Doe")]]);
        assert_eq!(shown.as_deref(), Some("SN=Doe+GN=Jo,OU=b,OU=a"));
        assert_eq!(shown_of(&[]), None);
    }

    #[test]
    fn no_value_passes_for_another_part_of_the_subject() {
        for (value, expected) in [
            ("app,OU=acme", "CN=app\\,OU=acme"),
            ("app+OU=acme", "CN=app\\+OU=acme"),
            ("app\\", "CN=app\\\\"),
            ("app\0,", "CN=app\\00\\,"),
            ("#eu", "CN=\\#eu"),
            ("e#u", "CN=e#u"),
            (" Söhne; \"x\" <y> = ", "CN=\\ S\\C3\\B6hne\\; \\\"x\\\" \\<y\\> =\\ "),
            (" ", "CN=\\ "),
            ("\u{7f}", "CN=\\7F"),
            ("", "CN="),
        ] {
            assert_eq!(shown_of(&[&[named(CN, UTF8, value.as_bytes())]]).as_deref(), Some(expected), "{value}");
        }
    }

    #[test]
    fn every_kind_of_text_is_read_and_what_is_none_is_shown_as_bytes() {
        for (tag, value, expected) in [
            (0x13, &b"app"[..], Some("CN=app")),
            (0x14, b"S\xf6hne", Some("CN=S\\C3\\B6hne")),
            (0x1e, b"\0a\0,", Some("CN=a\\,")),
            (0x1e, b"\0a\0", None),
            (0x1c, b"\0\0\0a", Some("CN=a")),
            (UTF8, b"\xff", None),
            (0x04, b"abc", Some("CN=#0403616263")),
        ] {
            assert_eq!(shown_of(&[&[named(CN, tag, value)]]).as_deref(), expected, "{tag:x} {value:?}");
        }
        let unknown = der(0x30, &[der(0x06, &[0x2a, 3, 4, 5]), der(0x13, b"odd")].concat());
        assert_eq!(shown_of(&[&[unknown]]).as_deref(), Some("1.2.3.4.5=#13036F6464"));
    }
}

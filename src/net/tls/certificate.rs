//! What we read out of certificates ourselves: the hash that binds SCRAM to a channel, the common
//! name of a client, the time of validity.

use md5::Digest;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use x509_parser::oid_registry::{
    OID_HASH_SHA1, OID_NIST_HASH_SHA256, OID_NIST_HASH_SHA384, OID_NIST_HASH_SHA512, OID_PKCS1_MD5WITHRSAENC,
    OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA1WITHRSA, OID_PKCS1_SHA224WITHRSA, OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SHA1_WITH_RSA, OID_SIG_ECDSA_WITH_SHA224,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, Oid,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::signature_algorithm::SignatureAlgorithm;
use x509_parser::time::ASN1Time;

/// The `tls-server-end-point` of a DER certificate: its hash by the hash function of its own
/// signature, SHA-256 in the place of MD5 and SHA-1 (RFC 5929, section 4.1). `None` for signatures
/// without one hash function, such as Ed25519's: no channel binding then, as in PostgreSQL.
pub fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let algorithm = &certificate.signature_algorithm;
    let by: &Oid = match SignatureAlgorithm::try_from(algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) if algorithm.algorithm == OID_PKCS1_RSASSAPSS => {
            return hash(parameters.hash_algorithm_oid(), der);
        }
        _ => &algorithm.algorithm,
    };
    hash(by, der)
}

fn hash(by: &Oid, der: &[u8]) -> Option<Vec<u8>> {
    let is = |oids: &[Oid]| oids.contains(by);
    if is(&[OID_PKCS1_MD5WITHRSAENC, OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA, OID_HASH_SHA1, ECDSA_WITH_SHA1])
        || is(&[OID_PKCS1_SHA256WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_NIST_HASH_SHA256])
    {
        Some(Sha256::digest(der).to_vec())
    } else if is(&[OID_PKCS1_SHA384WITHRSA, OID_SIG_ECDSA_WITH_SHA384, OID_NIST_HASH_SHA384]) {
        Some(Sha384::digest(der).to_vec())
    } else if is(&[OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA512, OID_NIST_HASH_SHA512]) {
        Some(Sha512::digest(der).to_vec())
    } else if is(&[OID_PKCS1_SHA224WITHRSA, OID_SIG_ECDSA_WITH_SHA224]) {
        Some(Sha224::digest(der).to_vec())
    } else {
        None
    }
}

/// `ecdsa-with-SHA1` (RFC 3279), which the registry lacks.
const ECDSA_WITH_SHA1: Oid<'static> = x509_parser::der_parser::oid!(1.2.840.10045.4.1);

/// The common name of a certificate's subject. `None` if it has none, several, or one with a NUL
/// (CVE-2009-4034: a name that ends early for some and not for others).
pub fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?;
    (names.next().is_none() && !name.contains('\0')).then(|| name.to_owned())
}

/// Whether a certificate is within its time of validity, `now` in seconds since 1970.
pub fn is_current(der: &[u8], now: u64) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let Ok(now) = i64::try_from(now) else { return false };
    ASN1Time::from_timestamp(now).is_ok_and(|now| certificate.validity().is_valid_at(now))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm, names: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["db.example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        params.self_signed(&KeyPair::generate_for(algorithm).unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_point_is_hashed_as_the_certificate_is_signed() {
        let der = certificate(&PKCS_ECDSA_P256_SHA256, &[]);
        assert_eq!(end_point(&der), Some(Sha256::digest(&der).to_vec()));
        let der = certificate(&PKCS_ECDSA_P384_SHA384, &[]);
        assert_eq!(end_point(&der), Some(Sha384::digest(&der).to_vec()));
        assert_eq!(end_point(&certificate(&PKCS_ED25519, &[])), None);
        assert_eq!(end_point(b"no certificate"), None);
    }

    #[test]
    fn a_common_name_is_read_when_it_can_be_relied_on() {
        assert_eq!(common_name(&certificate(&PKCS_ED25519, &["alice"])), Some("alice".to_owned()));
        assert_eq!(common_name(&certificate(&PKCS_ED25519, &[])), None);
        assert_eq!(common_name(&certificate(&PKCS_ED25519, &["alice\0mallory"])), None);
        assert_eq!(common_name(b""), None);
    }

    #[test]
    fn validity_has_two_ends() {
        let der = certificate(&PKCS_ED25519, &[]);
        // rcgen's default: from 1975 to 4096.
        assert!(!is_current(&der, 0));
        assert!(is_current(&der, 1_700_000_000));
        assert!(!is_current(&der, 100_000_000_000));
    }
}

//! Certificates made here, good and bad.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

const NOW: i64 = 1_800_000_000_000; // 2027-01-15

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2028, 1, 1);
    params
}

fn ca(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(&[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
}

fn below(issuer: &CertifiedIssuer<'static, KeyPair>, name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(&[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::signed_by(params, KeyPair::generate().expect("a key"), issuer).expect("a CA")
}

#[test]
fn a_self_signed_certificate_is_read() {
    let key = KeyPair::generate().expect("a key");
    let pem = params(&["www.Example.com", "*.example.com"]).self_signed(&key).expect("signed").pem();
    let checked = check(&pem, &key.serialize_pem(), NOW).expect("good");
    let names: Vec<&str> = checked.certificate.names.iter().map(AsRef::as_ref).collect();
    assert_eq!(names, ["www.example.com", "*.example.com"]);
    assert!(checked.certificate.self_signed);
    assert_eq!(checked.warnings, Vec::<String>::new());
    assert_eq!(checked.certificate.starts_ms, 1_767_225_600_000);
    assert_eq!(checked.certificate.id.len(), 16);
    assert!(!format!("{checked:?}").contains("PRIVATE"), "keys are never printed");
}

#[test]
fn a_chain_is_put_in_order_and_strangers_are_left_out() {
    let root = ca("root");
    let (middle, stranger) = (below(&root, "middle"), ca("stranger"));
    let key = KeyPair::generate().expect("a key");
    let leaf = params(&["a.example.com"]).signed_by(&key, &middle).expect("signed").pem();
    let all = [root.pem(), stranger.pem(), leaf.clone(), middle.pem()].concat();
    let checked = check(&all, &key.serialize_pem(), NOW).expect("good");
    let tidy = [leaf.clone(), middle.pem(), root.pem()].concat().replace("\r\n", "\n");
    assert_eq!(checked.certificate.chain_pem, tidy);
    assert_eq!(checked.warnings.len(), 2, "{:?}", checked.warnings);
    assert!(checked.warnings[1].contains("stranger"), "{:?}", checked.warnings);
    // What was put in order is what is kept: reading it again says nothing.
    let again = check(&checked.certificate.chain_pem, &checked.certificate.key_pem.0, NOW).expect("good");
    assert_eq!((again.certificate, again.warnings), (checked.certificate, Vec::new()));
    let alone = check(&leaf, &key.serialize_pem(), NOW).expect("good");
    assert!(alone.warnings[0].contains("intermediate"), "{:?}", alone.warnings);
}

#[test]
fn times_are_warned_of() {
    let key = KeyPair::generate().expect("a key");
    let pem = params(&["a.example.com"]).self_signed(&key).expect("signed").pem();
    let warning = |now| check(&pem, &key.serialize_pem(), now).expect("good").warnings.join(" ");
    assert!(warning(1_900_000_000_000).contains("expired at 2028-01-01"));
    assert!(warning(1_700_000_000_000).contains("valid from 2026-01-01"));
    assert!(warning(1_830_200_000_000).contains("expires soon"));
}

#[test]
fn what_cannot_be_used_is_refused_with_advice() {
    let (key, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let pem = params(&["a.example.com"]).self_signed(&key).expect("signed").pem();
    let refused = |chain: &str, key: &str| check(chain, key, NOW).expect_err("bad");
    assert!(matches!(refused(&pem, &other.serialize_pem()), CheckError::Mismatch { .. }));
    assert_eq!(refused("", &key.serialize_pem()), CheckError::NoCertificate);
    assert_eq!(refused(&pem, &pem), CheckError::NoKey);
    assert_eq!(refused(&pem, ""), CheckError::NoKey);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
    assert_eq!(refused(&pem, encrypted), CheckError::EncryptedKey);
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(refused(broken, &key.serialize_pem()), CheckError::BadCertificate(_)));
    assert_eq!(refused(&pem.repeat(11), &key.serialize_pem()), CheckError::LongChain);
    assert_eq!(refused(&" ".repeat(MAX_PEM + 1), ""), CheckError::TooLong("certificate"));
    let nameless = params(&[]).self_signed(&key).expect("signed").pem();
    assert_eq!(refused(&nameless, &key.serialize_pem()), CheckError::NoNames);
}

#[test]
fn a_wildcard_covers_one_more_label() {
    let covers = |name: &str, wanted: &str| {
        covers(&HostPattern::parse(name).expect("a name"), &HostPattern::parse(wanted).expect("a name"))
    };
    assert!(covers("*.example.com", "a.example.com"));
    assert!(covers("*.example.com", "*.example.com"));
    assert!(!covers("*.example.com", "example.com"));
    assert!(!covers("*.example.com", "a.b.example.com"));
    assert!(!covers("a.example.com", "*.example.com"));
}

//! Who may upload versions of a plugin: the keys of its teams, and whether one of them has signed some bytes.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use brolly_core::{Code, Name, Refusal};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// The public keys whose owners may sign versions of a plugin, by the team's name: Ed25519 (RFC 8032), 32 bytes in
/// base 64. With none, versions need no signature.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Keys(pub BTreeMap<Name, String>);

impl Keys {
    /// The most keys of a plugin.
    pub const MAX: usize = 16;

    /// Whether versions need a signature.
    #[must_use]
    pub fn are_asked_for(&self) -> bool {
        !self.0.is_empty()
    }

    /// Checks number and form.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] names the key.
    pub fn check(&self) -> Result<(), Refusal> {
        let refuse = |detail: String| Err(Refusal::new(Code::InvalidDefinition, detail));
        if self.0.len() > Self::MAX {
            return refuse(format!("keys (how many) is {}, allowed are 0 to {}", self.0.len(), Self::MAX));
        }
        for (team, key) in &self.0 {
            if bytes_of(key).is_none() {
                return refuse(format!(
                    "keys.{team} is no Ed25519 public key; send its 32 bytes in base 64 (the last 32 bytes of \
                     `openssl pkey -pubout -outform DER`)"
                ));
            }
        }
        Ok(())
    }

    /// The team that has signed these bytes; none where no signature is needed.
    ///
    /// # Errors
    /// [`Code::InvalidSignature`] where one is needed and there is none, or none of the keys has made it.
    pub fn signer(&self, bytes: &[u8], signature: Option<&[u8]>) -> Result<Option<Name>, Refusal> {
        if !self.are_asked_for() {
            return Ok(None);
        }
        let refuse = |detail: String| Refusal::new(Code::InvalidSignature, detail);
        let teams: Vec<&str> = self.0.keys().map(Name::as_str).collect();
        let teams = teams.join(", ");
        let signature = signature.ok_or_else(|| {
            refuse(format!(
                "versions of this plugin must be signed by one of {teams}; send the Ed25519 signature over the bytes in \
                 base 64 as the header brolly-signature"
            ))
        })?;
        let signed = |key: &String| {
            bytes_of(key)
                .is_some_and(|key| UnparsedPublicKey::new(&ED25519, key).verify(bytes, signature).is_ok())
        };
        let team = self.0.iter().find(|(_, key)| signed(key));
        let (team, _) = team.ok_or_else(|| {
            refuse(format!("the signature over these bytes was made with no key of {teams}; sign exactly what is uploaded"))
        })?;
        Ok(Some(team.clone()))
    }
}

fn bytes_of(key: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(key).ok().filter(|bytes| bytes.len() == 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first three tests of RFC 8032, section 7.1: public key, message, signature.
    const VECTORS: [[&str; 3]; 3] = [
        [
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ],
        [
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ],
        [
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ],
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn keys(hex: &[&str]) -> Keys {
        let named = hex
            .iter()
            .enumerate()
            .map(|(at, key)| (Name::new(&format!("team-{at}")).unwrap(), BASE64_STANDARD.encode(bytes(key))));
        Keys(named.collect())
    }

    #[test]
    fn the_vectors_of_the_standard_are_told_from_anything_else() {
        let all = keys(&VECTORS.map(|[key, ..]| key));
        all.check().unwrap();
        for (at, [_, message, signature]) in VECTORS.iter().enumerate() {
            let (message, signature) = (bytes(message), bytes(signature));
            let team = all.signer(&message, Some(&signature)).unwrap().unwrap();
            assert_eq!(team.as_str(), format!("team-{at}"));
            let mut wrong = message.clone();
            wrong.push(0);
            for (message, signature) in
                [(&wrong[..], Some(&signature[..])), (&message, Some(&signature[1..])), (&message, None)]
            {
                let refusal = all.signer(message, signature).unwrap_err();
                assert_eq!(refusal.code, Code::InvalidSignature);
                assert!(refusal.detail.contains("team-0, team-1, team-2"), "{refusal}");
            }
            let others = keys(&[VECTORS[(at + 1) % 3][0]]);
            assert!(others.signer(&message, Some(&signature)).is_err());
        }
        assert_eq!(Keys::default().signer(b"x", None), Ok(None));
    }

    #[test]
    fn keys_have_a_form_and_a_number() {
        let many = |count: usize| keys(&vec![VECTORS[0][0]; count]);
        many(Keys::MAX).check().unwrap();
        assert!(many(Keys::MAX + 1).check().unwrap_err().detail.contains("how many"));
        for wrong in ["", "not base 64", &BASE64_STANDARD.encode([1; 31]), &BASE64_STANDARD.encode([1; 33])] {
            let keys = Keys(BTreeMap::from([(Name::new("team").unwrap(), wrong.to_owned())]));
            assert!(keys.check().unwrap_err().detail.contains("keys.team"), "{wrong}");
        }
    }
}

//! Text messages by Alibaba Cloud Short Message Service, with the request signature of its interfaces,
//! ACS3-HMAC-SHA256 ("V3 request structure and signature" in its documentation).

use brolly_core::{Code, Refusal, SmsAlibaba, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use url::Url;

use super::{
    http,
    template::{Format, Template},
};
use crate::{Failure, notice::Letter};

const ACTION: &str = "SendSms";
const VERSION: &str = "2017-05-25";
const ALGORITHM: &str = "ACS3-HMAC-SHA256";
/// What RFC 3986 leaves as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The service, with whose key and in which words.
pub(crate) struct Alibaba {
    client: reqwest::Client,
    url: Url,
    host: String,
    key: Key,
    sign_name: String,
    template_code: String,
    params: Template,
}

/// An AccessKey.
struct Key {
    id: String,
    secret: String,
}

/// What is signed of a request whose body is empty.
struct Signed<'a> {
    host: &'a str,
    action: &'a str,
    version: &'a str,
    date: &'a str,
    nonce: &'a str,
    query: &'a [(&'a str, &'a str)],
}

impl Alibaba {
    pub(super) fn new(sms: &SmsAlibaba, client: &reqwest::Client) -> Result<Self, Refusal> {
        let url = http::url(&sms.url)?;
        if url.path() != "/" || url.query().is_some() {
            let detail = "url has a path; give only the host, such as https://dysmsapi.aliyuncs.com";
            return Err(Refusal::new(Code::InvalidDefinition, detail));
        }
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let places = ["text", "queue", "value"];
        Ok(Self {
            client: client.clone(),
            url,
            host,
            key: Key { id: sms.access_key_id.clone(), secret: sms.access_key_secret.reveal()? },
            sign_name: sms.sign_name.clone(),
            template_code: sms.template_code.clone(),
            params: Template::new("template_params", &sms.template_params, Format::Json, &places)?,
        })
    }

    pub(super) async fn send(&self, to: &str, letter: &Letter) -> Result<(), Failure> {
        let queue = letter.queue.as_ref().map_or_else(String::new, ToString::to_string);
        let value = letter.value.map_or_else(String::new, |value| value.to_string());
        let params = self.params.fill([("text", &*letter.text), ("queue", &*queue), ("value", &*value)])?;
        let now = brolly_core::Clock::now(&brolly_core::SystemClock);
        let (date, nonce) = (date(now), uuid::Uuid::now_v7().simple().to_string());
        let query = [
            ("OutId", &*letter.id),
            ("PhoneNumbers", to),
            ("SignName", &*self.sign_name),
            ("TemplateCode", &*self.template_code),
            ("TemplateParam", &*params),
        ];
        let signed = Signed {
            host: &self.host,
            action: ACTION,
            version: VERSION,
            date: &date,
            nonce: &nonce,
            query: &query,
        };
        let mut url = self.url.clone();
        url.set_query(Some(&signed.canonical_query()));
        let request = self.client.post(url).header("authorization", signed.authorization(&self.key));
        let request =
            signed.headers().into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let answer = http::post(request).await?;
        match answer.get("Code").and_then(serde_json::Value::as_str) {
            Some("OK") => Ok(()),
            code => {
                let said = answer.get("Message").and_then(serde_json::Value::as_str).unwrap_or("nothing");
                Err(Failure::new(format!("the service answered {}: {said}", code.unwrap_or("no code"))))
            }
        }
    }
}

fn date(now: Timestamp) -> String {
    let now = jiff::Timestamp::from_millisecond(i64::try_from(now.0).unwrap_or(i64::MAX)).unwrap_or_default();
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Signed<'_> {
    /// The headers that are signed, by name.
    fn headers(&self) -> [(&'static str, String); 6] {
        [
            ("host", self.host.to_owned()),
            ("x-acs-action", self.action.to_owned()),
            ("x-acs-content-sha256", hex(&Sha256::digest(b""))),
            ("x-acs-date", self.date.to_owned()),
            ("x-acs-signature-nonce", self.nonce.to_owned()),
            ("x-acs-version", self.version.to_owned()),
        ]
    }

    fn canonical_query(&self) -> String {
        let mut pairs = self.query.to_vec();
        pairs.sort_unstable();
        let encode = |text| utf8_percent_encode(text, UNRESERVED).to_string();
        let pairs: Vec<String> =
            pairs.into_iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        pairs.join("&")
    }

    fn authorization(&self, key: &Key) -> String {
        let headers = self.headers();
        let lines: String =
            headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let body = hex(&Sha256::digest(b""));
        let request = format!("POST\n/\n{}\n{lines}\n{names}\n{body}", self.canonical_query());
        let to_sign = format!("{ALGORITHM}\n{}", hex(&Sha256::digest(request.as_bytes())));
        let signature = hex(&http::hmac_sha256(key.secret.as_bytes(), to_sign.as_bytes()));
        format!("{ALGORITHM} Credential={},SignedHeaders={names},Signature={signature}", key.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example with fixed parameters of the provider's documentation.
    #[test]
    fn the_signature_is_the_providers() {
        let signed = Signed {
            host: "ecs.cn-shanghai.aliyuncs.com",
            action: "RunInstances",
            version: "2014-05-26",
            date: "2023-10-26T10:22:32Z",
            nonce: "3156853299f313e23d1673dc12e1703d",
            query: &[
                ("RegionId", "cn-shanghai"),
                ("ImageId", "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"),
            ],
        };
        let key = Key { id: "YourAccessKeyId".into(), secret: "YourAccessKeySecret".into() };
        assert_eq!(
            signed.authorization(&key),
            "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;\
             x-acs-date;x-acs-signature-nonce;x-acs-version,\
             Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
        );
    }

    #[test]
    fn what_is_asked_is_encoded_as_rfc_3986_has_it() {
        let signed = Signed {
            host: "h",
            action: "a",
            version: "v",
            date: "d",
            nonce: "n",
            query: &[("b", "a b*~/+"), ("a", "é")],
        };
        assert_eq!(signed.canonical_query(), "a=%C3%A9&b=a%20b%2A~%2F%2B");
        assert_eq!(date(Timestamp(1_698_315_752_999)), "2023-10-26T10:22:32Z");
    }
}

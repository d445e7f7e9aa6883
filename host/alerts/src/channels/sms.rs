//! Text messages by any provider that takes them over HTTP, and by Twilio.

use brolly_core::{Code, Refusal, SmsHttp, SmsTwilio};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::{
    http,
    template::{Format, Template},
};
use crate::{Failure, notice::Letter};

fn refuse(detail: String) -> Refusal {
    Refusal::new(Code::InvalidDefinition, detail)
}

/// A provider that is described by a template.
pub(crate) struct Http {
    client: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    body: Template,
}

impl Http {
    pub(super) fn new(sms: &SmsHttp, client: &reqwest::Client) -> Result<Self, Refusal> {
        let value = |field: &str, text: &str| {
            HeaderValue::from_str(text)
                .map_err(|_| refuse(format!("{field} has characters that no header has")))
        };
        let mut headers = HeaderMap::new();
        for (name, secret) in &sms.headers {
            let field = format!("headers.{name}");
            let name =
                HeaderName::try_from(name).map_err(|_| refuse(format!("{field} is no name of a header")))?;
            let mut value = value(&field, &secret.reveal()?)?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers.insert(CONTENT_TYPE, value("content_type", &sms.content_type)?);
        let format = Format::of(&sms.content_type);
        let body = Template::new("body", &sms.body, format, &["phone", "text"])?;
        Ok(Self { client: client.clone(), url: http::url(&sms.url)?, headers, body })
    }

    pub(super) async fn send(&self, to: &str, letter: &Letter) -> Result<(), Failure> {
        let body = self.body.fill([("phone", to), ("text", &letter.text)])?;
        let request = self.client.post(self.url.clone()).headers(self.headers.clone());
        // Providers that know this header send what comes twice once.
        http::post(request.header("idempotency-key", format!("{}-{to}", letter.id)).body(body))
            .await
            .map(drop)
    }
}

/// Twilio.
pub(crate) struct Twilio {
    client: reqwest::Client,
    url: Url,
    account: String,
    token: String,
    from: String,
}

impl Twilio {
    pub(super) fn new(sms: &SmsTwilio, client: &reqwest::Client) -> Result<Self, Refusal> {
        let mut url = http::url(&sms.url)?;
        url.path_segments_mut()
            .map_err(|()| refuse("url cannot have a path".to_owned()))?
            .pop_if_empty()
            .extend(["2010-04-01", "Accounts", &sms.account_sid, "Messages.json"]);
        Ok(Self {
            client: client.clone(),
            url,
            account: sms.account_sid.clone(),
            token: sms.auth_token.reveal()?,
            from: sms.from.clone(),
        })
    }

    pub(super) async fn send(&self, to: &str, letter: &Letter) -> Result<(), Failure> {
        let form = form_urlencoded::Serializer::new(String::new())
            .extend_pairs([("To", to), ("From", &self.from), ("Body", &letter.text)])
            .finish();
        let request = self.client.post(self.url.clone()).basic_auth(&self.account, Some(&self.token));
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        http::post(request).await.map(drop)
    }
}

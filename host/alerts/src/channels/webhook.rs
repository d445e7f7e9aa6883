//! Requests to programs, signed, and to the robots of chats, each in the words of its chat.

use base64::{Engine, engine::general_purpose::STANDARD};
use brolly_core::{Chat, Clock, Code, Refusal, SystemClock, Webhook};
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use url::Url;

use super::http::{self, hmac_sha256};
use crate::{Failure, notice::Letter};

/// A program or a robot.
pub(crate) struct Hook {
    client: reqwest::Client,
    url: Url,
    secret: Option<String>,
    chat: Option<Chat>,
}

impl Hook {
    pub(super) fn new(hook: &Webhook, client: &reqwest::Client) -> Result<Self, Refusal> {
        let secret = hook.secret.as_ref().map(brolly_core::Secret::reveal).transpose()?;
        if let (Some(Chat::WeCom | Chat::Slack), Some(_)) = (hook.preset, &secret) {
            let detail = "secret: this chat checks no signature; its URL is the secret, so leave secret out";
            return Err(Refusal::new(Code::InvalidDefinition, detail));
        }
        Ok(Self { client: client.clone(), url: http::url(&hook.url)?, secret, chat: hook.preset })
    }

    pub(super) async fn send(&self, letter: &Letter) -> Result<(), Failure> {
        let now_ms = SystemClock.now().0;
        let (url, body) = match self.chat {
            None => (self.url.clone(), serde_json::to_value(letter).map_err(Failure::new)?),
            Some(chat) => self.chat(chat, letter, now_ms),
        };
        let body = body.to_string();
        let mut request = self.client.post(url).header(CONTENT_TYPE, "application/json");
        if let (None, Some(secret)) = (self.chat, &self.secret) {
            request = request.header("x-hub-signature-256", signature(secret, &body));
        }
        judge(&http::post(request.body(body)).await?)
    }

    fn chat(&self, chat: Chat, letter: &Letter, now_ms: u64) -> (Url, Value) {
        let text = format!("{}\n{}", letter.subject, letter.text);
        let mut url = self.url.clone();
        let body = match chat {
            Chat::Slack => json!({ "text": text }),
            Chat::WeCom => json!({"msgtype": "text", "text": {"content": text}}),
            Chat::DingTalk => {
                if let Some(secret) = &self.secret {
                    let timestamp = now_ms.to_string();
                    let sign = hmac_sha256(secret.as_bytes(), format!("{timestamp}\n{secret}").as_bytes());
                    let sign = STANDARD.encode(sign);
                    url.query_pairs_mut().extend_pairs([("timestamp", timestamp), ("sign", sign)]);
                }
                json!({"msgtype": "text", "text": {"content": text}})
            }
            Chat::Feishu => {
                let mut body = json!({"msg_type": "text", "content": {"text": text}});
                if let (Some(secret), Some(fields)) = (&self.secret, body.as_object_mut()) {
                    let timestamp = (now_ms / 1000).to_string();
                    let sign = STANDARD.encode(hmac_sha256(format!("{timestamp}\n{secret}").as_bytes(), b""));
                    fields.insert("timestamp".to_owned(), timestamp.into());
                    fields.insert("sign".to_owned(), sign.into());
                }
                body
            }
        };
        (url, body)
    }
}

/// As in W3C WebSub, with SHA-256.
fn signature(secret: &str, body: &str) -> String {
    let mac = hmac_sha256(secret.as_bytes(), body.as_bytes());
    format!("sha256={}", mac.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Chats answer with status 200 and say in the body that they did not take it: DingTalk and WeCom with
/// `errcode`, Feishu with `code`.
fn judge(answer: &Value) -> Result<(), Failure> {
    let code = answer.get("errcode").or_else(|| answer.get("code")).and_then(Value::as_i64);
    match code {
        None | Some(0) => Ok(()),
        Some(code) => {
            let said = answer.get("errmsg").or_else(|| answer.get("msg")).and_then(Value::as_str);
            Err(Failure::new(format!("the chat answered {code}: {}", said.unwrap_or("nothing"))))
        }
    }
}

#[cfg(test)]
mod tests {
    use brolly_core::Name;

    use super::*;

    fn hook(definition: Value) -> Hook {
        Hook::new(&serde_json::from_value(definition).unwrap(), &reqwest::Client::new()).unwrap()
    }

    /// RFC 4231, test case 2, and what follows from it for the header.
    #[test]
    fn the_signature_is_the_hmac_of_the_body() {
        assert_eq!(
            signature("Jefe", "what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn each_chat_is_told_in_its_own_words() {
        let letter = Letter::test("h", &Name::new("chat").unwrap(), brolly_core::Timestamp(0));
        let told = |definition: Value| {
            let hook = hook(definition);
            let (url, body) = hook.chat(hook.chat.unwrap(), &letter, 1_599_360_473_000);
            (url.to_string(), body)
        };
        let with = |preset: &str, secret: Option<&str>| json!({"url": "https://h/p?k=1", "preset": preset, "secret": secret});
        let text = format!("{}\n{}", letter.subject, letter.text);

        assert_eq!(told(with("slack", None)).1, json!({ "text": text }));
        assert_eq!(told(with("wecom", None)).1, json!({"msgtype": "text", "text": {"content": text}}));
        let (url, body) = told(with("dingtalk", Some("this is secret")));
        assert_eq!(body, json!({"msgtype": "text", "text": {"content": text}}));
        // Computed with Python's hmac as the chat's documentation shows it.
        assert_eq!(
            url,
            "https://h/p?k=1&timestamp=1599360473000&sign=hXZTWifRGHclNuZSKxoXc%2F%2Fsh51SWfVfRIhcdeKs63I%3D"
        );
        let (url, body) = told(with("feishu", Some("demo")));
        assert_eq!((url.as_str(), &body["timestamp"]), ("https://h/p?k=1", &json!("1599360473")));
        assert_eq!(body["sign"], "l1N0gAcBjdwBvGm1xMjOF0XSyaLRpR7tuO5dHfhAYc8=");
        assert_eq!(body["content"]["text"], text);
    }

    #[test]
    fn an_answer_that_says_no_is_a_failure() {
        for (answer, takes) in [
            (json!({"errcode": 0, "errmsg": "ok"}), true),
            (json!({"errcode": 310_000, "errmsg": "sign not match"}), false),
            (json!({"code": 0}), true),
            (json!({"code": 19_021, "msg": "sign match fail"}), false),
            (Value::Null, true),
            (json!({"anything": 1}), true),
        ] {
            assert_eq!(judge(&answer).is_ok(), takes, "{answer}");
        }
    }
}

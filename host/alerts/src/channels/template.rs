//! Bodies with places for a phone, a text and so on; what is put in is escaped as the body's format asks.

use brolly_core::{Code, Refusal};
use minijinja::{Environment, UndefinedBehavior, Value};

use crate::Failure;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// JSON; places are within quotes.
    Json,
    /// A form, as browsers send it.
    Form,
    /// Anything else; nothing is escaped.
    Text,
}

impl Format {
    pub(super) fn of(content_type: &str) -> Self {
        match content_type.split(';').next().unwrap_or_default().trim() {
            kind if kind == "application/json" || kind.ends_with("+json") => Format::Json,
            "application/x-www-form-urlencoded" => Format::Form,
            _ => Format::Text,
        }
    }

    fn escape(self, text: &str) -> String {
        match self {
            Format::Json => {
                let quoted = serde_json::Value::from(text).to_string();
                quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
            }
            Format::Form => form_urlencoded::byte_serialize(text.as_bytes()).collect(),
            Format::Text => text.to_owned(),
        }
    }
}

/// A body.
#[derive(Debug)]
pub(super) struct Template(Environment<'static>);

const NAME: &str = "body";

impl Template {
    /// # Errors
    /// [`Code::InvalidDefinition`] with what is wrong in which line, also with a place that there is not.
    pub(super) fn new(field: &str, text: &str, format: Format, places: &[&str]) -> Result<Self, Refusal> {
        let refuse = |error: &minijinja::Error| {
            let detail = format!("{field} is no template: {error}; it may have {}", places.join(", "));
            Refusal::new(Code::InvalidDefinition, detail)
        };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_formatter(move |out, _, value| {
            let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            out.write_str(&format.escape(&text)).map_err(minijinja::Error::from)
        });
        environment.add_template_owned(NAME, text.to_owned()).map_err(|error| refuse(&error))?;
        let template = Self(environment);
        let tried =
            template.filled(places.iter().map(|place| (*place, "x"))).map_err(|error| refuse(&error))?;
        if format == Format::Json
            && let Err(error) = serde_json::from_str::<serde_json::Value>(&tried)
        {
            let detail =
                format!("{field} is no JSON once it is filled in: {error}; write places within quotes");
            return Err(Refusal::new(Code::InvalidDefinition, detail));
        }
        Ok(template)
    }

    pub(super) fn fill<'a>(
        &self,
        places: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<String, Failure> {
        self.filled(places).map_err(Failure::new)
    }

    fn filled<'a>(
        &self,
        places: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<String, minijinja::Error> {
        let values: Value = places.into_iter().collect();
        self.0.get_template(NAME)?.render(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_cannot_break_out() {
        let text = "a \"quoted\" & <b>\n=é";
        let cases = [
            ("application/json", r#"{"t":"{{ text }}"}"#, r#"{"t":"a \"quoted\" & <b>\n=é"}"#),
            ("application/json; charset=utf-8", r#"["{{ text }}"]"#, r#"["a \"quoted\" & <b>\n=é"]"#),
            ("application/x-www-form-urlencoded", "t={{ text }}", "t=a+%22quoted%22+%26+%3Cb%3E%0A%3D%C3%A9"),
            ("text/plain", "{{ text }}!", "a \"quoted\" & <b>\n=é!"),
        ];
        for (kind, body, expect) in cases {
            let template = Template::new("body", body, Format::of(kind), &["text"]).unwrap();
            assert_eq!(template.fill([("text", text)]).unwrap(), expect, "{kind}");
        }
    }

    #[test]
    fn a_mistake_is_found_when_it_is_saved() {
        for (body, names) in [
            ("{{ text", "no template"),
            (r#""{{ name }}""#, "undefined"),
            ("{\"t\": {{ text }}}", "within quotes"),
        ] {
            let refused = Template::new("body", body, Format::Json, &["phone", "text"]).unwrap_err();
            assert!(refused.detail.contains(names), "{refused}");
        }
    }
}

//! The template: text with fields in braces. Knows nothing of orders.

use std::fmt::Display;

use brolly_plugin::Failure;

/// A template that cannot be rendered, as a failure that leaves time to mend it.
pub(crate) fn mistake(what: impl Display) -> Failure {
    Failure::retry(format_args!("configuration template {what}"))
}

/// Puts the values of `field` in the places of `{field}`; `{{` and `}}` stand for braces.
///
/// # Errors
/// A retry for a brace without its partner; whatever `field` answers.
pub(crate) fn render(
    template: &str,
    field: impl Fn(&str) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let mut text = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, brace, after)) = split_at_brace(rest) {
        text.push_str(before);
        rest = match (brace, after.strip_prefix(brace)) {
            (_, Some(after)) => {
                text.push(brace);
                after
            }
            ('{', None) => {
                let (name, after) = after.split_once('}').ok_or_else(|| mistake("has a { without its }"))?;
                text.push_str(&field(name)?);
                after
            }
            (_, None) => return Err(mistake("has a } without its {; write }} for a brace")),
        };
    }
    text.push_str(rest);
    Ok(text)
}

/// What is before the first brace, the brace, and what is after it.
fn split_at_brace(text: &str) -> Option<(&str, char, &str)> {
    let (at, brace) = text.char_indices().find(|(_, c)| matches!(c, '{' | '}'))?;
    let (before, from) = text.split_at_checked(at)?;
    Some((before, brace, from.strip_prefix(brace)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, expect: Result<&str, &str>) {
        let field = |name: &str| match name {
            "a" => Ok("1".to_owned()),
            other => Err(mistake(format_args!("has the field {{{other}}}"))),
        };
        let rendered = render(template, field);
        assert_eq!(rendered.as_deref().map_err(Failure::reason), expect, "{template:?}");
        assert!(rendered.is_ok() || !rendered.is_err_and(|failure| failure.is_reject()));
    }

    #[test]
    fn fields_and_braces() {
        check("", Ok(""));
        check("é {a}{a} ü", Ok("é 11 ü"));
        check("{{a}} {{{a}}}", Ok("{a} {1}"));
        check("{a", Err("configuration template has a { without its }"));
        check("a}", Err("configuration template has a } without its {; write }} for a brace"));
        check("{b}", Err("configuration template has the field {b}"));
        check("{}", Err("configuration template has the field {}"));
    }
}

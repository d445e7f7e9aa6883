//! Route filters: CEL expressions over a message. The one place that knows the CEL crate.

mod cost;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, LazyLock},
};

use cel::{
    Context, Env, ExecutionError, IdedExpr, Value,
    common::ast::{EntryExpr, Expr},
};

use crate::{Code, Refusal};

/// A compiled filter. It sees `key`, `topic`, `id`, `content_type` (text), `headers` (a map of text)
/// and `payload` (the parsed JSON; `null` if the payload is not JSON).
pub struct Filter {
    source: String,
    expression: IdedExpr,
}

/// What a filter is evaluated over. The payload is parsed once per message, however many filters look.
#[derive(Debug)]
pub struct FilterInput<'a> {
    /// The message id.
    pub id: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// The key.
    pub key: &'a str,
    /// The content type.
    pub content_type: &'a str,
    /// The headers.
    pub headers: &'a BTreeMap<String, String>,
    /// The payload, parsed; [`serde_json::Value::Null`] where it is not JSON.
    pub payload: &'a serde_json::Value,
}

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(cost::environment()));

/// The most characters of what a filter could not be evaluated for.
const REASON: usize = 200;

const VARIABLES: [&str; 6] = ["id", "topic", "key", "content_type", "headers", "payload"];

impl Filter {
    /// The longest filter, in bytes. It bounds the depth of the expression and so the stack that parsing
    /// and evaluating it need (three times as much as this fits in a thread of 2 MiB).
    pub const MAX_LEN: usize = 1024;

    /// The most steps that evaluating a filter over one message may take. A step is a value that an
    /// operation takes, each value within it one more, and each 64 bytes of a text one more.
    pub const MAX_STEPS: u64 = 1_000_000;

    /// Compiles a CEL expression.
    ///
    /// # Errors
    /// [`Code::InvalidFilter`] with the parser's own message, or the name of an unknown variable.
    pub fn new(source: &str) -> Result<Self, Refusal> {
        let refuse = |why: String| Err(Refusal::new(Code::InvalidFilter, why));
        if source.len() > Self::MAX_LEN {
            return refuse(format!("the filter has {} bytes, the limit is {}", source.len(), Self::MAX_LEN));
        }
        let mut expression = match ENVIRONMENT.parser().parse(source) {
            Ok(expression) => expression,
            Err(error) => return refuse(format!("the filter {source:?} is not a CEL expression: {error}")),
        };
        if let Some(unknown) = unknown_variable(&expression, &mut VARIABLES.to_vec()) {
            return refuse(format!(
                "the filter {source:?} uses {unknown:?}, which a message does not have; it has {}",
                VARIABLES.join(", ")
            ));
        }
        cost::metered(&mut expression);
        Ok(Self { source: source.to_owned(), expression })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the message passes.
    ///
    /// # Errors
    /// A sentence, when the expression cannot be evaluated over this message (a field is missing,
    /// types do not fit, [`Self::MAX_STEPS`] do not suffice) or yields something else than a bool. The caller decides what that means.
    pub fn matches(&self, input: &FilterInput<'_>) -> Result<bool, String> {
        thread_local!(static ROOT: RefCell<Context<'static, 'static>> = RefCell::new(Context::with_env(ENVIRONMENT.clone())));
        ROOT.with_borrow(|root| {
            let mut scope = root.new_inner_scope();
            for (name, text) in [
                ("id", input.id),
                ("topic", input.topic),
                ("key", input.key),
                ("content_type", input.content_type),
            ] {
                scope.add_variable_from_value(name, text);
            }
            let headers: HashMap<String, String> =
                input.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            scope.add_variable_from_value("headers", headers);
            scope.add_variable_from_value("payload", cel_value(input.payload));
            match cost::within(Self::MAX_STEPS, || Value::resolve(&self.expression, &scope)) {
                Some(Ok(Value::Bool(passes))) => Ok(passes),
                Some(Ok(other)) => Err(format!("the filter yields {}, not bool", other.type_of())),
                Some(Err(error)) => Err(in_words(&error)),
                None => {
                    Err(format!("the filter takes more than {} steps over this message", Self::MAX_STEPS))
                }
            }
        })
    }
}

/// What went wrong, in a line: values of the message, which may be of any length and nobody's business,
/// only by their types.
fn in_words(error: &ExecutionError) -> String {
    use ExecutionError as E;
    let text = match error {
        E::UnsupportedTargetType { target } => format!("nothing of type {} goes here", target.type_of()),
        E::NotSupportedAsMethod { method, target } => {
            format!("{method:?} is no method of {}", target.type_of())
        }
        E::UnsupportedKeyType(value) => format!("{} is no type of keys", value.type_of()),
        E::ValuesNotComparable(left, right) => {
            format!("{} and {} do not compare", left.type_of(), right.type_of())
        }
        E::UnsupportedBinaryOperator(operator, left, right) => {
            format!("{operator:?} does not work on {} and {}", left.type_of(), right.type_of())
        }
        E::UnsupportedIndex(index, value) => {
            format!("{} does not index {}", index.type_of(), value.type_of())
        }
        E::DuplicateKey(key) => format!("two keys of a map are the same {}", key.type_of()),
        other => other.to_string(),
    };
    match text.char_indices().nth(REASON) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The first variable that neither a message nor an enclosing macro (`all`, `exists`, `map`, …) defines.
fn unknown_variable<'a>(expression: &'a IdedExpr, known: &mut Vec<&'a str>) -> Option<&'a str> {
    let mut first = |parts: &[&'a IdedExpr]| parts.iter().find_map(|part| unknown_variable(part, known));
    match &expression.expr {
        Expr::Ident(name) => (!name.starts_with('@') && !known.contains(&name.as_str())).then_some(name),
        Expr::Unspecified | Expr::Literal(_) => None,
        Expr::Select(select) => first(&[&select.operand]),
        Expr::List(list) => first(&list.elements.iter().collect::<Vec<_>>()),
        Expr::Call(call) => first(&call.target.as_deref().into_iter().chain(&call.args).collect::<Vec<_>>()),
        Expr::Map(map) => {
            first(&map.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect::<Vec<_>>())
        }
        Expr::Struct(value) => {
            first(&value.entries.iter().flat_map(|entry| entry_parts(&entry.expr)).collect::<Vec<_>>())
        }
        Expr::Comprehension(comprehension) => {
            let outer = first(&[&comprehension.iter_range, &comprehension.accu_init]);
            let depth = known.len();
            known.extend([comprehension.iter_var.as_str(), comprehension.accu_var.as_str()]);
            known.extend(comprehension.iter_var2.as_deref());
            let inner = [&comprehension.loop_cond, &comprehension.loop_step, &comprehension.result];
            let inner = inner.into_iter().find_map(|part| unknown_variable(part, known));
            known.truncate(depth);
            outer.or(inner)
        }
    }
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// JSON integers become CEL ints, not uints, so that `payload.n == 5` and `payload.n - 1` mean
/// what they say.
fn cel_value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(uint)) => Value::UInt(uint),
            (None, None) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(Arc::new(text.clone())),
        serde_json::Value::Array(items) => Value::List(Arc::new(items.iter().map(cel_value).collect())),
        serde_json::Value::Object(fields) => {
            let map: HashMap<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), cel_value(value))).collect();
            Value::from(map)
        }
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({:?})", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filter: &str, payload: &str, expect: Result<bool, ()>) {
        let payload = serde_json::from_str(payload).unwrap_or(serde_json::Value::Null);
        let headers = BTreeMap::from([("region".to_owned(), "eu".to_owned())]);
        let input = FilterInput {
            id: "i1",
            topic: "orders.paid",
            key: "0007",
            content_type: "application/json",
            headers: &headers,
            payload: &payload,
        };
        let got = Filter::new(filter).unwrap().matches(&input);
        assert_eq!(got.clone().map_err(|_| ()), expect, "{filter} over {payload}: {got:?}");
    }

    #[test]
    fn filters_over_the_whole_message() {
        let order =
            r#"{"amount_cents":1250,"rate":0.5,"big":18446744073709551615,"tags":["a","b"],"note":"x"}"#;
        check("payload.amount_cents > 0", order, Ok(true));
        check("payload.amount_cents > 5000", order, Ok(false));
        check("payload.amount_cents - 250 == 1000", order, Ok(true));
        check("payload.rate < 1.0", order, Ok(true));
        check("payload.rate < 1", order, Ok(true));
        check("\"a\" in payload.tags && headers.region == \"eu\"", order, Ok(true));
        check("key.startsWith('00') && topic == 'orders.paid' && id != ''", order, Ok(true));
        check("payload.tags.exists(t, t == 'b')", order, Ok(true));
        check("payload.note.matches('^x$')", order, Ok(true));
        check("has(payload.missing)", order, Ok(false));
        check("payload.missing > 1", order, Err(()));
        check("payload.amount_cents", order, Err(()));
        check("payload == null", "not json", Ok(true));
    }

    #[test]
    fn deep_nesting_is_refused_or_evaluated_but_never_overflows_the_stack() {
        let nested = |open: &str, inner: &str, close: &str| {
            let depth = (Filter::MAX_LEN - inner.len()) / (open.len() + close.len());
            format!("{}{inner}{}", open.repeat(depth), close.repeat(depth))
        };
        for (open, inner, close) in [
            ("(", "true", ")"),
            ("!", "true", ""),
            ("[", "1", "]"),
            ("-", "1", ""),
            ("true?", "1", ":1"),
            ("1+", "1", ""),
            ("{1:", "1", "}"),
            ("", "payload", ".a"),
            ("", "payload", "[0]"),
        ] {
            let source = nested(open, inner, close);
            if let Ok(filter) = Filter::new(&source) {
                let headers = BTreeMap::new();
                let payload = serde_json::Value::Null;
                let _ = filter.matches(&FilterInput {
                    id: "",
                    topic: "",
                    key: "",
                    content_type: "",
                    headers: &headers,
                    payload: &payload,
                });
            }
        }
    }

    #[test]
    fn maps_are_gone_through_in_the_order_of_their_keys() {
        let fields = (0..40).map(|number| format!("\"k{number:02}\":{number}")).collect::<Vec<_>>();
        let payload = format!("{{{}}}", fields.join(","));
        check("payload.map(k, k)[0] == 'k00' && payload.map(k, k)[39] == 'k39'", &payload, Ok(true));
        check("{3: 'c', 1: 'a', 2: 'b'}.map(k, k) == [1, 2, 3]", "null", Ok(true));
        check("payload.filter(k, k > 'k20')[0] == 'k21'", &payload, Ok(true));
        check("payload.exists(k, payload[k] == 17)", &payload, Ok(true));
        check("headers.map(name, headers[name]) == ['eu']", "null", Ok(true));
    }

    #[test]
    fn errors_tell_types_and_no_values() {
        let error = |filter: &str, payload: &str| {
            let payload = serde_json::from_str(payload).unwrap();
            let headers = BTreeMap::new();
            Filter::new(filter)
                .unwrap()
                .matches(&FilterInput {
                    id: "i1",
                    topic: "orders.paid",
                    key: "",
                    content_type: "",
                    headers: &headers,
                    payload: &payload,
                })
                .unwrap_err()
        };
        let order = r#"{"card":"4111","l":[1],"name":"Ada"}"#;
        assert_eq!(error("payload", order), "the filter yields map, not bool");
        assert_eq!(error("payload.card", order), "the filter yields string, not bool");
        for filter in [
            "payload + 1 > 2",
            "payload < payload.l",
            "payload.l[payload]",
            "payload.name > 3",
            "-payload",
            "{payload: 1}",
        ] {
            let error = error(filter, order);
            assert!(!error.contains("4111") && !error.contains("Ada"), "{filter}: {error}");
        }
        let long = error("headers[payload]", &format!("\"{}\"", "é".repeat(1 << 20)));
        assert_eq!(long.chars().count(), REASON + 1, "{long}");
    }

    #[test]
    fn what_a_filter_costs_is_bounded_by_steps() {
        let list = |many: usize| format!("{{\"l\":[{}0]}}", "0,".repeat(many - 1));
        let pairs = "payload.l.all(a, payload.l.all(b, a == b))";
        // The list is weighed once for the outer loop and once for each of its turns; each comparison
        // takes two values.
        let steps = |many: usize| (many + 1) + many * (many + 1) + 2 * many * many;
        assert!(steps(577) <= 1_000_000 && steps(578) > 1_000_000);
        check(pairs, &list(577), Ok(true));
        check(pairs, &list(578), Err(()));
        // What gets over errors does not get over this one.
        check(&format!("{pairs} || true"), &list(578), Err(()));
        check("payload.l.exists(a, payload.l.exists(b, a != b) || a == 1)", &list(100_000), Err(()));
        check("payload.l.exists(a, payload.l == payload.m)", &list(100_000), Err(()));
        // Doubled fifty times.
        check(&format!("[\"x\"]{}.size() == 1", ".map(a, a + a)".repeat(50)), "null", Err(()));
        check(&format!("[[0]]{}.size() == 1", ".map(a, [a, a])".repeat(50)), "null", Err(()));
        // What loops take out of lists is weighed with what it holds, what they only look at is not.
        check("payload.l.size() > 100 && payload.l.exists(a, a == 0)", &list(100_000), Ok(true));
        let filter = Filter::new("payload.l.exists(a, payload.l.exists(b, a != b))").unwrap();
        assert!(format!("{filter:?}").contains("payload.l"));
    }

    #[test]
    fn regular_expressions_cost_steps_once() {
        let list = format!("{{\"l\":[{}\"x\"]}}", "\"y\",".repeat(10_000));
        check("payload.l.exists(a, a.matches('^x$')) && matches(key, '^00')", &list, Ok(true));
        check("payload.l.exists_one(a, a.matches('^x$'))", &list, Ok(true));
        check("key.matches('(')", "null", Err(()));
        // Each has another one, and each takes 20,000 steps.
        let patterns = (0..50).map(|number| format!("\"^{number}$\"")).collect::<Vec<_>>().join(",");
        check("payload.l.all(a, !key.matches(a))", &format!("{{\"l\":[{patterns}]}}"), Err(()));
    }

    #[test]
    fn regular_expressions_cost_the_more_the_larger_they_and_the_text_are() {
        let text = |bytes: usize| format!("\"{}\"", "ab".repeat(bytes / 2));
        // Some states, and thousands of them: some seconds for each mebibyte.
        check("payload.matches('a.*b.*c')", &text(16 << 20), Ok(false));
        let large = "payload.matches('((a|b){30}a){30}(a|b){100}')";
        check(large, &text(64 << 10), Ok(false));
        check(large, &text(2 << 20), Err(()));
        // As an automaton this one has 250 kB, and that one more than a mebibyte.
        check("payload.matches('(.{10}a){90}b')", &text(100), Ok(false));
        check("payload.matches('(.{10}a){900}b')", &text(100), Err(()));
    }

    #[test]
    fn bad_filters_are_refused() {
        for bad in [
            "payload.amount >",
            "",
            "nobody > 1",
            "payload.a == 'x",
            "payload.l.all(a, b)",
            &"1+".repeat(3000),
        ] {
            assert_eq!(Filter::new(bad).unwrap_err().code, Code::InvalidFilter, "{bad:?}");
        }
    }
    #[test]
    fn a_filter_has_at_most_1024_bytes() {
        let of = |bytes: usize| format!("key == '{}'", "x".repeat(bytes - 9));
        assert!(Filter::new(&of(1_024)).is_ok());
        let refusal = Filter::new(&of(1_025)).unwrap_err();
        assert!(refusal.detail.contains("1025 bytes, the limit is 1024"), "{refusal}");
    }
}

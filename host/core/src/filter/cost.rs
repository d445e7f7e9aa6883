//! What evaluating a filter may cost.
//!
//! CEL always ends, and nothing else bounds it: loops over lists of the payload that lie within each
//! other multiply, and `["x"].map(a, a + a)`, continued fifty times, makes more than any memory
//! holds. So every value is weighed, with all that it holds, each time that an operation takes it.
//!
//! Loops go over maps in the order of the keys: in another one they might come to something else, and
//! would end after other steps.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    error::Error as _,
};

use cel::{
    Env, ExecutionError,
    common::{
        ast::{CallExpr, EntryExpr, Expr, IdedExpr, operators},
        types::{CelBool, CelBytes, CelList, CelMap, CelOptional, CelString, DYN_TYPE, STRING_TYPE},
        value::{CowVal, Val},
    },
};
use regex_automata::{meta, nfa::thompson};

/// What operands pass through. No filter can name it.
const TAKEN: &str = "@taken";
/// What loops pass what they go over through.
const EACH: &str = "@each";
/// The function of regular expressions, and what stands in its place.
const MATCHES: (&str, &str) = ("matches", "@matches");
/// Bytes of a text that are a step.
const BYTES: usize = 64;
/// What the first use of a regular expression in an evaluation takes, whether it is compiled by then or
/// not, so that an evaluation comes to the same each time.
const COMPILING: u64 = 20_000;
/// The most bytes that a regular expression may have as an automaton.
const COMPILED: usize = 1 << 20;
/// States of the automaton that look at [`BYTES`] of a text in one step: where nothing better helps, each
/// looks at each byte, which takes a nanosecond or so.
const STATES: u64 = 32;
/// Compiled regular expressions that each thread keeps; an evaluation has steps for fewer.
const KEPT: usize = 64;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static EVALUATION: Cell<u64> = const { Cell::new(0) };
    static PATTERNS: RefCell<HashMap<String, Pattern>> = RefCell::default();
}

struct Pattern {
    regex: meta::Regex,
    /// Of the automaton.
    states: u64,
    /// The evaluation that used it last.
    used: u64,
}

/// CEL, with the functions that [`metered`] puts in.
pub(super) fn environment() -> Env {
    let mut env = Env::stdlib();
    let added = env
        .add_overload(TAKEN, "taken_dyn", vec![DYN_TYPE], taken)
        .and_then(|()| env.add_overload(EACH, "each_dyn", vec![DYN_TYPE], each))
        .and_then(|()| {
            env.add_overload(MATCHES.1, "matches_string", vec![STRING_TYPE, STRING_TYPE], matches)
        });
    debug_assert!(added.is_ok(), "names that the standard does not have");
    env
}

/// Evaluates something, which may take so many steps; none if they did not suffice, whatever it
/// came to: `exists` and `||` get over errors.
pub(super) fn within<T>(steps: u64, evaluate: impl FnOnce() -> T) -> Option<T> {
    LEFT.set(steps + 1);
    EVALUATION.set(EVALUATION.get() + 1);
    let result = evaluate();
    (LEFT.get() > 0).then_some(result)
}

/// Has each operation weigh what it takes.
pub(super) fn metered(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Ident(_) => {}
        Expr::Select(select) => metered(&mut select.operand),
        Expr::List(list) => list.elements.iter_mut().for_each(take),
        Expr::Map(map) => map.entries.iter_mut().for_each(|entry| take_entry(&mut entry.expr)),
        Expr::Struct(value) => value.entries.iter_mut().for_each(|entry| take_entry(&mut entry.expr)),
        Expr::Call(call) => meter_call(call),
        Expr::Comprehension(comprehension) => {
            go_over(&mut comprehension.iter_range);
            metered(&mut comprehension.accu_init);
            metered(&mut comprehension.loop_cond);
            metered(&mut comprehension.loop_step);
            metered(&mut comprehension.result);
        }
    }
}

fn meter_call(call: &mut CallExpr) {
    let CallExpr { func_name, target, args } = call;
    match func_name.as_str() {
        // These hand on what they are given, and only look at truth.
        operators::CONDITIONAL | operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT => {
            args.iter_mut().for_each(metered);
        }
        // These take the index alone.
        operators::INDEX | operators::OPT_INDEX | operators::OPT_SELECT => {
            let mut args = args.iter_mut();
            args.next().into_iter().for_each(metered);
            args.for_each(take);
        }
        name => {
            if name == MATCHES.0 && args.len() + usize::from(target.is_some()) == 2 {
                args.splice(0..0, target.take().map(|target| *target));
                MATCHES.1.clone_into(func_name);
            }
            target.iter_mut().for_each(|target| take(target));
            args.iter_mut().for_each(take);
        }
    }
}

fn take_entry(entry: &mut EntryExpr) {
    match entry {
        EntryExpr::StructField(field) => take(&mut field.value),
        EntryExpr::MapEntry(entry) => {
            take(&mut entry.key);
            take(&mut entry.value);
        }
    }
}

fn take(operand: &mut IdedExpr) {
    metered(operand);
    if may_be_large(&operand.expr) {
        pass_through(TAKEN, operand);
    }
}

fn go_over(range: &mut IdedExpr) {
    metered(range);
    if may_be_large(&range.expr) || matches!(range.expr, Expr::Map(_)) {
        pass_through(EACH, range);
    }
}

fn pass_through(function: &str, operand: &mut IdedExpr) {
    let call = CallExpr { func_name: function.to_owned(), target: None, args: vec![std::mem::take(operand)] };
    operand.expr = Expr::Call(call);
}

/// Whether it may come to more than its own length, and was not weighed when it was made.
fn may_be_large(expression: &Expr) -> bool {
    match expression {
        Expr::Unspecified | Expr::Literal(_) | Expr::List(_) | Expr::Map(_) | Expr::Struct(_) => false,
        // What macros collect in is theirs alone.
        Expr::Ident(name) => !name.starts_with('@'),
        Expr::Select(select) => !select.test,
        Expr::Comprehension(_) => true,
        Expr::Call(call) => !matches!(
            call.func_name.as_str(),
            operators::LOGICAL_AND
                | operators::LOGICAL_OR
                | operators::LOGICAL_NOT
                | operators::NOT_STRICTLY_FALSE
                | operators::EQUALS
                | operators::NOT_EQUALS
                | operators::LESS
                | operators::LESS_EQUALS
                | operators::GREATER
                | operators::GREATER_EQUALS
                | operators::IN
                | operators::NEGATE
                | operators::SUBSTRACT
                | operators::MULTIPLY
                | operators::DIVIDE
                | operators::MODULO
        ),
    }
}

fn spend(steps: u64) -> Result<(), ExecutionError> {
    let left = LEFT.get().saturating_sub(steps);
    LEFT.set(left);
    if left == 0 { Err(ExecutionError::function_error("filter", "too many steps")) } else { Ok(()) }
}

fn weigh(value: &dyn Val) -> Result<(), ExecutionError> {
    let text = |bytes: usize| spend((bytes / BYTES) as u64);
    spend(1)?;
    if let Some(list) = value.downcast_ref::<CelList>() {
        list.inner().iter().try_for_each(|value| weigh(value.as_ref()))
    } else if let Some(map) = value.downcast_ref::<CelMap>() {
        map.inner()
            .iter()
            .try_for_each(|(key, value)| weigh(key.inner()).and_then(|()| weigh(value.as_ref())))
    } else if let Some(string) = value.downcast_ref::<CelString>() {
        text(string.inner().len())
    } else if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        text(bytes.inner().len())
    } else if let Some(optional) = value.downcast_ref::<CelOptional>() {
        optional.option().map_or(Ok(()), weigh)
    } else {
        Ok(())
    }
}

fn taken<'b, 'v>(mut args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = args.pop().ok_or_else(ExecutionError::missing_argument_or_target)?;
    weigh(value.as_ref())?;
    Ok(value)
}

/// As [`taken`]; of a map the keys in their order, since CEL goes over maps in none: a filter says the same
/// of a message each time, on every machine.
fn each<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let range = taken(args)?;
    let Some(map) = range.downcast_ref::<CelMap>() else { return Ok(range) };
    let mut keys: Vec<_> = map.inner().keys().collect();
    keys.sort();
    Ok(CowVal::owned(CelList::from(
        keys.into_iter().map(|key| key.inner().clone_as_boxed()).collect::<Vec<_>>(),
    )))
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, ExecutionError> {
        let invalid = |why: String| {
            ExecutionError::function_error("matches", format!("{pattern:?} is no regular expression: {why}"))
        };
        let limited = thompson::Config::new().nfa_size_limit(Some(COMPILED));
        let automaton = thompson::Compiler::new().configure(limited).build(pattern).map_err(|error| {
            invalid(error.source().map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        let states = automaton.states().len() as u64;
        let regex = meta::Regex::new(pattern).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { regex, states, used: EVALUATION.get() })
    }

    /// Finds the pattern in a text, which was weighed as a text.
    fn is_in(&self, text: &str) -> Result<bool, ExecutionError> {
        spend((text.len() / BYTES) as u64 * (self.states / STATES))?;
        Ok(self.regex.is_match(text))
    }
}

/// As CEL's own, which compiles the regular expression each time.
fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let texts = (args.first().and_then(text_of), args.get(1).and_then(text_of));
    let (Some(text), Some(pattern)) = texts else {
        return Err(ExecutionError::missing_argument_or_target());
    };
    let now = EVALUATION.get();
    let matched = PATTERNS.with_borrow_mut(|patterns| {
        if let Some(known) = patterns.get_mut(pattern) {
            if known.used != now {
                spend(COMPILING)?;
                known.used = now;
            }
            return known.is_in(text);
        }
        spend(COMPILING)?;
        let new = Pattern::new(pattern)?;
        let matched = new.is_in(text);
        if patterns.len() >= KEPT {
            patterns.retain(|_, known| known.used == now);
        }
        patterns.insert(pattern.to_owned(), new);
        matched
    })?;
    Ok(CowVal::owned(CelBool::from(matched)))
}

fn text_of<'a>(value: &'a CowVal<'_, '_>) -> Option<&'a str> {
    value.downcast_ref::<CelString>().map(|text| text.inner())
}

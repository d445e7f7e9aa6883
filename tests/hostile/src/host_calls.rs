//! Modes that abuse the host's functions: too much, too large, malformed.

use brolly_plugin::{Failure, config, log, publish, state};

use crate::{number, topic};

/// Acts as `mode`; none if it is not one of these.
pub(crate) fn run(mode: &str) -> Option<Result<(), Failure>> {
    Some(match mode {
        "log" => many("count", 10_000, |at| {
            let bytes = number("bytes", 1_024)?;
            log::info!("{at:0bytes$}");
            Ok(())
        }),
        "log_huge" => with_text(8 << 20, |text| log::info!("{text}")),
        "publish_many" => many("count", 100_000, |at| {
            publish::Message::new(topic()).id(format!("m{at}")).text("x").send();
            Ok(())
        }),
        "publish_big" => with_text(32 << 20, |text| publish::Message::new(topic()).text(text).send()),
        "publish_field" => publish_field(),
        "bad_topic" => {
            let topic = config::get("topic").unwrap_or_else(|| "not a name!".to_owned());
            publish::Message::new(topic).text("x").send();
            Ok(())
        }
        "state_many" => many("count", 100_000, |at| {
            state::set(&format!("k{at}"), "x");
            Ok(())
        }),
        "state_big" => with_text(65_537, |text| state::set("big", text)),
        "state_many_big" => many("count", 1_000, |at| {
            state::set(&format!("k{at}"), vec![0; 60_000]);
            Ok(())
        }),
        "state_key" => with_text(513, |text| state::set(&text, "x")),
        "state_key_control" => {
            state::set("a\nb", "x");
            Ok(())
        }
        "state_key_empty" => {
            state::set("", "x");
            Ok(())
        }
        "state_list" => number("limit", 1_001).map(|limit| drop(state::page("", None, limit))),
        "bad_utf8_log" => {
            log::write(log::Level::Info, format_args!("{}", not_utf8(&[b'a', 0xff])));
            Ok(())
        }
        "bad_utf8_key" => {
            state::set(not_utf8(&[b'a', 0xff]), "x");
            Ok(())
        }
        "bad_utf8_config" => {
            drop(config::get(not_utf8(&[b'a', 0xff])));
            Ok(())
        }
        "bad_utf8_reason" => Err(Failure::reject(not_utf8(&[b'a', 0xff]))),
        "bad_pointer" => {
            state::delete(outside_memory());
            Ok(())
        }
        _ => return None,
    })
}

fn many(count: &str, default: u64, each: impl Fn(u64) -> Result<(), Failure>) -> Result<(), Failure> {
    (0..number(count, default)?).try_for_each(each)
}

fn with_text(bytes: usize, act: impl FnOnce(String)) -> Result<(), Failure> {
    act("x".repeat(number("bytes", bytes)?));
    Ok(())
}

fn publish_field() -> Result<(), Failure> {
    let text = "x".repeat(number("bytes", 1_024)?);
    let message = publish::Message::new(topic()).text("x");
    let message = match config::require("field")?.as_str() {
        "id" => message.id(text),
        "key" => message.key(text),
        "content_type" => message.bytes("x", text),
        "header" => message.header("h", text),
        other => return Err(Failure::reject(format_args!("there is no field {other:?}"))),
    };
    message.send();
    Ok(())
}

/// A text that breaks the promise of its type, to hand to the host.
fn not_utf8(bytes: &[u8]) -> &str {
    #[allow(
        unsafe_code,
        reason = "the host must survive a guest that does this; the text is only copied, never read"
    )]
    // SAFETY: not safe. The text goes to the host byte by byte; nothing in the guest looks into it.
    unsafe {
        std::str::from_utf8_unchecked(bytes)
    }
}

/// A text that begins inside of linear memory and ends far outside.
fn outside_memory() -> &'static str {
    #[allow(
        unsafe_code,
        reason = "the host must survive a guest that does this; the text is never read here"
    )]
    // SAFETY: not safe. Only the address and the length are handed to the host.
    unsafe {
        let bytes = std::slice::from_raw_parts(std::ptr::dangling::<u8>(), 0x7fff_0000);
        std::str::from_utf8_unchecked(bytes)
    }
}

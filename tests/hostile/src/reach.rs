//! Modes that reach for what lies outside: clocks, random numbers, servers.

use std::{fmt::Write, time::Duration};

use brolly_plugin::{Failure, clock, config, http, log, publish, random, state};

use crate::{number, topic};

/// Acts as `mode`; none if it is not one of these.
pub(crate) fn run(mode: &str) -> Option<Result<(), Failure>> {
    Some(match mode {
        "request" => requests(),
        "times" => times(),
        "time_loop" => loop {
            std::hint::black_box(clock::monotonic());
        },
        "dice" => dice(),
        "everything" => everything(),
        _ => return None,
    })
}

fn tell(text: impl Into<String>) {
    publish::Message::new(topic()).text(text.into()).send();
}

fn request() -> Result<http::Request, Failure> {
    let method = config::get("method").unwrap_or_else(|| "GET".to_owned());
    let mut request =
        http::Request::new(method, config::require("url")?).body(vec![b'b'; number("bytes", 0)?]);
    if let Some((name, value)) = config::get("header").as_deref().and_then(|header| header.split_once(": ")) {
        request = request.header(name, value);
    }
    if let Some(timeout) = config::parse("timeout_ms")? {
        request = request.timeout(Duration::from_millis(timeout));
    }
    Ok(request)
}

fn requests() -> Result<(), Failure> {
    for _ in 0..number("count", 1)? {
        let answer = request()?.send()?;
        let shown = config::get("show").and_then(|name| answer.header(&name).map(str::to_owned));
        tell(format!("{}\n{}\n{}", answer.status, shown.unwrap_or_default(), answer.text()?));
    }
    Ok(())
}

fn times() -> Result<(), Failure> {
    let (wall, begin) = (clock::now_ms(), clock::monotonic());
    clock::sleep(Duration::from_millis(config::parse("ms")?.unwrap_or(0)));
    tell(format!("{wall} {} {}", clock::now_ms(), (clock::monotonic() - begin).as_millis()));
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn dice() -> Result<(), Failure> {
    let mut text = String::new();
    for _ in 0..number("count", 1)? {
        text.push_str(&match number("bytes", 8)? {
            8 => hex(&random::bytes::<8>()),
            65_536 => hex(&random::bytes::<65_536>()),
            _ => hex(&random::bytes::<65_537>()),
        });
    }
    tell(text);
    Ok(())
}

fn everything() -> Result<(), Failure> {
    let seen = state::update_json("seen", |seen: &mut u64| *seen += 1)?;
    let begin = clock::monotonic();
    let answer = request()?.header("x-dice", hex(&random::bytes::<8>())).send()?;
    let took = clock::monotonic() - begin;
    log::info!("answered in {} ms", took.as_millis());
    Err(Failure::reject(format!(
        "seen {seen}, at {}, dice {:016x}, {} {}",
        clock::now_ms(),
        random::u64(),
        answer.status,
        answer.text()?
    )))
}

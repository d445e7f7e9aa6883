//! Modes that use up what the sandbox limits: time, stack and memory; and those that trap.

use std::hint::black_box;

use brolly_plugin::Failure;

use crate::number;

/// Acts as `mode`; none if it is not one of these.
pub(crate) fn run(mode: &str) -> Option<Result<(), Failure>> {
    Some(match mode {
        "loop" => loop_for_ever(),
        "loop_calls" => loop {
            black_box(brolly_plugin::config::get("mode"));
        },
        "slow" => slow(),
        "recurse" => {
            black_box(recurse(black_box(1)));
            Ok(())
        }
        "recurse_memory" => {
            black_box(recurse_memory(black_box(1)));
            Ok(())
        }
        "memory" => allocate_for_ever(),
        "memory_grow" => grow(),
        "trap" => trap(),
        "panic" => fail_loudly(),
        "overflow" => overflow(),
        _ => return None,
    })
}

fn loop_for_ever() -> ! {
    let mut n = 0_u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

fn slow() -> Result<(), Failure> {
    let rounds: u64 = number("rounds", 1_000_000)?;
    let mut n = 0_u64;
    for round in 0..rounds {
        n = black_box(n.rotate_left(5) ^ round);
    }
    Ok(())
}

/// Keeps its frame in the locals of the machine, so that the call stack is what overflows. The
/// rotation is there because the compiler would make a loop of anything simpler.
#[inline(never)]
fn recurse(n: u64) -> u64 {
    if n == u64::MAX { n } else { recurse(n + 1).rotate_left(7) ^ n }
}

/// Keeps a kilobyte in linear memory for each call.
#[inline(never)]
fn recurse_memory(n: u64) -> u64 {
    let frame = black_box([n; 128]);
    if n == u64::MAX {
        n
    } else {
        recurse_memory(n + 1).rotate_left(7) ^ frame.iter().fold(0, |all, n| all ^ n)
    }
}

fn allocate_for_ever() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1_u8; 1 << 20]));
    }
}

fn grow() -> Result<(), Failure> {
    let bytes: usize = number("bytes", 1 << 30)?;
    let mut memory: Vec<u8> = Vec::new();
    match memory.try_reserve_exact(bytes) {
        Ok(()) => {
            black_box(&mut memory);
            Ok(())
        }
        Err(error) => Err(Failure::reject(error)),
    }
}

/// The bare instruction.
pub(crate) fn trap() -> Result<(), Failure> {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort()
}

#[allow(clippy::panic, reason = "this is the mode")]
fn fail_loudly() -> Result<(), Failure> {
    panic!("hostile panic")
}

fn overflow() -> Result<(), Failure> {
    let most = black_box(u64::MAX);
    black_box(most + black_box(1));
    Ok(())
}

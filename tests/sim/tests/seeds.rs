//! Some thousand lives, in about a minute; `cargo xtask sim` lives more.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says where and stops")]

use brolly_sim::Simulation;

/// Events of a life.
const EVENTS: u32 = 300;

#[test]
fn nothing_is_lost_and_nothing_done_twice_in_thousands_of_lives() {
    let simulation = Simulation::new();
    let (mut cuts, mut handled) = (0, 0);
    for seed in 0..2_000 {
        let life = simulation.live(seed, EVENTS);
        if let Some(broken) = life.broken {
            panic!("{broken}\ntell the story with: cargo xtask sim --seed {seed}");
        }
        cuts += life.cuts;
        handled += life.handled;
    }
    // Otherwise it would prove little.
    assert!(cuts > 2_000 && handled > 50_000, "{cuts} power cuts, {handled} attempts");
}

#[test]
fn a_seed_lives_the_same_life_again() {
    let (one, other) = (Simulation::new(), Simulation::new());
    for seed in 0..40 {
        let (first, again) = (one.live(seed, EVENTS), other.live(seed, EVENTS));
        assert_eq!(first.trace, again.trace, "seed {seed}");
        assert!(first.trace.len() > 20, "seed {seed}");
    }
}

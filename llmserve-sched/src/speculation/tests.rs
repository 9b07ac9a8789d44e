//! Adaptive depth in virtual time: a batch, a cost, and drafts that are right now and then.

use std::time::Duration;

use llmserve_core::{Depth, DepthAsk, ProposalReport, SequenceId, StepReport, Verified};

use super::{AdaptiveDepth, AdaptiveDepthConfig};

/// A world: what things cost, in milliseconds, and how often a draft is right.
struct World {
    batch: usize,
    accepted: fn(sequence: usize, round: usize) -> f64,
    step: fn(tokens: usize) -> f64,
    pass: f64,
    /// What a draft model takes for each token that it has not read yet, of 64 at first.
    reading: f64,
}

/// Tokens a millisecond, with and without drafts, and whether it ended turned on.
struct Outcome {
    speedup: f64,
    on: bool,
    depths: Vec<usize>,
}

fn uniform(a: u64, b: u64) -> f64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xd1b5_4a32_d192_ed03);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

impl World {
    fn run(&self, depth: &mut AdaptiveDepth, rounds: usize) -> Outcome {
        let ms = |ms: f64| Duration::from_secs_f64(ms / 1e3);
        let mut asks: Vec<DepthAsk> = Vec::new();
        let (mut tokens, mut time) = (0, 0.0);
        // What as many steps without drafts would have taken on this machine.
        let mut without = 0.0;
        let mut depths = Vec::new();
        let mut pending: Vec<usize> = vec![0; self.batch];
        let mut unread: Vec<usize> = vec![64; self.batch];
        for round in 0..rounds {
            // The step, with what was drafted for it.
            let computed = self.batch + pending.iter().sum::<usize>();
            let mut verified = Vec::new();
            for (sequence, &drafted) in pending.iter().enumerate() {
                let share = (self.accepted)(sequence, round);
                let right =
                    |at: &usize| uniform((round * 64 + at) as u64, sequence as u64 + 1) < share;
                let accepted = (0..drafted).take_while(right).count();
                tokens += accepted + 1;
                unread[sequence] += accepted + 1;
                if drafted > 0 {
                    verified.push(Verified {
                        sequence: SequenceId::new(sequence as u32, 0),
                        drafted,
                        accepted,
                    });
                }
            }
            // A machine that is now and then slow.
            let slow = if uniform(round as u64, 0) < 0.03 {
                1.5
            } else {
                1.0
            };
            let took = (self.step)(computed) * slow;
            time += took;
            without += (self.step)(self.batch) * slow;
            depth.step(&StepReport {
                decodes: self.batch,
                tokens: computed,
                prefill: false,
                time: ms(took),
                verified: &verified,
            });
            asks.clear();
            asks.extend((0..self.batch).map(|slot| DepthAsk {
                sequence: SequenceId::new(slot as u32, 0),
                limit: 20,
                depth: 0,
            }));
            depth.choose(self.batch, &mut asks);
            let longest = asks.iter().map(|ask| ask.depth).max().unwrap_or(0);
            let wanted: usize = asks.iter().map(|ask| ask.depth).sum();
            assert!(longest <= depth.most());
            if longest > 0 {
                let asked = asks.iter().filter(|ask| ask.depth > 0);
                let read = asked.map(|ask| std::mem::take(&mut unread[ask.sequence.slot()]));
                let gap = read.sum::<usize>() as f64;
                let took = self.pass * longest as f64 + self.reading * gap;
                time += took;
                depth.proposed(&ProposalReport {
                    sequences: asks.iter().filter(|ask| ask.depth > 0).count(),
                    wanted,
                    longest,
                    drafted: wanted,
                    time: ms(took),
                });
            }
            for (slot, ask) in pending.iter_mut().zip(&asks) {
                *slot = ask.depth;
            }
            depths.push(wanted);
        }
        let plain = (self.batch * rounds) as f64 / without;
        Outcome {
            speedup: tokens as f64 / time / plain,
            on: depth.is_on(),
            depths,
        }
    }

    /// The best a fixed depth could expect.
    fn bound(&self) -> f64 {
        let share = (self.accepted)(0, 0);
        let plain = self.batch as f64 / (self.step)(self.batch);
        let rate = |depth: usize| {
            let tokens: f64 = (0..=depth).map(|at| share.powi(at as i32)).sum();
            let time = (self.step)(self.batch * (1 + depth)) + self.pass * depth as f64;
            tokens * self.batch as f64 / time / plain
        };
        (0..=8).map(rate).fold(0.0, f64::max)
    }
}

#[test]
fn alone_it_comes_near_what_acceptance_and_cost_allow() {
    for accepted in [|_, _| 0.8, |_, _| 0.6, |_, _| 0.95] as [fn(usize, usize) -> f64; 3] {
        let world = World {
            batch: 1,
            accepted,
            step: |tokens| 10.0 + 0.4 * tokens as f64,
            pass: 1.0,
            reading: 0.0,
        };
        let outcome = world.run(&mut AdaptiveDepth::default(), 600);
        let bound = world.bound();
        assert!(
            outcome.on && outcome.speedup > 0.9 * bound,
            "{} of {bound}",
            outcome.speedup
        );
    }
}

#[test]
fn in_a_batch_that_is_bound_by_arithmetic_it_stays_off() {
    let world = World {
        batch: 32,
        accepted: |_, _| 0.6,
        step: |tokens| 4.0 + 1.0 * tokens as f64,
        pass: 3.0,
        reading: 0.0,
    };
    let outcome = world.run(&mut AdaptiveDepth::default(), 300);
    assert!(!outcome.on && outcome.speedup > 0.97, "{}", outcome.speedup);
    let tries = outcome.depths.iter().filter(|wanted| **wanted > 0).count();
    assert!((2..=12).contains(&tries), "{tries}");
}

/// Whatever a target's steps cost, however good the drafts are and from the first step on: what
/// tries and mistaken turns cost is paid back or small. The machine is now and then slow.
#[test]
fn it_never_loses_much_anywhere() {
    type Costs = [(&'static str, fn(usize) -> f64, f64, f64); 5];
    let worlds: Costs = [
        (
            "weights are all",
            |tokens| 10.0 + 0.05 * tokens as f64,
            0.6,
            0.01,
        ),
        (
            "weights, then arithmetic",
            |tokens| f64::max(9.0, 0.9 * tokens as f64),
            0.8,
            0.05,
        ),
        (
            "half of each",
            |tokens| 8.0 + 0.4 * tokens as f64,
            1.2,
            0.05,
        ),
        ("arithmetic", |tokens| 1.0 + 1.0 * tokens as f64, 0.5, 0.05),
        (
            "a dear draft",
            |tokens| 8.0 + 0.4 * tokens as f64,
            4.0,
            0.25,
        ),
    ];
    let shares: [fn(usize, usize) -> f64; 6] = [
        |_, _| 0.0,
        |_, _| 0.2,
        |_, _| 0.5,
        |_, _| 0.8,
        // Half of the sequences draft well; and drafts that are good for a while.
        |sequence, _| if sequence % 2 == 0 { 0.9 } else { 0.05 },
        |_, round| if round / 200 % 2 == 0 { 0.9 } else { 0.0 },
    ];
    let mut bad = Vec::new();
    for (name, step, pass, reading) in worlds {
        for (at, accepted) in shares.into_iter().enumerate() {
            for batch in [1, 2, 4, 8, 16, 32, 64] {
                for rounds in [128, 512, 2048] {
                    let world = World {
                        batch,
                        accepted,
                        step,
                        pass,
                        reading,
                    };
                    let outcome = world.run(&mut AdaptiveDepth::default(), rounds);
                    let least = if batch >= 32 { 0.97 } else { 0.93 };
                    if outcome.speedup < least {
                        bad.push(format!(
                            "{name}, drafts {at}, {batch} sequences, {rounds} steps: {:.3}",
                            outcome.speedup
                        ));
                    }
                }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn drafts_that_are_wrong_or_dear_turn_it_off() {
    for (accepted, pass) in [(0.03, 0.5), (0.7, 12.0)] {
        let world = World {
            batch: 1,
            accepted: if accepted < 0.5 {
                |_, _| 0.03
            } else {
                |_, _| 0.7
            },
            step: |tokens| 10.0 + 0.2 * tokens as f64,
            pass,
            reading: 0.0,
        };
        let outcome = world.run(&mut AdaptiveDepth::default(), 500);
        assert!(
            !outcome.on && outcome.speedup > 0.9,
            "{pass}: {}",
            outcome.speedup
        );
    }
}

#[test]
fn it_follows_when_the_text_changes() {
    let world = World {
        batch: 1,
        accepted: |_, round| {
            if (400..900).contains(&round) {
                0.0
            } else {
                0.9
            }
        },
        step: |tokens| 10.0 + 0.4 * tokens as f64,
        pass: 1.5,
        reading: 0.0,
    };
    let mut depth = AdaptiveDepth::default();
    let outcome = world.run(&mut depth, 400);
    assert!(outcome.on);
    let all = world.run(&mut AdaptiveDepth::default(), 3000);
    let asked = |range: std::ops::Range<usize>| {
        let range = &all.depths[range];
        range.iter().sum::<usize>() as f64 / range.len() as f64
    };
    assert!(asked(200..400) > 2.0, "{}", asked(200..400));
    assert!(asked(600..900) < 0.7, "{}", asked(600..900));
    assert!(asked(2500..3000) > 2.0, "{}", asked(2500..3000));
}

#[test]
fn a_sequence_that_drafts_well_goes_deeper_than_one_that_does_not() {
    let world = World {
        batch: 4,
        accepted: |sequence, _| if sequence == 0 { 0.95 } else { 0.3 },
        step: |tokens| 10.0 + 0.5 * tokens as f64,
        pass: 0.2,
        reading: 0.0,
    };
    let mut depth = AdaptiveDepth::default();
    world.run(&mut depth, 400);
    let mut asks: Vec<DepthAsk> = (0..4)
        .map(|slot| DepthAsk {
            sequence: SequenceId::new(slot, 0),
            limit: 20,
            depth: 0,
        })
        .collect();
    // One choice in a while is for measuring without.
    depth.choose(4, &mut asks);
    if asks.iter().all(|ask| ask.depth == 0) {
        depth.choose(4, &mut asks);
    }
    assert!(asks[0].depth >= 2 + asks[1].depth, "{asks:?}");
}

#[test]
fn the_same_reports_give_the_same_depths() {
    let world = World {
        batch: 8,
        accepted: |sequence, _| 0.5 + 0.05 * sequence as f64,
        step: |tokens| 8.0 + 0.3 * tokens as f64,
        pass: 0.7,
        reading: 0.0,
    };
    let run = || world.run(&mut AdaptiveDepth::default(), 300).depths;
    assert_eq!(run(), run());
}

#[test]
fn limits_are_kept() {
    let mut depth = AdaptiveDepth::new(AdaptiveDepthConfig {
        most: 3,
        ..AdaptiveDepthConfig::default()
    });
    let world = World {
        batch: 1,
        accepted: |_, _| 0.99,
        step: |_| 10.0,
        pass: 0.1,
        reading: 0.0,
    };
    assert!(
        world
            .run(&mut depth, 200)
            .depths
            .iter()
            .all(|wanted| *wanted <= 3)
    );
    let mut none = AdaptiveDepth::new(AdaptiveDepthConfig {
        most: 0,
        ..AdaptiveDepthConfig::default()
    });
    assert!(
        world
            .run(&mut none, 50)
            .depths
            .iter()
            .all(|wanted| *wanted == 0)
    );
}

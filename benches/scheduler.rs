//! What the scheduler and the logical KV cache cost a step, on the real block manager.
//!
//! `plan` and `commit` of a step in which every running sequence decodes one token, with nobody
//! waiting and with many; of steps in which some end, as many are admitted and as many come, under
//! several policies; and the block operations beneath, in nanoseconds a block.

use std::error::Error;
use std::time::Instant;

use clap::Parser;
use llmserve::kv::PagedKv;
use llmserve::sched::{
    ContinuousScheduler, Displacing, Fairness, LongestPrefix, Priority, SchedulerBuilder,
};
use llmserve_benches::{Common, Report, median};
use llmserve_core::{
    End, IdentityRoot, KvManager, PrefixScope, RowOutcome, SchedRequest, Scheduler, SequenceId,
    StepOutcome, StepPlan, Time, TokenId,
};

/// Scheduling of a step, and block operations.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Running sequences; one row of the report each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 256, 1024])]
    running: Vec<usize>,
    /// Waiting sequences beside them; one row of the report each.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 10_000])]
    waiting: Vec<usize>,
    /// Steps of each measurement; the median counts.
    #[arg(long, default_value_t = 2000)]
    steps: usize,
    /// Blocks of a sequence in the block operations.
    #[arg(long, default_value_t = 64)]
    blocks: usize,
    /// Tokens a block holds.
    #[arg(long, default_value_t = 16)]
    block_size: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let steps = if args.common.quick {
        args.steps / 10
    } else {
        args.steps
    };
    let title = format!("plan + commit, one token a row, median of {steps} steps");
    let mut report = Report::new(&title, args.common.json);
    for &running in &args.running {
        for &waiting in &args.waiting {
            let (plan, commit) = decode(running, waiting, steps, args.block_size)?;
            let figures = [
                ("running", running.into()),
                ("waiting", waiting.into()),
                ("plan_ns", plan.into()),
                ("commit_ns", commit.into()),
                ("step_ns", (plan + commit).into()),
                ("row_ns", ((plan + commit) / running as f64).into()),
            ];
            report.row("decode step", &figures);
        }
    }
    let title = format!("admissions and ends beside it, {ENDS} a step, mean of {steps} steps");
    let mut report = Report::new(&title, args.common.json);
    let variants: [(&str, Variant); 4] = [
        ("first come, first served", |builder| builder),
        ("1,000 tenants in turns", |builder| {
            builder.fairness(Fairness::default())
        }),
        ("longest prefix", |builder| builder.policy(LongestPrefix)),
        ("displacing", |builder| builder.policy(Displacing(Priority))),
    ];
    for (name, variant) in variants {
        for &running in args.running.iter().filter(|running| **running >= 32) {
            for &waiting in &args.waiting {
                let waiting = waiting.max(ENDS);
                let [plan, commit, submit] =
                    churn(running, waiting, steps, args.block_size, variant)?;
                let figures = [
                    ("running", running.into()),
                    ("waiting", waiting.into()),
                    ("plan_ns", plan.into()),
                    ("commit_ns", commit.into()),
                    ("step_ns", (plan + commit).into()),
                    ("submit_ns", submit.into()),
                ];
                report.row(name, &figures);
            }
        }
    }
    let (sequences, rounds) = (64, steps.max(100) / 100);
    let title = format!("{} blocks of {} tokens", args.blocks, args.block_size);
    let mut report = Report::new(&title, args.common.json);
    for (name, ns) in block_operations(sequences, args.blocks, args.block_size, rounds)? {
        report.row(name, &[("block_ns", ns.into())]);
    }
    Ok(())
}

fn manager(blocks: usize, block_size: usize) -> Result<PagedKv, Box<dyn Error>> {
    let root = IdentityRoot::new(1, "bench", block_size);
    let kv = PagedKv::builder().blocks(blocks).block_size(block_size);
    Ok(kv.root(root).build()?)
}

fn id(slot: usize) -> SequenceId {
    SequenceId::new(slot as u32, 0)
}

/// A prompt that shares nothing with those of other slots.
fn prompt(slot: usize, tokens: usize) -> Vec<TokenId> {
    let mix = |at: usize| ((slot * 7919 + at) as u32).wrapping_mul(2_654_435_761);
    (0..tokens).map(mix).collect()
}

/// Median nanoseconds of `plan` and of `commit`.
fn decode(
    running: usize,
    waiting: usize,
    steps: usize,
    block_size: usize,
) -> Result<(f64, f64), Box<dyn Error>> {
    // Lengths differ, so that in every step some rows begin a block.
    let tokens = |slot: usize| 128 + slot % block_size;
    let most = 128 + block_size + steps + 16;
    let mut kv = manager(running * most.div_ceil(block_size) + running, block_size)?;
    let mut scheduler = ContinuousScheduler::builder()
        .max_num_seqs(running)
        .max_batched_tokens(running * 160)
        .max_queue(None)
        .build()?;
    for slot in 0..running + waiting {
        kv.open(
            id(slot),
            &prompt(slot, tokens(slot)),
            PrefixScope::default(),
        )?;
        // What those that run may still generate fits, or they would not all be admitted.
        scheduler.submit(SchedRequest::new(id(slot), tokens(slot), steps + 8), &kv)?;
    }
    let (mut plan, mut outcome) = (StepPlan::default(), StepOutcome::default());
    let (mut plans, mut commits) = (Vec::new(), Vec::new());
    for step in 0..steps + 4 {
        let now = Time::from_millis(step as u64);
        let began = Instant::now();
        scheduler.plan(&mut kv, now, &mut plan);
        plans.push(began.elapsed().as_nanos() as f64);
        outcome.clear();
        for row in &plan.rows {
            outcome.rows.push(RowOutcome {
                id: row.id,
                computed: row.start + row.len,
                first_token: outcome.tokens.len(),
                new_tokens: 1,
            });
            outcome.tokens.push((step * 31 + row.id.slot()) as u32);
        }
        let began = Instant::now();
        scheduler.commit(&outcome, &mut kv);
        commits.push(began.elapsed().as_nanos() as f64);
        if plan.rows.len() != running || (step > 3 && plan.tokens() != running) {
            return Err(format!("step {step} has {} rows", plan.rows.len()).into());
        }
    }
    // The first steps are prefills.
    let middle = |times: Vec<f64>| median(times.into_iter().skip(4));
    Ok((middle(plans), middle(commits)))
}

/// How a scheduler is built.
type Variant = fn(SchedulerBuilder) -> SchedulerBuilder;

/// Sequences that end, are admitted and come in each step.
const ENDS: usize = 4;

/// Mean nanoseconds of `plan`, of `commit` and of one submission where in each step four of the
/// running end, as many are admitted and as many come.
fn churn(
    running: usize,
    waiting: usize,
    steps: usize,
    block_size: usize,
    variant: Variant,
) -> Result<[f64; 3], Box<dyn Error>> {
    const TOKENS: usize = 100;
    // Each has its turn to end after as many steps as it takes the others.
    let output = running / ENDS;
    let most = (TOKENS + output).div_ceil(block_size) + 1;
    let mut kv = manager(2 * running * most, block_size)?;
    let builder = ContinuousScheduler::builder().max_num_seqs(running);
    let builder = builder
        .max_batched_tokens(running * (TOKENS + 8))
        .max_queue(None);
    let mut scheduler = variant(builder).build()?;
    let tenants: Vec<std::sync::Arc<str>> =
        (0..1000).map(|n| format!("tenant {n}").into()).collect();
    let mut generations = vec![0; running + waiting + ENDS];
    let mut submit = |scheduler: &mut ContinuousScheduler, kv: &mut PagedKv, slot: usize| {
        let generation = generations[slot];
        generations[slot] += 1;
        let id = SequenceId::new(slot as u32, generation);
        let tokens = prompt(slot + 31 * generation as usize, TOKENS);
        kv.open(id, &tokens, PrefixScope::default())?;
        let mut request = SchedRequest::new(id, TOKENS, output + 64);
        request.tenant = Some(tenants[slot % tenants.len()].clone());
        let began = Instant::now();
        scheduler.submit(request, kv)?;
        Ok::<_, Box<dyn Error>>(began.elapsed().as_nanos() as f64)
    };
    for slot in 0..running + waiting {
        submit(&mut scheduler, &mut kv, slot)?;
    }
    let mut free: Vec<usize> = (running + waiting..running + waiting + ENDS).collect();
    let mut ring = std::collections::VecDeque::new();
    let (mut plan, mut outcome) = (StepPlan::default(), StepOutcome::default());
    let mut sums = [0.0; 3];
    for step in 0..steps + 8 {
        let began = Instant::now();
        scheduler.plan(&mut kv, Time::from_millis(step as u64), &mut plan);
        let planned = began.elapsed().as_nanos() as f64;
        ring.extend(plan.admitted.iter().map(|admission| admission.id));
        outcome.clear();
        for row in &plan.rows {
            outcome.rows.push(RowOutcome {
                id: row.id,
                computed: row.start + row.len,
                first_token: outcome.tokens.len(),
                new_tokens: usize::from(row.samples),
            });
            outcome
                .tokens
                .extend(row.samples.then_some((step * 31 + row.id.slot()) as u32));
        }
        let ends = ring.drain(..ENDS.min(ring.len()));
        outcome.ended.extend(ends.map(|id| (id, End::Done)));
        let began = Instant::now();
        scheduler.commit(&outcome, &mut kv);
        let committed = began.elapsed().as_nanos() as f64;
        let mut submitted = 0.0;
        let last = free.split_off(0);
        free.extend(outcome.ended.iter().map(|(id, _)| id.slot()));
        for slot in last {
            submitted += submit(&mut scheduler, &mut kv, slot)? / ENDS as f64;
        }
        // The first steps fill the seats.
        if step >= 8 {
            if plan.admitted.len() != ENDS || !plan.preempted.is_empty() {
                return Err(format!("step {step} admits {}", plan.admitted.len()).into());
            }
            for (sum, took) in sums.iter_mut().zip([planned, committed, submitted]) {
                *sum += took / steps as f64;
            }
        }
    }
    Ok(sums)
}

/// Nanoseconds a block of each operation, the best of `rounds`.
fn block_operations(
    sequences: usize,
    blocks: usize,
    block_size: usize,
    rounds: usize,
) -> Result<Vec<(&'static str, f64)>, Box<dyn Error>> {
    let names = [
        "open: hash",
        "allocate and publish",
        "seal",
        "prefix lookup",
        "allocate, all hit",
        "release",
        "allocate, evicting",
    ];
    let mut best = [f64::INFINITY; 7];
    let tokens = blocks * block_size;
    let prompts: Vec<_> = (0..sequences)
        .map(|slot| prompt(slot, tokens + 1))
        .collect();
    let others: Vec<_> = (sequences..2 * sequences)
        .map(|slot| prompt(slot, tokens + 1))
        .collect();
    for _ in 0..rounds.max(3) {
        let mut kv = manager(sequences * (blocks + 1), block_size)?;
        let mut at = 0;
        let mut time = |run: &mut dyn FnMut(usize) -> Result<(), Box<dyn Error>>| {
            let began = Instant::now();
            for slot in 0..sequences {
                run(slot)?;
            }
            let each = began.elapsed().as_nanos() as f64 / (sequences * blocks) as f64;
            best[at] = f64::min(best[at], each);
            at += 1;
            Ok::<(), Box<dyn Error>>(())
        };
        let scope = PrefixScope::default;
        time(&mut |slot| Ok(kv.open(id(slot), &prompts[slot], scope())?))?;
        time(&mut |slot| Ok(kv.allocate(id(slot), tokens + 1).map(|_| ())?))?;
        time(&mut |slot| Ok(kv.seal(id(slot), tokens + 1)?))?;
        for slot in 0..sequences {
            kv.release(id(slot))?;
        }
        time(&mut |slot| match kv.prefix(id(slot)) {
            found if found == tokens => Ok(()),
            found => Err(format!("{found} of {tokens} tokens found").into()),
        })?;
        time(&mut |slot| Ok(kv.allocate(id(slot), tokens + 1).map(|_| ())?))?;
        time(&mut |slot| Ok(kv.release(id(slot))?))?;
        for (slot, other) in others.iter().enumerate() {
            kv.open(id(sequences + slot), other, scope())?;
        }
        time(&mut |slot| Ok(kv.allocate(id(sequences + slot), tokens + 1).map(|_| ())?))?;
    }
    Ok(names.into_iter().zip(best).collect())
}

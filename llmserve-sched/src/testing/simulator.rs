//! A simulated host and device: submits jobs, runs plans against pages it can check, commits
//! some plans later, and asserts along the way what must hold whatever is scheduled.
//!
//! A page's slot holds a hash of all tokens up to its position, so a row that reads a block with
//! anyone else's content, or with none, is caught in the step that reads it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use llmserve_core::{
    End, Fork, GroupId, KvManager, PageOp, PlannedRow, PrefixScope, RowOutcome, SchedRequest,
    Scheduler, SequenceId, StepOutcome, StepPlan, Time, TokenId,
};

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// The step in which it arrives.
    pub(crate) arrival: usize,
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) max_new: usize,
    pub(crate) choices: usize,
    pub(crate) priority: i32,
    pub(crate) max_chunk: Option<usize>,
    pub(crate) tenant: Option<u8>,
    /// Ended so many steps after its arrival, if it has not ended by itself.
    pub(crate) deadline: Option<usize>,
    /// Cancelled so many steps after its arrival.
    pub(crate) cancel: Option<usize>,
}

/// What became of the jobs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// All choices have all their tokens.
    pub(crate) finished: usize,
    pub(crate) refused: usize,
    pub(crate) cancelled: usize,
    pub(crate) expired: usize,
    /// A step with a row of it failed.
    pub(crate) failed: usize,
    pub(crate) steps: usize,
    /// Drafts that were right, and all of them.
    pub(crate) drafts: (usize, usize),
    /// The tokens of every finished choice, by job and choice.
    pub(crate) texts: BTreeMap<(usize, usize), Vec<TokenId>>,
}

#[derive(Debug)]
struct Live {
    job: usize,
    choice: usize,
    /// Tokens on the device: known ones and those in flight.
    tokens: Vec<TokenId>,
    /// Tokens committed since the prompt.
    generated: usize,
    computed: usize,
    running: bool,
    admitted_before: bool,
    /// More than one until it has forked.
    seats: usize,
    /// Plans that left it out although it could run.
    left_out: usize,
}

/// A row that was computed.
#[derive(Debug)]
struct Done {
    row: PlannedRow,
    /// What it brings: nothing, a token, or one more than drafts of it were right.
    tokens: Vec<TokenId>,
    /// Where what it wrote is valid up to.
    computed: usize,
}

type Step = Vec<Done>;

/// How the host behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manners {
    /// Plans in flight when the next is asked for.
    pub(crate) depth: usize,
    /// Without any in flight, every step whose number is divisible by this fails.
    pub(crate) fail_every: Option<usize>,
    /// Whether it offers drafts, of which one in three is wrong.
    pub(crate) drafts: bool,
}

pub(crate) struct Simulator<'a> {
    scheduler: &'a mut dyn Scheduler,
    kv: &'a mut dyn KvManager,
    jobs: Vec<Job>,
    /// Choices of each job that have not ended; none before it was accepted.
    open: Vec<Option<usize>>,
    live: BTreeMap<SequenceId, Live>,
    free: Vec<SequenceId>,
    slots: u32,
    pages: Vec<Vec<u64>>,
    report: Report,
}

/// Runs all jobs to their end.
pub(crate) fn simulate(
    scheduler: &mut dyn Scheduler,
    kv: &mut dyn KvManager,
    jobs: Vec<Job>,
    manners: Manners,
) -> Report {
    let layout = kv.layout().clone();
    let mut simulator = Simulator {
        open: vec![None; jobs.len()],
        pages: vec![vec![0; layout.block_size]; layout.blocks[0]],
        scheduler,
        kv,
        jobs,
        live: BTreeMap::new(),
        free: Vec::new(),
        slots: 0,
        report: Report::default(),
    };
    simulator.run(manners);
    simulator.report
}

impl Simulator<'_> {
    fn run(&mut self, manners: Manners) {
        let depth = manners.depth;
        let fail_every = manners.fail_every.filter(|_| depth == 0);
        let mut plan = StepPlan::default();
        let mut in_flight: VecDeque<Step> = VecDeque::new();
        let last = self.jobs.iter().map(|job| job.arrival).max().unwrap_or(0);
        // Far more than any of these workloads needs, one token at a time.
        let limit = last + 100 + 4 * self.jobs.iter().map(work).sum::<usize>();
        let (mut step, mut idle) = (0, 0);
        while step <= last || !self.live.is_empty() || !in_flight.is_empty() {
            assert!(step < limit, "not done after {step} steps: {:?}", self.live);
            self.arrivals(step);
            self.cancellations(step);
            if manners.drafts {
                self.offer(step);
            }
            self.scheduler.plan(self.kv, time(step), &mut plan);
            self.check(&plan);
            let nothing = plan.rows.is_empty() && in_flight.is_empty() && !self.live.is_empty();
            idle = if nothing { idle + 1 } else { 0 };
            assert!(
                idle < 2 + LONGEST_DELAY,
                "nothing is planned, ever: {:?}",
                self.live
            );
            if !plan.rows.is_empty() && fail_every.is_some_and(|every| step % every == every - 1) {
                self.fail(&plan);
            } else {
                let done = self.execute(&plan.rows);
                if !done.is_empty() {
                    in_flight.push_back(done);
                }
                if (in_flight.len() > depth || plan.rows.is_empty())
                    && let Some(oldest) = in_flight.pop_front()
                {
                    self.commit(oldest);
                }
            }
            step += 1;
        }
        self.report.steps = step;
        let counts = self.scheduler.counts();
        assert_eq!((counts.running, counts.waiting), (0, 0));
        assert_eq!(
            self.kv.stats().held_blocks,
            0,
            "all blocks are free at the end"
        );
    }

    /// Up to four guesses for each that decodes.
    fn offer(&mut self, step: usize) {
        for (id, live) in &self.live {
            let drafts = (step * 7 + id.slot() * 3) % 5;
            if live.running && live.seats == 1 && live.generated > 0 && drafts > 0 {
                self.scheduler.offer(*id, drafts);
            }
        }
    }

    fn sequence_id(&mut self) -> SequenceId {
        // The slot freed last is used first, so that late results meet a new owner.
        self.free.pop().unwrap_or_else(|| {
            self.slots += 1;
            SequenceId::new(self.slots - 1, 0)
        })
    }

    fn arrivals(&mut self, step: usize) {
        for job in 0..self.jobs.len() {
            if self.jobs[job].arrival != step {
                continue;
            }
            let id = self.sequence_id();
            let spec = &self.jobs[job];
            self.kv
                .open(id, &spec.prompt, PrefixScope::default())
                .expect("a fresh id");
            let mut request = SchedRequest::new(id, spec.prompt.len(), spec.max_new);
            request.choices = spec.choices;
            request.priority = spec.priority;
            request.max_chunk = spec.max_chunk;
            request.arrival = time(step);
            request.deadline = spec.deadline.map(|after| time(step + after));
            request.tenant = spec.tenant.map(|tenant| format!("tenant {tenant}").into());
            let before = self.scheduler.counts();
            if self.scheduler.submit(request, self.kv).is_err() {
                assert_eq!(self.scheduler.counts(), before, "a refusal changes nothing");
                self.kv.close(id);
                self.free.push(next_owner(id));
                self.report.refused += 1;
                continue;
            }
            self.open[job] = Some(spec.choices);
            let live = Live {
                job,
                choice: 0,
                tokens: spec.prompt.clone(),
                generated: 0,
                computed: 0,
                running: false,
                admitted_before: false,
                seats: spec.choices,
                left_out: 0,
            };
            self.live.insert(id, live);
        }
    }

    fn cancellations(&mut self, step: usize) {
        let due = |job: &Job, after: Option<usize>| {
            after.is_some_and(|after| job.arrival + after == step)
        };
        for job in 0..self.jobs.len() {
            let spec = &self.jobs[job];
            let (cancelled, expired) = (due(spec, spec.cancel), due(spec, spec.deadline));
            if (cancelled || expired) && self.open[job].take().is_some() {
                match cancelled {
                    true => self.report.cancelled += 1,
                    false => self.report.expired += 1,
                }
                self.end_now(&[job], End::Done);
            }
        }
    }

    /// Ends all sequences of some jobs, in a commit of their own.
    fn end_now(&mut self, jobs: &[usize], end: End) {
        let ids: Vec<_> = self
            .live
            .iter()
            .filter(|(_, l)| jobs.contains(&l.job))
            .map(|(id, _)| *id)
            .collect();
        let ended = ids.iter().map(|id| (*id, end)).collect();
        let outcome = StepOutcome {
            ended,
            ..StepOutcome::default()
        };
        self.scheduler.commit(&outcome, self.kv);
        for id in ids {
            self.live.remove(&id);
            self.free.push(next_owner(id));
        }
    }

    fn fail(&mut self, plan: &StepPlan) {
        let mut ops = Vec::new();
        self.kv.take_page_ops(&mut ops);
        let jobs: BTreeSet<_> = plan.rows.iter().map(|row| self.live[&row.id].job).collect();
        for row in &plan.rows {
            for position in row.start..row.start + row.len {
                *self.slot_of(row.id, position) = u64::MAX;
            }
        }
        for job in &jobs {
            self.open[*job] = None;
        }
        self.report.failed += jobs.len();
        self.end_now(&jobs.into_iter().collect::<Vec<_>>(), End::Failed);
    }

    /// What must hold of every plan.
    fn check(&mut self, plan: &StepPlan) {
        for id in &plan.preempted {
            let live = self
                .live
                .get_mut(id)
                .expect("only the living are preempted");
            assert!(live.running, "{id:?} was preempted and did not run");
            live.running = false;
            live.computed = 0;
        }
        for admission in &plan.admitted {
            let live = self
                .live
                .get_mut(&admission.id)
                .expect("only the living are admitted");
            assert!(!live.running, "{:?} was admitted twice", admission.id);
            assert_eq!(admission.resumed, live.admitted_before);
            live.running = true;
            live.admitted_before = true;
            live.computed = admission.cached_tokens;
            live.left_out = 0;
        }
        for admission in &plan.admitted {
            assert!(!plan.preempted.contains(&admission.id), "to and fro");
        }
        assert!(plan.tokens() <= self.scheduler.max_batched_tokens());
        let running = self.live.values().filter(|live| live.running);
        let (running, seats) = running.fold((0, 0), |(n, seats), l| (n + 1, seats + l.seats));
        let most = self.scheduler.max_num_seqs();
        assert!(seats <= most, "{seats} seats of {most} are taken");
        let counts = self.scheduler.counts();
        assert_eq!(
            (counts.running, counts.waiting),
            (running, self.live.len() - running)
        );

        let planned: BTreeSet<_> = plan.rows.iter().map(|row| row.id).collect();
        assert_eq!(planned.len(), plan.rows.len(), "one row a sequence");
        for (id, live) in &mut self.live {
            let max_new = self.jobs[live.job].max_new;
            let pending = live.tokens.len() - self.jobs[live.job].prompt.len() - live.generated;
            let idle = live.generated + pending >= max_new || (live.seats > 1 && pending > 0);
            let could = live.running && !idle;
            live.left_out = if could && !planned.contains(id) {
                live.left_out + 1
            } else {
                0
            };
            assert!(live.left_out <= 2 * most, "{id:?} runs and starves");
        }
    }

    fn slot_of(&mut self, id: SequenceId, position: usize) -> &mut u64 {
        let size = self.pages[0].len();
        let block = self.kv.table(id, GroupId::MAIN)[position / size];
        &mut self.pages[block.index()][position % size]
    }

    /// Runs a step on the device: page operations, writes, reads, samples.
    fn execute(&mut self, rows: &[PlannedRow]) -> Step {
        let mut ops = Vec::new();
        self.kv.take_page_ops(&mut ops);
        for op in ops {
            if let PageOp::Copy {
                from, to, slots, ..
            } = op
            {
                let copied = self.pages[from.index()][..slots].to_vec();
                self.pages[to.index()][..slots].copy_from_slice(&copied);
            }
        }
        let mut written = BTreeSet::new();
        for row in rows {
            let live = self
                .live
                .get_mut(&row.id)
                .expect("only the living have rows");
            let end = row.start + row.len;
            assert!(row.len > 0 && live.running);
            assert_eq!(
                row.start, live.computed,
                "rows are contiguous with what is computed"
            );
            let known = end - row.drafts;
            assert!(known <= live.tokens.len());
            assert_eq!(row.samples, known == live.tokens.len());
            assert!(row.drafts == 0 || (row.samples && row.len == 1 + row.drafts));
            assert!(row.len <= self.jobs[live.job].max_chunk.unwrap_or(usize::MAX));
            live.computed = known;
            let hashes = prefix_hashes(&with_guesses(live, row.drafts));
            for (position, hash) in hashes.iter().enumerate().take(end).skip(row.start) {
                let slot = self.slot_of(row.id, position);
                *slot = *hash;
                assert!(
                    written.insert(std::ptr::from_mut(slot) as usize),
                    "two rows, one slot"
                );
            }
        }
        let mut step = Step::new();
        for row in rows {
            let guessed = with_guesses(&self.live[&row.id], row.drafts);
            let hashes = prefix_hashes(&guessed);
            for (position, hash) in hashes.iter().enumerate().take(row.start + row.len) {
                let found = *self.slot_of(row.id, position);
                assert_eq!(found, *hash, "{:?} reads position {position}", row.id);
            }
            let live = self.live.get_mut(&row.id).expect("checked above");
            let before = live.tokens.len();
            let mut goes_on = row.samples;
            while goes_on {
                let token = sample(&live.tokens, live.choice);
                live.tokens.push(token);
                // The token after a draft that was right counts as well.
                goes_on = guessed.get(live.tokens.len() - 1) == Some(&token);
            }
            let tokens = live.tokens[before..].to_vec();
            let right = tokens.len().saturating_sub(1);
            live.computed += right;
            self.report.drafts.0 += right;
            self.report.drafts.1 += row.drafts;
            step.push(Done {
                row: *row,
                tokens,
                computed: live.computed,
            });
        }
        step
    }

    fn commit(&mut self, step: Step) {
        let mut outcome = StepOutcome::default();
        for done in step {
            let (row, new_tokens) = (done.row, done.tokens.len());
            outcome.rows.push(RowOutcome {
                id: row.id,
                computed: done.computed,
                first_token: outcome.tokens.len(),
                new_tokens,
            });
            outcome.tokens.extend(done.tokens);
            // A late result is told all the same.
            if new_tokens == 0 || !self.live.contains_key(&row.id) {
                continue;
            }
            self.forks(&row, &mut outcome);
            self.live
                .entry(row.id)
                .and_modify(|live| live.generated += new_tokens);
            self.end_if_complete(row.id, &mut outcome);
        }
        self.scheduler.commit(&outcome, self.kv);
        for (id, _) in outcome.ended {
            self.free.push(next_owner(id));
        }
    }

    fn forks(&mut self, row: &PlannedRow, outcome: &mut StepOutcome) {
        let parent = &self.live[&row.id];
        let (job, seats, running) = (parent.job, parent.seats, parent.running);
        let prompt = self.jobs[job].prompt.clone();
        for choice in 1..seats {
            let mut tokens = prompt.clone();
            tokens.push(sample(&prompt, choice));
            let token = tokens[prompt.len()];
            if token.is_multiple_of(4) {
                // Ended at once: no fork.
                self.open[job] = self.open[job].map(|open| open - 1);
                continue;
            }
            let child = self.sequence_id();
            let max_new_tokens = self.jobs[job].max_new - 1;
            let parent = row.id;
            outcome.forks.push(Fork {
                parent,
                child,
                tokens: vec![token],
                max_new_tokens,
            });
            let live = Live {
                job,
                choice,
                tokens,
                generated: 1,
                computed: if running { row.start + row.len } else { 0 },
                running,
                admitted_before: true,
                seats: 1,
                left_out: 0,
            };
            self.live.insert(child, live);
            self.end_if_complete(child, outcome);
        }
        self.live.entry(row.id).and_modify(|live| live.seats = 1);
    }

    fn end_if_complete(&mut self, id: SequenceId, outcome: &mut StepOutcome) {
        let live = &self.live[&id];
        let job = &self.jobs[live.job];
        assert!(live.generated <= job.max_new);
        if live.generated < job.max_new {
            return;
        }
        assert_eq!(
            live.tokens.len(),
            job.prompt.len() + job.max_new,
            "not a token too many"
        );
        let (job, key) = (live.job, (live.job, live.choice));
        outcome.ended.push((id, End::Done));
        if let Some(live) = self.live.remove(&id) {
            let text = live.tokens[self.jobs[job].prompt.len()..].to_vec();
            assert!(self.report.texts.insert(key, text).is_none(), "ended twice");
        }
        self.open[job] = self.open[job].map(|open| open - 1);
        if self.open[job] == Some(0) {
            self.open[job] = None;
            self.report.finished += 1;
        }
    }
}

/// A step takes a millisecond.
fn time(step: usize) -> Time {
    Time::from_millis(step as u64)
}

/// Steps for which newcomers are held back at most.
pub(crate) const LONGEST_DELAY: usize = 4;

fn work(job: &Job) -> usize {
    (job.prompt.len() + job.max_new) * job.choices
}

/// The tokens of one, and as many guesses for what follows them: one in three is wrong.
fn with_guesses(live: &Live, drafts: usize) -> Vec<TokenId> {
    let mut tokens = live.tokens.clone();
    for _ in 0..drafts {
        let right = sample(&tokens, live.choice);
        let wrong = (tokens.len() + right as usize).is_multiple_of(3);
        tokens.push(right + TokenId::from(wrong));
    }
    tokens
}

fn next_owner(id: SequenceId) -> SequenceId {
    SequenceId::new(id.slot() as u32, id.generation() + 1)
}

/// FNV-1a over the tokens up to each position.
fn prefix_hashes(tokens: &[TokenId]) -> Vec<u64> {
    let step = |hash: &mut u64, token: &TokenId| {
        *hash = (*hash ^ u64::from(*token)).wrapping_mul(0x0100_0000_01b3);
        Some(*hash)
    };
    tokens.iter().scan(0xcbf2_9ce4_8422_2325, step).collect()
}

/// A pure function of the tokens and the choice, as sampling is.
fn sample(tokens: &[TokenId], choice: usize) -> TokenId {
    let last = prefix_hashes(tokens).last().copied().unwrap_or(0);
    ((last ^ (choice as u64) << 7) >> 5) as TokenId % 97
}

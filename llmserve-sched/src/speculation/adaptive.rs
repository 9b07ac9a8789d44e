//! As many drafts as pay, and none where none do.
//!
//! ```text
//!                 1 + a + a² + … + aᵏ            a: how often a draft is accepted
//!  rate(k) = ─────────────────────────────
//!             step(rows · (1 + k)) + k·pass       both measured while serving
//! ```
//!
//! The rate is that of the whole batch: beside few others a row of drafts costs a step little,
//! beside many it costs as much as decoding them would. The best k is taken, and each sequence
//! then goes as deep as its own acceptance carries it. While nothing pays, speculation is off, and
//! now and then a few sequences try whether it would: the dearer the last try was, the later the
//! next, so that tries together cost no more than a given share of the time.

use llmserve_core::{
    Depth, DepthAsk, MAX_DRAFT_DEPTH, ProposalReport, SequenceId, StepReport, Verified,
};
use serde::{Deserialize, Serialize};

use super::cost::Curve;

/// Options of [`AdaptiveDepth`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptiveDepthConfig {
    /// Most drafts of a sequence; 8 by default.
    pub most: usize,
    /// How much better than none drafts must look before speculation turns itself on; 1.05 by
    /// default. It turns off below 1.
    pub margin: f64,
    /// Steps of speculation after which one step goes without, to know what that costs by now; 64
    /// by default.
    pub recheck: u32,
    /// The share of time that tries may cost while speculation is off, 0.015 by default: after one
    /// that cost as much as three steps, 200 go by before the next. The first comes at once.
    pub tries: f64,
}

impl Default for AdaptiveDepthConfig {
    fn default() -> Self {
        Self {
            most: 8,
            margin: 1.05,
            recheck: 64,
            tries: 0.015,
        }
    }
}

/// Rounds of a try: the first lets a draft model read what it has missed.
const TRY: u32 = 2;
/// Least steps from a try that failed to the next, and most.
const PAUSES: (f64, f64) = (32.0, 1e6);
/// Steps of speculation of which one goes deeper.
const PROBE: u32 = 16;
/// Steps after which what was made of them is looked at.
const LOOK: u32 = 12;
/// Sequences that a try begins with: a draft model has to read what each has said so far.
const FEW: usize = 2;
/// The acceptance that a try is given up without, after its first round.
const HOPE: f64 = 0.9;
/// Steps without drafts before the first try: a single one, the first of all, may be slow for
/// reasons of its own.
const FIRST: u32 = 4;
/// Steps of speculation before the first look at what a step without costs.
const SOON: u32 = 17;
/// Drafts of a sequence in a try.
const TRY_DEPTH: usize = 3;
/// What a row counts for, one row later.
const MEMORY: f64 = 0.9;
/// Drafts' worth of belief in the others' acceptance.
const PRIOR: f64 = 2.0;

/// The depth that pays most, from measured acceptance and measured cost.
///
/// It knows of time what it is told, so the same reports give the same depths.
#[derive(Clone, Debug)]
pub struct AdaptiveDepth {
    config: AdaptiveDepthConfig,
    /// By slot.
    sequences: Vec<Option<(SequenceId, Acceptance)>>,
    overall: Acceptance,
    /// Seconds of a step by its tokens.
    steps: Curve,
    /// Seconds of a drafting pass by its sequences.
    passes: Curve,
    /// Drafts that come for each that was asked for.
    coverage: f64,
    on: bool,
    /// Tokens, rows and seconds of the steps since the last look, while on.
    made: (f64, f64, f64),
    /// Steps since then.
    looked: u32,
    /// Choices since speculation was turned on or measured without.
    since: u32,
    /// Rounds left of the try at hand.
    trying: u32,
    /// Whether what is drafted and verified now is a try's.
    tried: bool,
    /// Seconds that the try at hand cost more than steps without drafts.
    spent: f64,
    /// Choices until the next try.
    pause: u32,
}

/// How often drafts were accepted lately.
#[derive(Clone, Copy, Debug, Default)]
struct Acceptance {
    accepted: f64,
    judged: f64,
}

impl Acceptance {
    /// A row was verified: what comes after the first wrong draft was not judged.
    fn learn(&mut self, verified: &Verified, memory: f64) {
        let judged = verified.drafted.min(verified.accepted + 1);
        self.accepted = self.accepted * memory + verified.accepted as f64;
        self.judged = self.judged * memory + judged as f64;
    }

    fn fade(&mut self, memory: f64) {
        self.accepted *= memory;
        self.judged *= memory;
    }

    /// The share accepted, drawn towards `prior` while little is known.
    fn share(&self, prior: f64) -> f64 {
        ((self.accepted + PRIOR * prior) / (self.judged + PRIOR)).clamp(0.0, 0.99)
    }
}

impl Default for AdaptiveDepth {
    fn default() -> Self {
        Self::new(AdaptiveDepthConfig::default())
    }
}

impl AdaptiveDepth {
    /// With these options.
    pub fn new(config: AdaptiveDepthConfig) -> Self {
        Self {
            config,
            sequences: Vec::new(),
            overall: Acceptance::default(),
            steps: Curve::default(),
            passes: Curve::default(),
            coverage: 1.0,
            on: false,
            made: (0.0, 0.0, 0.0),
            looked: 0,
            since: 0,
            trying: 0,
            tried: false,
            spent: 0.0,
            pause: FIRST,
        }
    }

    /// Whether drafts are asked for because they pay, tries aside.
    pub fn is_on(&self) -> bool {
        self.on
    }

    fn acceptance(&self, id: SequenceId) -> f64 {
        let prior = self.overall.share(0.5);
        match self.sequences.get(id.slot()) {
            Some(Some((owner, own))) if *owner == id => own.share(prior),
            _ => prior,
        }
    }

    /// The best depth for all where a drafting pass takes `pass` seconds, its rate in tokens a
    /// second, and that without drafts. None before a step without drafts was measured.
    fn best(&self, decodes: usize, accepted: &[f64], pass: f64) -> Option<(usize, f64, f64)> {
        let plain = self.steps.at(decodes)?;
        let without = decodes as f64 / plain.max(1e-12);
        let mut best = (0, without);
        let (mut tokens, mut powers) = (decodes as f64, accepted.to_vec());
        for depth in 1..=self.most() {
            for (power, accepted) in powers.iter_mut().zip(accepted) {
                tokens += *power * self.coverage;
                *power *= accepted;
            }
            let drafts = (depth * accepted.len()) as f64 * self.coverage;
            let step = self.steps.at(decodes + drafts.round() as usize)?;
            let rate = tokens / (step + pass * depth as f64).max(1e-12);
            if rate > best.1 {
                best = (depth, rate);
            }
        }
        Some((best.0, best.1, without))
    }

    /// How deep one sequence goes while the batch makes `rate` tokens a second.
    fn own_depth(&self, decodes: usize, asks: usize, depth: usize, rate: f64, share: f64) -> usize {
        let drafts = ((depth * asks) as f64 * self.coverage).max(1.0);
        let step = |tokens| self.steps.at(tokens).unwrap_or(0.0);
        let verify = (step(decodes + drafts.round() as usize) - step(decodes)).max(0.0) / drafts;
        let draft = self.passes.at(asks).unwrap_or(0.0) / asks as f64;
        // The n-th draft brings shareⁿ tokens and costs what would have brought this many.
        let cost = rate * (verify + draft);
        let (mut own, mut gain) = (0, share);
        // No deeper than where costs were weighed, or nearly: beyond they are guesses.
        while own < self.most().min(depth + 2) && gain > cost {
            own += 1;
            gain *= share;
        }
        own
    }

    /// Seconds by which the steps since the last look took longer than steps without drafts would
    /// have for the same tokens; less than nothing if they did not. What was expected is one thing.
    fn lost(&mut self) -> f64 {
        let (tokens, rows, seconds) = std::mem::take(&mut self.made);
        let steps = f64::from(std::mem::take(&mut self.looked));
        match self.steps.at((rows / steps.max(1.0)).round() as usize) {
            Some(plain) if rows > 0.0 => seconds - tokens * plain * steps / rows,
            _ => 0.0,
        }
    }

    /// Whether drafts that are right nearly always would pay, for all that is known of costs.
    fn could_pay(&self, decodes: usize, asks: usize) -> bool {
        // A pass of many is hardly dearer than what one of few was.
        let pass = self.passes.at(asks.min(FEW)).unwrap_or(0.0);
        let best = self.best(decodes, &vec![HOPE; asks], pass);
        best.is_none_or(|(depth, rate, without)| depth > 0 && rate > without * self.config.margin)
    }

    /// Puts the next try off for as long as what was lost allows.
    fn rest(&mut self, decodes: usize, lost: f64) {
        let plain = self.steps.at(decodes).unwrap_or(0.0).max(1e-12);
        let steps = lost / plain / self.config.tries.max(1e-6);
        self.pause = steps.clamp(PAUSES.0, PAUSES.1) as u32;
    }

    /// Some sequences try, so that it costs little where it fails.
    fn try_some(&mut self, decodes: usize, asks: &mut [DepthAsk]) {
        let depth = TRY_DEPTH.min(self.most());
        // Two at first; then of few all, for what a pass costs them is to be known, and of many some.
        let some = match self.tried {
            false => FEW,
            true => (64 / decodes.max(1)).max(FEW),
        };
        self.trying -= 1;
        self.tried = true;
        for ask in asks.iter_mut().take(some) {
            ask.depth = depth.min(ask.limit);
        }
    }
}

impl Depth for AdaptiveDepth {
    fn most(&self) -> usize {
        self.config.most.min(MAX_DRAFT_DEPTH)
    }

    fn choose(&mut self, decodes: usize, asks: &mut [DepthAsk]) {
        if self.most() == 0 || asks.is_empty() {
            return;
        }
        let accepted: Vec<f64> = asks
            .iter()
            .map(|ask| self.acceptance(ask.sequence))
            .collect();
        for ask in asks.iter() {
            // One that goes without drafts is judged by the others after a while.
            if let Some(Some((_, own))) = self.sequences.get_mut(ask.sequence.slot()) {
                own.fade(0.99);
            }
        }
        let pass = self.passes.at(asks.len()).unwrap_or(0.0);
        let Some((depth, rate, without)) = self.best(decodes, &accepted, pass) else {
            return;
        };
        if self.trying > 0 {
            if !self.tried || self.could_pay(decodes, asks.len()) {
                return self.try_some(decodes, asks);
            }
            self.trying = 0;
        }
        let mut pays = self.overall.judged > 0.0
            && depth > 0
            && rate > without * if self.on { 1.0 } else { self.config.margin };
        if std::mem::take(&mut self.tried) {
            let spent = std::mem::take(&mut self.spent);
            if !pays {
                self.rest(decodes, spent);
            }
        }
        if self.on && (!pays || self.looked >= LOOK) {
            let lost = self.lost();
            pays = pays && lost <= 0.0;
            if !pays {
                self.rest(decodes, lost);
            }
        }
        if pays != self.on {
            self.on = pays;
            self.since = self.config.recheck.saturating_sub(SOON);
            self.made = (0.0, 0.0, 0.0);
            self.looked = 0;
        }
        if !self.on {
            match self.pause.checked_sub(1) {
                Some(left) => self.pause = left,
                None => {
                    self.trying = TRY;
                    self.try_some(decodes, asks);
                }
            }
            return;
        }
        self.since += 1;
        let stale = self.since >= self.config.recheck;
        if stale || !self.steps.knows(decodes) {
            self.since = 0;
            return;
        }
        // Deeper than seems best, now and then: what that costs may have been mistaken once.
        let further = match self.since % PROBE {
            0 => 2,
            _ => 0,
        };
        let alone = asks.len() == 1;
        let count = asks.len();
        for (ask, share) in asks.iter_mut().zip(accepted) {
            let own = match alone {
                true => depth,
                false => self.own_depth(decodes, count, depth, rate, share),
            };
            ask.depth = (own + further).min(self.most()).min(ask.limit);
        }
    }

    fn step(&mut self, report: &StepReport<'_>) {
        if !report.prefill {
            let seconds = report.time.as_secs_f64();
            self.steps.learn(report.tokens, seconds);
            if self.tried {
                let plain = self.steps.at(report.decodes).unwrap_or(seconds);
                self.spent += (seconds - plain).max(0.0);
            }
            let accepted: usize = report.verified.iter().map(|v| v.accepted).sum();
            if self.on && !report.verified.is_empty() {
                self.made.0 += (report.decodes + accepted) as f64;
                self.made.1 += report.decodes as f64;
                self.made.2 += seconds;
                self.looked += 1;
            }
        }
        for verified in report.verified {
            let slot = verified.sequence.slot();
            if slot >= self.sequences.len() {
                self.sequences.resize(slot + 1, None);
            }
            let fresh = (verified.sequence, Acceptance::default());
            let place = self.sequences[slot].get_or_insert(fresh);
            if place.0 != verified.sequence {
                *place = fresh;
            }
            place.1.learn(verified, MEMORY);
            self.overall.learn(verified, 0.98);
        }
    }

    fn proposed(&mut self, report: &ProposalReport) {
        if report.longest == 0 || report.sequences == 0 {
            return;
        }
        let came = report.drafted as f64 / report.wanted.max(1) as f64;
        // Drafts cut at a limit count as asked for; none at all is what matters.
        self.coverage = (self.coverage * 0.95 + came * 0.05).clamp(0.02, 1.0);
        if self.on {
            self.made.2 += report.time.as_secs_f64();
        } else if self.tried {
            self.spent += report.time.as_secs_f64();
        }
        if report.drafted > 0 {
            let pass = report.time.as_secs_f64() / report.longest as f64;
            // A round in which a draft model also read a prompt is not what a pass costs.
            self.passes.learn_least(report.sequences, pass);
        }
    }

    fn close(&mut self, sequence: SequenceId) {
        if let Some(place) = self.sequences.get_mut(sequence.slot())
            && place.as_ref().is_some_and(|(owner, _)| *owner == sequence)
        {
            *place = None;
        }
    }
}
